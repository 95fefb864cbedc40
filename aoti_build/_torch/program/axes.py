"""Which axis of which input follows which dims: read from the shapes in models.yaml, or found by
calling the user's callable with several sizes.

Of a callable nothing is known but what it returns. Every dim is given up to seven sizes while the
others keep their example, then dims are moved to their ends in pairs and all at once; each size of
each tensor must be one affine expression of the dims throughout. What the callable makes later, for
the reference cases, is held against that as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TypeAlias

import torch
from torch.utils import _pytree as pytree

from aoti_build._torch.program.inputs import Call, Make, Sizes
from aoti_build.common.sizes import FORM, Size, parse
from aoti_build.errors import UsageError
from aoti_build.models_file import agreements
from aoti_build.models_file.project import ConstantInput, Dim, TensorInput

Axes: TypeAlias = dict[int, Size]
Shapes: TypeAlias = list[tuple[int, ...] | None]
# The name of a leaf of the call by its number.
Name: TypeAlias = Callable[[int], str]

_SHOWN = 4
_LARGEST_DIVISOR = 64


def declared_axes(inputs: Sequence[TensorInput | ConstantInput]) -> list[Axes]:
    """For every leaf of the call, in flattened order: axis -> the size that follows dims."""
    return [found for entry in inputs for found in _of_input(entry)]


def _of_input(entry: TensorInput | ConstantInput) -> list[Axes]:
    if isinstance(entry, ConstantInput):
        return [{} for _ in pytree.tree_leaves(entry.value)]
    return [{axis: parse(size) for axis, size in enumerate(entry.shape) if isinstance(size, str)}]


def found_axes(make: Make, dims: tuple[Dim, ...], where: str, name: Name) -> list[Axes]:
    """For every leaf of the call, in flattened order: axis -> the size that follows dims.

    Raises `UsageError` for a size that is not affine, one that cannot be exported, a structure or a
    rank that depends on a dim, and a dim that no size tells.
    """
    finder = _Finder(make, dims, where, name)
    axes = [finder.axes_of(index) for index in range(len(finder.base))]
    finder.check_together(axes)
    sizes = [size for found in axes for size in found.values()]
    for dim in dims:
        if not any(dim.name in size.names for size in sizes):
            raise UsageError(f"no input's size follows the dim {dim.name}", where=where)
    by_name = {dim.name: dim for dim in dims}
    for index, found in enumerate(axes):
        for axis, size in found.items():
            for complaint in agreements.size_complaints(size, by_name):
                raise UsageError(
                    f"axis {axis} of {name(index)} cannot be exported: {complaint}", where=where
                )
    if untold := agreements.undetermined_dims(sizes):
        raise UsageError(
            f"the sizes of the inputs do not tell the dim {untold[0]}",
            where=where,
            cause="each size that follows it follows another dim that is not known either",
            hint=f"make one axis that follows {untold[0]} alone",
        )
    return axes


def held_to(make: Make, axes: list[Axes], example: Call, where: str, name: Name) -> Make:
    """`make`, refusing calls whose sizes are not those that the `axes` say."""
    base = _shapes(example)

    def held(sizes: Sizes, seed: int) -> Call:
        call = make(sizes, seed)
        for index, (found, shape) in enumerate(zip(axes, _shapes(call), strict=False)):
            old = base[index]
            if shape is None or old is None:
                continue
            wanted = tuple(
                found[axis].at(sizes) if axis in found else size for axis, size in enumerate(old)
            )
            if shape != wanted:
                told = " and ".join(f"{dim} is {size}" for dim, size in sizes.items())
                raise UsageError(
                    f"the sizes of {name(index)} are no affine expressions of the dims",
                    where=where,
                    cause=(
                        f"they are {list(shape)} where {told}, after calls with other sizes"
                        f" promised {list(wanted)}"
                    ),
                    hint=f"a size is {FORM}",
                )
        return call

    return held


def _shapes(call: Call) -> Shapes:
    return [tuple(leaf.shape) if isinstance(leaf, torch.Tensor) else None for leaf in call.leaves()]


@dataclass
class _Finder:
    """Calls the callable and remembers the shapes that it made."""

    make: Make
    dims: tuple[Dim, ...]
    where: str
    name: Name

    def __post_init__(self) -> None:
        self.made: dict[tuple[int, ...], Shapes] = {}
        self.example = {dim.name: dim.example for dim in self.dims}
        self.base = _shapes(self.make(self.example, 0))
        self.made[tuple(self.example.values())] = self.base

    def shapes(self, changed: Mapping[str, int]) -> Shapes:
        """What is made where the dims in `changed` have these sizes and the others their
        example's."""
        sizes = {**self.example, **changed}
        key = tuple(sizes.values())
        if key not in self.made:
            made = _shapes(self.make(sizes, 0))
            if len(made) != len(self.base):
                changing = " or ".join(changed)
                raise UsageError(
                    f"the structure of the inputs depends on the dim {changing}", where=self.where
                )
            self.made[key] = made
        return self.made[key]

    def size(self, index: int, axis: int, changed: Mapping[str, int]) -> int:
        """The size of one axis. Raises `UsageError` if the tensor has another rank there."""
        shape, base = self.shapes(changed)[index], self.base[index]
        if shape is None or base is None or len(shape) != len(base):
            raise UsageError(
                f"how many axes {self.name(index)} has depends on the dim {' or '.join(changed)}",
                where=self.where,
            )
        return shape[axis]

    def axes_of(self, index: int) -> Axes:
        found = {axis: self.size_of(index, axis) for axis in range(len(self.base[index] or ()))}
        return {axis: size for axis, size in found.items() if size.terms}

    def size_of(self, index: int, axis: int) -> Size:
        """The affine expression that the size is while one dim at a time is changed."""
        factors: dict[str, tuple[int, int]] = {}
        start = self.size(index, axis, {})
        constant = start
        for dim in self.dims:
            points = {value: self.size(index, axis, {dim.name: value}) for value in _probes(dim)}
            first, last = min(points), max(points)
            run, rise = last - first, points[last] - points[first]
            if any(
                (size - points[first]) * run != rise * (value - first)
                for value, size in points.items()
            ):
                raise self._not_affine(index, axis, dim, points)
            factors[dim.name] = rise, run
            constant -= rise * dim.example // run
        return Size.of(factors, constant)

    def check_together(self, axes: list[Axes]) -> None:
        """Raises `UsageError` if a size is something else where several dims are changed."""
        for changed in _together(self.dims):
            sizes = {**self.example, **changed}
            for index, shape in enumerate(self.base):
                for axis, old in enumerate(shape or ()):
                    size = axes[index].get(axis)
                    wanted = old if size is None else size.at(sizes)
                    if (made := self.size(index, axis, changed)) != wanted:
                        told = " and ".join(f"{name} is {value}" for name, value in sizes.items())
                        what = (
                            f"{size}, which fits one dim at a time, is {wanted}"
                            if size
                            else f"{wanted} elsewhere"
                        )
                        raise UsageError(
                            f"axis {axis} of {self.name(index)} is no affine expression of the"
                            " dims",
                            where=self.where,
                            cause=f"it is {made} where {told}, and {what}",
                            hint=f"a size is {FORM}; give this axis a dim of its own",
                        )

    def _not_affine(self, index: int, axis: int, dim: Dim, points: Mapping[int, int]) -> UsageError:
        shown = list(points.items())[:_SHOWN]
        sizes, values = (
            ", ".join(str(size) for _, size in shown),
            ", ".join(str(value) for value, _ in shown),
        )
        divisor = _divisor(points)
        hint = f"a size is {FORM}; give this axis a dim of its own"
        if divisor:
            step = math.lcm(dim.multiple_of, divisor)
            quotient = f"{dim.name}//{divisor}"
            hint = (
                f"if it is {quotient}, set multiple_of: {step} on the dim {dim.name}, so that this"
                " is exact"
            )
        return UsageError(
            f"axis {axis} of {self.name(index)} is no affine expression of the dim {dim.name}",
            where=self.where,
            cause=f"it is {sizes} where {dim.name} is {values}",
            hint=hint,
        )


