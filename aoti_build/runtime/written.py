"""Inputs that a model writes into: what is written must reach the tensor that the caller gave.

Compiled code is given contiguous tensors. Of one that is not, it gets a copy, so what it writes
there is copied back after the call. Where memory is shared a write has no defined result, and the
code was not checked for it: that is refused. Only models whose manifest names such inputs come
here.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from aoti_build.errors import InputError

Copies = list[tuple[Tensor, Tensor]]


class WrittenInputs:
    """The inputs of one model that it writes into: `written` by their place among its input
    tensors, `names` of all of those."""

    def __init__(self, target: str, written: Sequence[int], names: Sequence[str]) -> None:
        self._target = target
        self._written = frozenset(written)
        self._names = names

    def made_contiguous(self, inputs: list[Tensor]) -> Copies:
        """Put a contiguous copy in the place of each input that is not; (given, copy) of each that
        is written.

        Raises `InputError` for one whose elements share memory with each other, or with another
        input."""
        self._refuse_shared(inputs)
        copies = []
        for at, given in enumerate(inputs):
            if given.is_contiguous():
                continue
            is_written = at in self._written
            if is_written and _may_overlap(given):
                raise self._refusal(at, "some of its elements are one and the same in memory")
            inputs[at] = given.contiguous()
            if is_written:
                copies.append((given, inputs[at]))
        return copies

    @staticmethod
    def copy_back(copies: Copies) -> None:
        """Give the callers' tensors what the model wrote."""
        if copies:
            # Which may also write into a parameter, or a tensor that was made in this mode.
            with torch.inference_mode():
                for given, copy in copies:
                    given.copy_(copy)

    def _refuse_shared(self, inputs: Sequence[Tensor]) -> None:
        """Refuse a written input that has an element in common with another input."""
        spans = [_span(value) for value in inputs]
        for at in self._written:
            start, end = spans[at]
            for other, (first, last) in enumerate(spans):
                apart = other == at or end <= first or last <= start
                if not apart and _common(inputs[at], inputs[other]):
                    cause = "it shares memory with another input, and one is written"
                    raise self._refusal(at, cause)

    def _refusal(self, at: int, cause: str) -> InputError:
        return InputError(
            f"input {self._names[at]}: what the model writes into it would have no defined result",
            target=self._target,
            cause=cause,
            hint="pass one with memory of its own: clone(memory_format=torch.contiguous_format)",
        )


def _span(value: Tensor) -> tuple[int, int]:
    """Where the first and behind the last byte of a tensor lies."""
    if not value.numel():
        return 0, 0
    steps = zip(value.shape, value.stride(), strict=True)
    reach = sum((size - 1) * step for size, step in steps)
    return value.data_ptr(), value.data_ptr() + (reach + 1) * value.itemsize


def _common(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors whose spans overlap have an element in common. Rows of one matrix do not,
    so each of the smaller one's elements is looked for."""
    if one.is_contiguous() and other.is_contiguous():
        return True
    if one.itemsize != other.itemsize:
        return True  # as far as that is worth knowing
    places = [value.data_ptr() + _offsets(value) * value.itemsize for value in (one, other)]
    return bool(torch.isin(places[0], places[1]).any())


def _offsets(value: Tensor) -> Tensor:
    """The place of each element, counted in elements from the first."""
    found = torch.zeros((), dtype=torch.int64)
    for size, step in zip(value.shape, value.stride(), strict=True):
        found = found.unsqueeze(-1) + torch.arange(size) * step
    return found.reshape(-1)


def _may_overlap(value: Tensor) -> bool:
    """Whether two elements may be one in memory; certain where it is not said. Every slice and
    transposition of a contiguous tensor is free of it."""
    reach = 0
    for stride, size in sorted(zip(value.stride(), value.shape, strict=True)):
        if size > 1:
            if stride <= reach:
                return True
            reach += stride * (size - 1)
    return False
