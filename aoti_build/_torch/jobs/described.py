"""What reports say of a tensor."""

from __future__ import annotations

import torch
from msgspec.structs import replace
from torch import Tensor

from aoti_build.figures import TensorFacts


def describe(name: str, value: Tensor) -> TensorFacts:
    """Shape, dtype and statistics of one tensor. The statistics are of the finite values;
    `nonfinite` counts the others."""
    dtype = str(value.dtype).removeprefix("torch.")
    facts = TensorFacts(name=name, dtype=dtype, shape=tuple(value.shape))
    numbers = value.detach().cpu()
    if numbers.is_complex() or not numbers.numel():
        return facts
    wide = numbers.to(torch.float64).reshape(-1)
    finite = wide[torch.isfinite(wide)]
    facts = replace(facts, nonfinite=wide.numel() - finite.numel())
    if not finite.numel():
        return facts
    return replace(
        facts,
        min=float(finite.min()),
        max=float(finite.max()),
        mean=float(finite.mean()),
        std=float(finite.std(unbiased=False)),
    )
