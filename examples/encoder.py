"""A small transformer text encoder: what a model of your own looks like to aoti_build.

`build` is the factory that models.yaml names; its keyword arguments are models.yaml's ``kwargs``.
The model takes two keyword inputs with a dynamic batch and sequence length and returns a nested
structure.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Block(nn.Module):
    """Pre-norm self-attention and MLP."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """x: [batch, seq, width]; bias: [batch, 1, 1, seq], added to the attention scores."""
        batch, seq, width = x.shape
        qkv = self.qkv(self.norm1(x)).view(batch, seq, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        x = x + self.project(attended.transpose(1, 2).reshape(batch, seq, width))
        return x + self.mlp(self.norm2(x))


class Encoder(nn.Module):
    """Token and position embeddings, blocks, and two ways to pool."""

    def __init__(self, vocabulary: int, width: int, heads: int, layers: int, longest: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(longest, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, *, tokens: Tensor, mask: Tensor) -> dict[str, Tensor | dict[str, Tensor]]:
        """tokens: int64 [batch, seq]; mask: bool [batch, seq], True where there is a token."""
        x = self.tokens(tokens) + self.positions(
            torch.arange(tokens.shape[1], device=tokens.device)
        )
        # Finite, so that a row without any token gives numbers and not NaN.
        bias = torch.where(mask, 0.0, -1e4)[:, None, None, :]
        for block in self.blocks:
            x = block(x, bias)
        hidden = self.norm(x)
        weight = mask[..., None].to(hidden.dtype)
        mean = (hidden * weight).sum(1) / weight.sum(1).clamp(min=1.0)
        return {"hidden": hidden, "pooled": {"mean": mean, "first": hidden[:, 0]}}


def build(
    vocabulary: int = 1000, width: int = 64, heads: int = 4, layers: int = 2, longest: int = 512
) -> Encoder:
    """The encoder with random weights."""
    return Encoder(vocabulary, width, heads, layers, longest)
