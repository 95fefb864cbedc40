"""The inputs of a call at given sizes, as tensors that stay at one place in memory."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from aoti_build.errors import InputError
from aoti_build.runtime.layouts import in_memory_format
from aoti_build.runtime.leaves import Leaf

# The shape of each tensor of a call.
Shapes = tuple[tuple[int, ...], ...]


class StaticInputs:
    """Makes the tensors that one model takes at given sizes.

    `leaves` are the tensors of a call in their order, and `dims` those of the signature.
    """

    def __init__(
        self,
        target: str,
        leaves: Sequence[Leaf],
        dims: Mapping[str, Any],
        device: torch.device,
    ) -> None:
        self._target = target
        self._leaves = leaves
        self._dims = dims
        self.device = device

    @property
    def names(self) -> list[str]:
        return [leaf.name for leaf in self._leaves]

    def shapes(self, sizes: Mapping[str, Any] | None) -> Shapes:
        """The shapes for a value of every dim. Raises `InputError` for sizes out of range."""
        values = dict(sizes or {})
        self._check(values)
        shapes = []
        for leaf in self._leaves:
            shape = []
            known = dict(leaf.fixed)
            following = dict(leaf.following)
            for axis, size in enumerate(leaf.shape):
                if axis in known:
                    shape.append(known[axis])
                elif axis in following:
                    shape.append(following[axis].at(values))
                else:
                    shape.append(values[size])
            shapes.append(tuple(shape))
        return tuple(shapes)

    def zeros(self, shapes: Shapes) -> list[Tensor]:
        """Tensors of these shapes in the layout that the model takes, filled with zeros."""
        # Inference tensors could not be written into by later calls.
        with torch.inference_mode(False):
            tensors = []
            for leaf, shape in zip(self._leaves, shapes, strict=True):
                value = torch.zeros(shape, dtype=leaf.dtype, device=self.device)
                tensors.append(in_memory_format(value, leaf.memory_format))
            return tensors

    def _check(self, values: Mapping[str, Any]) -> None:
        for name in values:
            if name not in self._dims:
                raise self._unknown(name)
        for name, dim in self._dims.items():
            low, high, step = dim["min"], dim["max"], dim["multiple_of"]
            if name not in values:
                raise self._refusal(f"a size for {name} is missing", low, high, step)
            value = values[name]
            is_integer = isinstance(value, int) and not isinstance(value, bool)
            if not is_integer or not low <= value <= high or value % step:
                raise self._refusal(f"{name} is {value!r}", low, high, step)

    def _unknown(self, name: Any) -> InputError:
        matches = difflib.get_close_matches(str(name), self._dims, n=1)
        hint = "it has no dims"
        if self._dims:
            hint = f"its dims are {', '.join(self._dims)}"
        if matches:
            hint = f"did you mean {matches[0]}?"
        return InputError(f"the model has no dim {name}", target=self._target, hint=hint)

    def _refusal(self, message: str, low: int, high: int, step: int) -> InputError:
        hint = f"it is in {low}..{high}"
        if step > 1:
            hint += f", in steps of {step}"
        return InputError(message, target=self._target, hint=hint)
