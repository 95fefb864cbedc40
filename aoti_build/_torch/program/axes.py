"""The dims that each axis of each input follows: from the shapes in models.yaml, or found by
calling the user's callable with several sizes.

Nothing is known of a callable but what it returns. Every dim gets up to seven sizes while the
others keep their example, then dims are moved to their ends in pairs and all at once. Each size of
each tensor must be one affine expression of the dims throughout. The calls that are made later, for
the reference cases, are compared with that result as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple, TypeAlias

import torch
from torch.utils import _pytree as pytree

from aoti_build._torch.program.inputs import Call, Make, Sizes
from aoti_build.common.sizes import FORM, Size, parse
from aoti_build.errors import UsageError
from aoti_build.models_file import agreements
from aoti_build.models_file.project import ConstantInput, Dim, TensorInput

# The axes of one leaf of a call that follow dims, with their sizes.
Axes: TypeAlias = dict[int, Size]
# The shape of each leaf; None for a leaf that is not a tensor.
Shapes: TypeAlias = list[tuple[int, ...] | None]
# The name of a leaf of the call by its number.
LeafName: TypeAlias = Callable[[int], str]

_POINTS_SHOWN = 4
_MAX_DIVISOR = 64


def declared_axes(inputs: Sequence[TensorInput | ConstantInput]) -> list[Axes]:
    """For every leaf of the call, in flattened order: axis -> the size that follows dims."""
    axes: list[Axes] = []
    for entry in inputs:
        if isinstance(entry, ConstantInput):
            axes += [{} for _ in pytree.tree_leaves(entry.value)]
            continue
        dynamic = {}
        for axis, size in enumerate(entry.shape):
            if isinstance(size, str):
                dynamic[axis] = parse(size)
        axes.append(dynamic)
    return axes


def infer_axes(make: Make, dims: tuple[Dim, ...], where: str, leaf_name: LeafName) -> list[Axes]:
    """For every leaf of the call, in flattened order: axis -> the size that follows dims.

    Raises:
        UsageError: A size is not affine or cannot be exported, the structure or a rank depends on a
            dim, or a dim does not follow from the sizes.
    """
    inference = _Inference(make, dims, where, leaf_name)
    axes = [inference.axes_of(leaf) for leaf in range(len(inference.base))]
    # One dim at a time does not show a size such as a*b or max(a, b).
    inference.check_several_dims(axes)
    sizes = [size for leaf_axes in axes for size in leaf_axes.values()]
    for dim in dims:
        if not any(dim.name in size.names for size in sizes):
            raise UsageError(f"no input's size follows the dim {dim.name}", where=where)
    _check_exportable(axes, dims, where, leaf_name)
    unknown = agreements.undetermined_dims(sizes)
    if unknown:
        raise UsageError(
            f"the sizes of the inputs do not tell the dim {unknown[0]}",
            where=where,
            cause="each size that follows it follows another dim that is not known either",
            hint=f"make one axis that follows {unknown[0]} alone",
        )
    return axes


def _check_exportable(
    axes: list[Axes],
    dims: tuple[Dim, ...],
    where: str,
    leaf_name: LeafName,
) -> None:
    by_name = {dim.name: dim for dim in dims}
    for leaf, leaf_axes in enumerate(axes):
        for axis, size in leaf_axes.items():
            for complaint in agreements.size_complaints(size, by_name):
                raise UsageError(
                    f"axis {axis} of {leaf_name(leaf)} cannot be exported: {complaint}",
                    where=where,
                )


def require_axes(
    make: Make,
    axes: list[Axes],
    example: Call,
    where: str,
    leaf_name: LeafName,
) -> Make:
    """`make`, which raises `UsageError` for a call whose sizes do not follow the `axes`."""
    base = _shapes(example)

    def checked_make(sizes: Sizes, seed: int) -> Call:
        call = make(sizes, seed)
        for leaf, actual in enumerate(_shapes(call)):
            # Another structure than the example's is for the export to refuse.
            if leaf >= len(base):
                break
            base_shape = base[leaf]
            if actual is None or base_shape is None:
                continue
            expected = _shape_at(base_shape, axes[leaf], sizes)
            if actual != expected:
                point = _point(sizes)
                raise UsageError(
                    f"the sizes of {leaf_name(leaf)} are no affine expressions of the dims",
                    where=where,
                    cause=f"they are {list(actual)} where {point}, after calls with other sizes"
                    f" promised {list(expected)}",
                    hint=f"a size is {FORM}",
                )
        return call

    return checked_make


def _shape_at(base: tuple[int, ...], axes: Axes, sizes: Sizes) -> tuple[int, ...]:
    """The shape of a leaf at these sizes of the dims; `base` has the sizes that follow none."""
    shape = list(base)
    for axis, size in axes.items():
        shape[axis] = size.at(sizes)
    return tuple(shape)


def _shapes(call: Call) -> Shapes:
    shapes: Shapes = []
    for leaf in call.leaves():
        shapes.append(tuple(leaf.shape) if isinstance(leaf, torch.Tensor) else None)
    return shapes


def _point(sizes: Mapping[str, int]) -> str:
    return " and ".join(f"{dim} is {size}" for dim, size in sizes.items())


class _Point(NamedTuple):
    """The size of an axis at a size of one dim."""

    dim: int
    size: int


@dataclass
class _Inference:
    """Calls the callable, and caches the shapes of what it makes."""

    make: Make
    dims: tuple[Dim, ...]
    where: str
    leaf_name: LeafName

    def __post_init__(self) -> None:
        # By the sizes of all dims. Users' callables may be slow, and the points below coincide.
        self.cache: dict[tuple[int, ...], Shapes] = {}
        self.example = {dim.name: dim.example for dim in self.dims}
        self.base = _shapes(self.make(self.example, 0))
        self.cache[tuple(self.example.values())] = self.base

    def shapes(self, changed: Mapping[str, int]) -> Shapes:
        """The shapes for these sizes of some dims, and the example's sizes of the others."""
        sizes = {**self.example, **changed}
        key = tuple(sizes.values())
        if key not in self.cache:
            shapes = _shapes(self.make(sizes, 0))
            if len(shapes) != len(self.base):
                raise UsageError(
                    f"the structure of the inputs depends on the dim {' or '.join(changed)}",
                    where=self.where,
                )
            self.cache[key] = shapes
        return self.cache[key]

    def size(self, leaf: int, axis: int, changed: Mapping[str, int]) -> int:
        """The size of one axis. Raises `UsageError` if the tensor has another rank there."""
        shape, base = self.shapes(changed)[leaf], self.base[leaf]
        if shape is None or base is None or len(shape) != len(base):
            dims = " or ".join(changed)
            raise UsageError(
                f"how many axes {self.leaf_name(leaf)} has depends on the dim {dims}",
                where=self.where,
            )
        return shape[axis]

    def axes_of(self, leaf: int) -> Axes:
        axes = {}
        for axis in range(len(self.base[leaf] or ())):
            size = self.size_of(leaf, axis)
            if size.terms:
                axes[axis] = size
        return axes

    def size_of(self, leaf: int, axis: int) -> Size:
        """The affine expression for the size of an axis while one dim at a time is changed."""
        factors: dict[str, tuple[int, int]] = {}
        constant = self.size(leaf, axis, {})
        for dim in self.dims:
            points = []
            for value in _values_to_try(dim):
                size = self.size(leaf, axis, {dim.name: value})
                points.append(_Point(value, size))
            if not _are_on_a_line(points):
                raise self._not_affine(leaf, axis, dim, points)
            first = points[0]
            last = points[-1]
            run = last.dim - first.dim
            rise = last.size - first.size
            factors[dim.name] = rise, run
            # The constant is what is left of the size when all dims are 0.
            constant -= rise * dim.example // run
        return Size.of(factors, constant)

    def check_several_dims(self, axes: list[Axes]) -> None:
        """Raises `UsageError` if a size differs from its expression where several dims are
        changed."""
        for changed in _combined_changes(self.dims):
            for leaf, leaf_axes in enumerate(axes):
                self._check_leaf(leaf, leaf_axes, changed)

    def _check_leaf(self, leaf: int, axes: Axes, changed: Mapping[str, int]) -> None:
        base = self.base[leaf]
        if base is None:
            return
        sizes = {**self.example, **changed}
        for axis, expected in enumerate(_shape_at(base, axes, sizes)):
            actual = self.size(leaf, axis, changed)
            if actual == expected:
                continue
            reason = f"{expected} elsewhere"
            if axis in axes:
                reason = f"{axes[axis]}, which fits one dim at a time, is {expected}"
            raise UsageError(
                f"axis {axis} of {self.leaf_name(leaf)} is no affine expression of the dims",
                where=self.where,
                cause=f"it is {actual} where {_point(sizes)}, and {reason}",
                hint=f"a size is {FORM}; give this axis a dim of its own",
            )

    def _not_affine(self, leaf: int, axis: int, dim: Dim, points: Sequence[_Point]) -> UsageError:
        shown = points[:_POINTS_SHOWN]
        sizes = ", ".join(str(point.size) for point in shown)
        values = ", ".join(str(point.dim) for point in shown)
        hint = f"a size is {FORM}; give this axis a dim of its own"
        divisor = _divisor(points)
        if divisor:
            step = math.lcm(dim.multiple_of, divisor)
            hint = (
                f"if it is {dim.name}//{divisor}, set multiple_of: {step} on the dim {dim.name}, so"
                " that this is exact"
            )
        return UsageError(
            f"axis {axis} of {self.leaf_name(leaf)} is no affine expression of the dim {dim.name}",
            where=self.where,
            cause=f"it is {sizes} where {dim.name} is {values}",
            hint=hint,
        )


