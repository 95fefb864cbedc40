"""What several fields of models.yaml must agree on: each complaint is a field and a sentence.

Nothing here imports pydantic or yaml, so that a kept project is held against the same rules.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import lcm
from typing import TYPE_CHECKING, Any

from aoti_build.common import sizes
from aoti_build.common.fields import MAX_INT
from aoti_build.models_file.rules import INTEGER_RANGES, UNORDERED
from aoti_build.models_file.wording import shown

if TYPE_CHECKING:
    from aoti_build.models_file import project, schema

Complaints = Iterator[tuple[str, str]]
SPECIALISES = "torch.export treats the sizes 0 and 1 as fixed"


def constant_complaints(wire: schema.ConstantInput) -> Complaints:
    """What is wrong with an entry that has a value: other keys describe tensors."""
    for field in wire.model_extra or ():
        text = (
            f"value stands alone: the argument is no tensor, so {shown(field)} means nothing;"
            " remove one"
        )
        yield field, text


def weights_complaints(weights: schema.Weights) -> Complaints:
    """What is wrong with the rules of a file of weights."""
    if weights.key is not None and ".safetensors" in weights.file:
        text = (
            "a safetensors file has names and no keys; `prefix` chooses the names that begin with"
            " something"
        )
        yield "key", text
    for old, new in weights.rename.items():
        if old.count("*") != new.count("*"):
            counts = f"{shown(old)} has {old.count('*')} * and {shown(new)} has {new.count('*')}"
            text = f"{counts}; each * stands for one text"
            yield f"rename.{old}", text


def bound_complaints(bounds: schema.OutputTolerance) -> Complaints:
    """What is wrong with the tolerance of one output."""
    fields = ("atol", "rtol", "agreement", "iou")
    present = [field for field in fields if getattr(bounds, field) is not None]
    for field in ("agreement", "iou"):
        others = [name for name in present if name != field]
        if field in present and others:
            yield field, f"{field} stands alone: it replaces {', '.join(others)}"


def image_complaints(image: schema.Image) -> Complaints:
    """What is wrong with a preprocessing of valid types."""
    if len(image.mean) != len(image.std):
        yield (
            "std" if image.std else "mean",
            f"mean has {len(image.mean)} values and std {len(image.std)}",
        )
    if any(value <= 0 for value in image.std):
        yield "std", "a standard deviation is greater than 0"
    if image.crop is not None and image.resize is not None and image.crop > image.resize:
        yield (
            "crop",
            f"crop {image.crop} is larger than the shorter side after resize, {image.resize}",
        )


def smallest(dim: schema.Dim | project.Dim) -> int:
    """The least size of a dim."""
    return dim.multiple_of if dim.min is None else dim.min


def example(dim: schema.Dim) -> int:
    """The size of the example inputs: as given, or the smallest that torch.export does not fix."""
    least = max(2 * dim.multiple_of, smallest(dim))
    return least if dim.example is None else dim.example


def dim_complaints(dim: schema.Dim | project.Dim) -> Complaints:
    """What is wrong with a dim of valid types."""
    low, high, step = smallest(dim), dim.max, dim.multiple_of
    sizes = [("min", low)] if dim.min is not None else []
    for field, size in [*sizes, ("max", high)]:
        if size < 1:
            yield field, f"{field} is {size}; the least is 1, since {SPECIALISES}"
        elif size % step:
            nearest_sizes = _nearest_multiples(size, step)
            yield (
                field,
                f"{field} {size} is not a multiple of {step}; the nearest is {nearest_sizes}",
            )
    if dim.min is not None and low > high >= 1:
        yield "min", f"min {low} is greater than max {high}"
    elif low == high:
        text = (
            f"min and max are both {high}: this dim cannot vary, so write {high} in the shapes"
            " instead"
        )
        yield "max", text
    elif dim.example is not None and high > low >= 1:
        yield from _example_complaints(dim.example, low, high, step)


def _nearest_multiples(size: int, step: int) -> str:
    below = size // step * step
    return f"{below} or {below + step}" if below else str(step)


def _example_complaints(size: int, low: int, high: int, step: int) -> Complaints:
    if size in (0, 1):
        yield (
            "example",
            f"example {size} on a dynamic dim: {SPECIALISES}, and so the artifact; use 2 or more",
        )
    elif not low <= size <= high:
        yield "example", f"example {size} is outside the range {low} to {high}"
    elif size % step:
        nearest_sizes = _nearest_multiples(size, step)
        yield (
            "example",
            f"example {size} is not a multiple of {step}; the nearest is {nearest_sizes}",
        )
    elif size == step:
        text = (
            f"example {size} is 1 * multiple_of: {SPECIALISES}, this factor 1 too; use {2 * step}"
            " or more"
        )
        yield "example", text


def size_complaints(size: sizes.Size, dims: Mapping[str, project.Dim]) -> Iterator[str]:
    """What is wrong with a size that follows valid dims, all of which are in `dims`."""
    used = [dims[name] for name in size.names]
    inexact = [
        (term, dim)
        for term, dim in zip(size.terms, used, strict=True)
        if dim.multiple_of % term.divisor
    ]
    for term, dim in inexact:
        step = lcm(dim.multiple_of, term.divisor)
        yield (
            f"{term} is not whole for every {dim.name}; set multiple_of: {step} on the dim"
            f" {dim.name}"
        )
    if inexact or size.plain:
        return  # a size that is a dim alone is judged at the dim
    low, high = size.bounds({dim.name: (dim.min, dim.max) for dim in used})
    example = size.at({dim.name: dim.example for dim in used})
    if low < 1:
        ends = [
            (dim.name, dim.min if term.factor > 0 else dim.max)
            for term, dim in zip(size.terms, used, strict=True)
        ]
        where = " and ".join(f"{name} is {end}" for name, end in ends)
        yield f"{size} is {low} where {where}; the least is 1, since {SPECIALISES}"
    elif high > MAX_INT:
        yield f"{size} is up to {high}, more than any size can be"
    elif example < 2:
        where = " and ".join(f"{dim.name} is {dim.example}" for dim in used)
        yield (
            f"{size} is {example} in the example, where {where}: {SPECIALISES}; choose a larger"
            " example"
        )


def untold(tensor_sizes: list[sizes.Size]) -> list[str]:
    """The dims that these sizes of tensors name and do not determine, in the order of their
    names."""
    determined = {name for _, name in sizes.solution_order(tensor_sizes)}
    return sorted({name for size in tensor_sizes for name in size.names} - determined)


def range_complaints(tensor: schema.TensorInput) -> Complaints:
    """What is wrong with the range that a tensor's values are drawn from."""
    if tensor.probability is not None and tensor.dtype != "bool":
        yield "probability", f"probability means nothing for {tensor.dtype}; it is of bool inputs"
    bounds = {"low": tensor.low, "high": tensor.high}
    bounds = {field: value for field, value in bounds.items() if value is not None}
    if not bounds:
        return
    if tensor.dtype in UNORDERED:
        for field in bounds:
            yield field, f"{field} means nothing for {tensor.dtype}; remove it"
        return
    if tensor.dtype in INTEGER_RANGES:
        complaints = list(_integer_complaints(tensor.dtype, bounds))
        if complaints:
            yield from complaints
            return
    low, high = drawn_from(tensor)
    if low is not None and high is not None and low >= high:
        words = {"low": f"{low:g} (the default)", "high": f"{high:g} (the default)", **bounds}
        last = "high" if "high" in bounds else "low"
        yield last, f"low {words['low']} must be less than high {words['high']}"


def _integer_complaints(dtype: str, bounds: Mapping[str, Any]) -> Complaints:
    least, beyond = INTEGER_RANGES[dtype]
    for field, value in bounds.items():
        most = beyond - 1 if field == "low" else beyond
        if not isinstance(value, int):
            yield field, f"{field} is {value}; for {dtype} it must be an integer"
        elif not least <= value <= most:
            yield field, f"{field} {value} is outside the range of {dtype}, {least} to {most}"


def drawn_from(tensor: schema.TensorInput) -> tuple[float | int | None, float | int | None]:
    """The range [low, high) with its defaults filled in once either is given; (None, None) if
    neither is."""
    if tensor.low is None and tensor.high is None:
        return None, None
    if tensor.dtype in INTEGER_RANGES:
        low = 0 if tensor.low is None else tensor.low
        high = 2 if tensor.high is None else tensor.high
        return low, high
    return float(tensor.low or 0), float(1 if tensor.high is None else tensor.high)
