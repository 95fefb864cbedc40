"""torch.nn's own layers, where each has a snag for dynamic sizes."""

from __future__ import annotations

from entry import Entry

ENTRIES = [
    Entry(
        "transformer_encoder_layer",
        "torch",
        """
        source: torch.nn:TransformerEncoderLayer
        kwargs: {d_model: 32, nhead: 4, dim_feedforward: 64, batch_first: true}
        dims: {batch: {min: 1, max: 16}, seq: {min: 1, max: 64}}
        inputs: [{shape: [batch, seq, 32]}]
        """,
        ci=True,
    ),
    Entry(
        "lstm",
        "torch",
        """
        source: torch.nn:LSTM
        kwargs:
          input_size: 8
          hidden_size: 16
          num_layers: 2
          batch_first: true
          bidirectional: true
        dims: {batch: {min: 1, max: 16}}
        inputs: [{shape: [batch, 6, 8]}]
        """,
    ),
    Entry(
        "lstm_cell",
        "torch",
        """
        source: torch.nn:LSTMCell
        kwargs: {input_size: 8, hidden_size: 16}
        dims: {batch: {min: 1, max: 16}}
        inputs: nets.py:inputs
        """,
        """
        import torch

        def inputs(batch):
            return torch.randn(batch, 8), (torch.randn(batch, 16), torch.randn(batch, 16))
        """,
        ci=True,
    ),
    Entry(
        "gru_cell",
        "torch",
        """
        source: torch.nn:GRUCell
        kwargs: {input_size: 8, hidden_size: 16}
        dims: {batch: {min: 1, max: 16}}
        inputs: {input: {shape: [batch, 8]}, hx: {shape: [batch, 16]}}
        """,
    ),
    Entry(
        "masked_attention",
        "torch",
        """
        source: nets.py:Attention
        dims: {batch: {min: 1, max: 8}, seq: {min: 1, max: 32}}
        inputs: nets.py:inputs
        """,
        """
        import torch
        from torch import nn

        class Attention(nn.Module):
            def __init__(self):
                super().__init__()
                self.attention = nn.MultiheadAttention(16, 2, batch_first=True)

            def forward(self, x, padding):
                return self.attention(x, x, x, key_padding_mask=padding)

        def inputs(batch, seq):
            lengths = torch.randint(1, seq + 1, (batch, 1))
            return torch.randn(batch, seq, 16), torch.arange(seq)[None] >= lengths
        """,
        ci=True,
    ),
    Entry(
        "circular_convolution",
        "torch",
        """
        source: torch.nn:Conv1d
        kwargs:
          in_channels: 4
          out_channels: 8
          kernel_size: 5
          padding: 2
          padding_mode: circular
        dims: {batch: {min: 1, max: 16}, length: {min: 4, max: 64}}
        inputs: [{shape: [batch, 4, length]}]
        """,
    ),
    Entry(
        "embedding_bag",
        "torch",
        """
        source: torch.nn:EmbeddingBag
        kwargs: {num_embeddings: 100, embedding_dim: 16, mode: mean}
        dims: {batch: {min: 1, max: 32}}
        inputs: [{shape: [batch, 5], dtype: int64, high: 100}]
        """,
    ),
]
