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
        """Put a contiguous copy in the place of each written input that is not; (given, copy) of
        each.

        Raises `InputError` for one whose elements share memory with each other, or with another
        input."""
        self._refuse_shared(inputs)
        copies = []
        for at in self._written:
            given = inputs[at]
            if given.is_contiguous():
                continue
            if _may_overlap(given):
                raise self._refusal(at, "some of its elements are one and the same in memory")
            inputs[at] = given.contiguous()
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
        """Compare the memory that each input surely covers: all of a contiguous one, else its first
        element."""
        spans = []
        for at, value in enumerate(inputs):
            start = value.data_ptr()
            size = value.nbytes if value.is_contiguous() else value.itemsize
            if value.numel():
                spans.append((start, start + size, at))
        end_of_any, end_of_written = 0, 0
        for start, end, at in sorted(spans):
            if start < (end_of_any if at in self._written else end_of_written):
                raise self._refusal(at, "it shares memory with another input, and one is written")
            end_of_any = max(end_of_any, end)
            if at in self._written:
                end_of_written = max(end_of_written, end)

    def _refusal(self, at: int, cause: str) -> InputError:
        return InputError(
            f"input {self._names[at]}: what the model writes into it would have no defined result",
            target=self._target,
            cause=cause,
            hint="pass one with memory of its own: clone(memory_format=torch.contiguous_format)",
        )


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