def _values_to_try(dim: Dim) -> list[int]:
    """Sizes of a dim in ascending order: its ends, one step inside them, the example, and the
    geometric and the arithmetic middle."""
    step = dim.multiple_of
    values = {dim.min, dim.min + step, dim.example, dim.max - step, dim.max}
    for middle in (math.isqrt(dim.min * dim.max), (dim.min + dim.max) // 2):
        values.add(max(dim.min, middle // step * step))
    return sorted(values)


def _are_on_a_line(points: Sequence[_Point]) -> bool:
    """Whether the points are on the line from the first one to the last. Exact, in integers."""
    first = points[0]
    last = points[-1]
    whole_run = last.dim - first.dim
    whole_rise = last.size - first.size
    for point in points:
        run = point.dim - first.dim
        rise = point.size - first.size
        # rise / run == whole_rise / whole_run
        if rise * whole_run != whole_rise * run:
            return False
    return True


def _combined_changes(dims: Sequence[Dim]) -> Iterator[dict[str, int]]:
    """Sizes of several dims: all at one end, and each pair at every two ends."""
    if len(dims) < 2:
        return
    yield {dim.name: dim.min for dim in dims}
    yield {dim.name: dim.max for dim in dims}
    for first, second in combinations(dims, 2):
        yield {first.name: first.min, second.name: second.max}
        yield {first.name: first.max, second.name: second.min}
        yield {first.name: first.max, second.name: second.max}


def _divisor(points: Sequence[_Point]) -> int | None:
    """The smallest q for which the sizes are ``dim // q``, rounded down or up, plus a constant;
    None if there is none."""
    for divisor in range(2, _MAX_DIVISOR + 1):
        # ``-(-dim // q)`` is the quotient rounded up.
        rests_rounded_down = {point.size - point.dim // divisor for point in points}
        rests_rounded_up = {point.size + (-point.dim) // divisor for point in points}
        if len(rests_rounded_down) == 1 or len(rests_rounded_up) == 1:
            return divisor
    return None
