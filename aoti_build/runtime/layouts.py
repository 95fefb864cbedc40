"""Puts tensors into the memory format that an artifact was compiled for."""

from __future__ import annotations

import torch
from torch import Tensor

from aoti_build.common.memory_formats import CONTIGUOUS, strides_of

FORMATS = {
    CONTIGUOUS: torch.contiguous_format,
    "channels_last": torch.channels_last,
    "channels_last_3d": torch.channels_last_3d,
}


def in_memory_format(value: Tensor, name: str | None) -> Tensor:
    """The tensor in the format `name`, one of `NAMES` that its rank can have.

    It is the tensor itself, a view of it, or a copy if its values are in another order. With None
    it is contiguous, and an axis of size 1 may have any stride.
    """
    view = view_in_memory_format(value, name)
    if view is not None:
        return view
    if name is None:
        return value.contiguous()
    return value.contiguous(memory_format=FORMATS[name])


def view_in_memory_format(value: Tensor, name: str | None) -> Tensor | None:
    """As `in_memory_format`, but None in place of a copy."""
    if name is None:
        return value if value.is_contiguous() else None
    strides = strides_of(value.shape, name)
    if value.stride() == strides:
        return value
    if value.numel() and value.is_contiguous(memory_format=FORMATS[name]):
        # Only the strides of axes of size 1 differ. Operators such as convolutions still look at
        # them, to choose the format of their results.
        return value.as_strided(value.shape, strides)
    return None
