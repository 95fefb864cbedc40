"""Modules that several tests call."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class Total(nn.Module):
    """Adds up what it is given, in a buffer; with a weight, so that float64 differs."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(8))
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Any) -> Any:
        self.total.add_(self.layer(x).sum(0))
        return self.total * 2
