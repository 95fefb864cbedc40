"""Inputs that a model writes into, and inputs that have a memory format.

Compiled code takes contiguous tensors, or those in the memory format that it was compiled for. Of
any other tensor it gets a copy. What a model writes must reach the caller's tensors, so writes into
a copy are copied back after the call. If inputs share memory, a write has no defined result, and
the code was not checked for that: such inputs are refused. Only models whose manifest names written
inputs or memory formats use this module.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from aoti_build.errors import InputError
from aoti_build.runtime.layouts import in_memory_format, view_in_memory_format

# Tensors of the caller, each with the copy that the model writes into.
Copies = list[tuple[Tensor, Tensor]]


class WrittenInputs:
    """The inputs of one model: the tensors `names`, of which it writes into those at the positions
    `written`. `memory_formats` has the format of each, as `in_memory_format` takes it."""

    def __init__(
        self,
        target: str,
        written: Sequence[int],
        names: Sequence[str],
        memory_formats: Sequence[str | None] = (),
    ) -> None:
        self._target = target
        self._written = frozenset(written)
        self._names = names
        self._memory_formats = memory_formats or [None] * len(names)

    def made_contiguous(self, inputs: list[Tensor]) -> Copies:
        """Replace each input that is not contiguous in its memory format by a copy; returns the
        copies to copy back.

        Raises `InputError` for a written input whose elements share memory with each other or with
        another input.
        """
        if self._written:
            self._refuse_shared(inputs)
        copies = []
        for position, original in enumerate(inputs):
            memory_format = self._memory_formats[position]
            view = view_in_memory_format(original, memory_format)
            if view is not None:
                # A write into a view is a write into the caller's memory.
                inputs[position] = view
                continue
            is_written = position in self._written
            if is_written and _may_overlap(original):
                cause = "some of its elements are one and the same in memory"
                raise self._refusal(position, cause)
            copy = in_memory_format(original, memory_format)
            inputs[position] = copy
            if is_written:
                copies.append((original, copy))
        return copies

    @staticmethod
    def copy_back(copies: Copies) -> None:
        """Copy what the model wrote into the caller's tensors."""
        if not copies:
            return
        # Only in this mode may a parameter, or a tensor that was made in it, be written into.
        with torch.inference_mode():
            for original, copy in copies:
                original.copy_(copy)

    def _refuse_shared(self, inputs: Sequence[Tensor]) -> None:
        """Refuse a written input that has an element in common with another input."""
        spans = [_span(value) for value in inputs]
        for written in self._written:
            start, end = spans[written]
            for position, (other_start, other_end) in enumerate(spans):
                if position == written or end <= other_start or other_end <= start:
                    continue
                if _have_common_element(inputs[written], inputs[position]):
                    cause = "it shares memory with another input, and one is written"
                    raise self._refusal(written, cause)

    def _refusal(self, position: int, cause: str) -> InputError:
        name = self._names[position]
        return InputError(
            f"input {name}: what the model writes into it would have no defined result",
            target=self._target,
            cause=cause,
            hint="pass one with memory of its own: clone(memory_format=torch.contiguous_format)",
        )


def _span(value: Tensor) -> tuple[int, int]:
    """The addresses of the first byte of a tensor and of the byte behind its last one."""
    if not value.numel():
        return 0, 0
    reach = 0  # elements from the first to the last one
    for size, stride in zip(value.shape, value.stride(), strict=True):
        reach += (size - 1) * stride
    start = value.data_ptr()
    return start, start + (reach + 1) * value.itemsize


def _have_common_element(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors with overlapping spans have an element in common.

    Columns of one matrix overlap without that, so the addresses of all elements are compared.
    """
    if first.is_contiguous() and second.is_contiguous():
        return True
    distance = first.data_ptr() - second.data_ptr()
    if first.itemsize != second.itemsize or distance % first.itemsize:
        # Elements may overlap in part. It could be false, but such views of one memory are rare.
        return True
    return bool(torch.isin(_addresses(first), _addresses(second)).any())


def _addresses(value: Tensor) -> Tensor:
    return value.data_ptr() + _offsets(value) * value.itemsize


def _offsets(value: Tensor) -> Tensor:
    """The distance of each element from the first one, in elements."""
    offsets = torch.zeros((), dtype=torch.int64)
    for size, stride in zip(value.shape, value.stride(), strict=True):
        steps = torch.arange(size) * stride
        offsets = offsets.unsqueeze(-1) + steps
    return offsets.reshape(-1)


def _may_overlap(value: Tensor) -> bool:
    """Whether two elements of a tensor may be one in memory.

    Never True for a slice or transposition of a contiguous tensor. It can be True for a tensor
    with unusual strides although no elements overlap.
    """
    reach = 0  # of the axes so far, in elements
    for stride, size in sorted(zip(value.stride(), value.shape, strict=True)):
        if size > 1:
            if stride <= reach:
                return True
            reach += stride * (size - 1)
    return False
