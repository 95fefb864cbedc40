"""The memory formats of a model's weights and inputs.

A format is a key of `RANKS`, or None for contiguous. The strides of an input are part of the
compiled code. The signature therefore has the format of each input. Reference data and files have
the values alone, and so their tensors get the format again before a package is called.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from aoti_build.artifact.manifest import tensor_inputs
from aoti_build.common.memory_formats import (
    CONTIGUOUS,
    RANKS,
    applied_format,
    strides_of,
)
from aoti_build.errors import UsageError
from aoti_build.models_file.project import Model
from aoti_build.runtime.layouts import FORMATS, in_memory_format, view_in_memory_format


def format_of(value: Tensor) -> str | None:
    """The format that a tensor has. None also for strides that are those of no format."""
    if not value.numel() or not _is_plain(value):
        return None
    for name, rank in RANKS.items():
        if value.dim() != rank or value.stride() != strides_of(value.shape, name):
            continue
        # Both orders have the same strides if all axes but the first are 1 long.
        if value.stride() != strides_of(value.shape, CONTIGUOUS):
            return name
    return None


def with_default_format(value: Tensor, name: str | None) -> Tensor:
    """A tensor of the user's callable in the format `name` of its model.

    Without one, or if it is for tensors of another rank, it keeps its own format. Strides of no
    format are replaced, because the loader makes other tensors contiguous.
    """
    if not _is_plain(value) or not value.numel():
        return value
    if name is None:
        nearest = _nearest_format(value)
        if value.stride() == strides_of(value.shape, nearest):
            return value
        return copied_to_format(value, nearest)
    if name != CONTIGUOUS and RANKS[name] != value.dim():
        return value
    return copied_to_format(value, name)


def _nearest_format(value: Tensor) -> str:
    """The format of a tensor, or the one that has its values in the same order."""
    own = format_of(value)
    if own is not None:
        return own
    if not value.is_contiguous():
        for name, rank in RANKS.items():
            if value.dim() == rank and value.is_contiguous(memory_format=FORMATS[name]):
                return name
    return CONTIGUOUS


def copied_to_format(value: Tensor, name: str | None) -> Tensor:
    """A copy in the format `name`. It has memory of its own, so that torch.export sees no view."""
    with torch.no_grad():
        laid_out = in_memory_format(value, name)
        copy = torch.empty_strided(
            tuple(laid_out.shape),
            laid_out.stride(),
            dtype=value.dtype,
            device=value.device,
        )
        return copy.copy_(laid_out)


def in_signature_formats(tensors: Sequence[Tensor], signature: Mapping[str, Any]) -> list[Tensor]:
    """The input tensors of a call as the loader passes them to the package, if they are contiguous.

    Those of which the signature has no format keep the order of their values.
    """
    entries = tensor_inputs(signature)
    laid_out = list(tensors)
    # The package refuses another number of tensors.
    for index, (entry, value) in enumerate(zip(entries, tensors, strict=False)):
        memory_format = applied_format(entry.get("memory_format"), value.dim())
        if memory_format is not None:
            laid_out[index] = in_memory_format(value, memory_format)
            continue
        view = view_in_memory_format(value, CONTIGUOUS)
        if view is not None:
            laid_out[index] = view
    return laid_out


def convert_weights(module: torch.nn.Module, name: str) -> int:
    """Give the parameters and buffers of the fitting rank the format `name`, as `module.to` does.
    Returns how many there are.

    Other than `module.to`, it leaves tensors of other ranks alone: torch refuses to convert a
    module that has weights of 4 and of 5 dimensions.
    """
    count = 0
    for value in [*module.parameters(), *module.buffers()]:
        if not _is_plain(value):
            continue
        if name != CONTIGUOUS and RANKS[name] != value.dim():
            continue
        count += 1
        # A weight that needs no other strides may share its memory, and goes on to do so.
        if value.stride() != strides_of(value.shape, name):
            # The tensor stays the same object, so tied weights stay tied.
            value.data = copied_to_format(value.data, name)
    return count


def refuse_without_effect(
    model: Model,
    weights: int,
    inputs: Sequence[Tensor],
    where: str,
) -> None:
    """Raise `UsageError` if the model's memory format is the format of nothing: of none of
    `weights` weights and of no input."""
    name = model.memory_format
    if name is None or name == CONTIGUOUS or weights:
        return
    # An input of this rank may have a format of its own.
    if any(format_of(value) == name for value in inputs):
        return
    raise UsageError(
        f"memory_format: {name} changes nothing",
        where=where,
        cause=f"no weight and no input has {RANKS[name]} dimensions",
        hint="remove it, or name the format for another number of dimensions",
    )


def _is_plain(value: Tensor) -> bool:
    """Whether a tensor has strides of its own. Sparse and quantised ones have not."""
    return value.layout == torch.strided and not hasattr(value, "__tensor_flatten__")