def _probes(dim: Dim) -> list[int]:
    """Sizes of a dim: its ends, one step inside them, the example, and the geometric and the
    arithmetic middle."""
    step = dim.multiple_of
    middles = (math.isqrt(dim.min * dim.max), (dim.min + dim.max) // 2)
    inside = (max(dim.min, middle // step * step) for middle in middles)
    return sorted({dim.min, dim.min + step, dim.example, *inside, dim.max - step, dim.max})


def _together(dims: Sequence[Dim]) -> Iterator[dict[str, int]]:
    """Points where several dims are changed: all at one end, and each pair at every two ends."""
    if len(dims) < 2:
        return
    yield {dim.name: dim.min for dim in dims}
    yield {dim.name: dim.max for dim in dims}
    for one, other in combinations(dims, 2):
        for low, high in ((one.min, other.max), (one.max, other.min), (one.max, other.max)):
            yield {one.name: low, other.name: high}


def _divisor(points: Mapping[int, int]) -> int | None:
    """The least q for which these sizes are ``value // q``, or that rounded up, plus a constant."""
    for divisor in range(2, _LARGEST_DIVISOR + 1):
        if _constant(size - value // divisor for value, size in points.items()):
            return divisor
        if _constant(size + -value // divisor for value, size in points.items()):
            return divisor
    return None


def _constant(values: Iterable[int]) -> bool:
    return len(set(values)) == 1
