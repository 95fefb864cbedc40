"""The rules for several fields of models.yaml that must agree with each other.

A rule yields complaints. A complaint is the name of a field and a message for the user.

This module imports neither pydantic nor yaml, so that `aoti_build.models_file.records` can apply
the same rules to cached targets.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import lcm
from typing import TYPE_CHECKING, TypeAlias

from aoti_build.common import sizes
from aoti_build.common.fields import MAX_INT
from aoti_build.common.memory_formats import RANKS
from aoti_build.models_file.rules import INTEGER_RANGES, UNORDERED
from aoti_build.models_file.wording import quoted

if TYPE_CHECKING:
    from aoti_build.models_file import project
    from aoti_build.models_file.parsing import schema_inputs, schema_parts

Complaints: TypeAlias = Iterator[tuple[str, str]]
Number: TypeAlias = int | float
FIXED_SIZES = "torch.export treats the sizes 0 and 1 as fixed"
OUTPUT_CRITERIA = ("atol", "rtol", "agreement", "iou")


# Parts of a model


def constant_complaints(constant: schema_inputs.ConstantInput) -> Complaints:
    """Check that an input with a value has no keys of a tensor."""
    for field in constant.model_extra or ():
        message = (
            f"an input with `value` is not a tensor, so it cannot have {quoted(field)}; remove one"
            " of the two"
        )
        yield field, message


def weights_complaints(
    file: str,
    key: str | None,
    rename: Sequence[tuple[str, str]],
) -> Complaints:
    """Check the fields of `weights`."""
    # The suffix may also be in the middle: model.safetensors.index.json.
    if key is not None and ".safetensors" in file:
        message = "a safetensors file has no keys; remove `key`, or select names with `prefix`"
        yield "key", message
    for old, new in rename:
        if "\0" in old or "\0" in new:
            yield f"rename.{old}", "contains a NUL character; remove it"
        old_count = old.count("*")
        new_count = new.count("*")
        if old_count != new_count:
            message = (
                f"{quoted(old)} has {old_count} * and {quoted(new)} has {new_count}; use the same"
                " number in both"
            )
            yield f"rename.{old}", message


def output_complaints(
    tolerance: schema_parts.OutputTolerance | project.OutputTolerance,
) -> Complaints:
    """Check that the tolerance of an output has one kind of criterion."""
    present = [name for name in OUTPUT_CRITERIA if getattr(tolerance, name) is not None]
    for field in ("agreement", "iou"):
        others = [name for name in present if name != field]
        if field in present and others:
            yield field, f"{field} replaces the other criteria; remove {', '.join(others)}"


def image_complaints(image: schema_parts.Image | project.Image) -> Complaints:
    """Check the preprocessing of images."""
    if len(image.mean) != len(image.std):
        field = "std" if image.std else "mean"
        message = (
            f"mean has {len(image.mean)} values and std has {len(image.std)}; write one value for"
            " each channel in both"
        )
        yield field, message
    if any(value <= 0 for value in image.std):
        yield "std", "a value of std is not positive; write values greater than 0"
    if image.crop is not None and image.resize is not None and image.crop > image.resize:
        message = (
            f"crop {image.crop} is larger than the shorter side after resize, {image.resize};"
            " reduce crop or increase resize"
        )
        yield "crop", message


# Dims


def smallest_size(dim: schema_inputs.Dim | project.Dim) -> int:
    """Return the smallest size of a dim."""
    return dim.multiple_of if dim.min is None else dim.min


def example_size(dim: schema_inputs.Dim) -> int:
    """Return the size of the example inputs.

    The default is the smallest allowed size that torch.export does not treat as fixed.
    """
    if dim.example is not None:
        return dim.example
    return max(2 * dim.multiple_of, smallest_size(dim))


def dim_complaints(dim: schema_inputs.Dim | project.Dim) -> Complaints:
    """Check the sizes of a dim. Their types must be valid."""
    if dim.min is not None:
        yield from _end_complaints("min", dim.min, dim.multiple_of)
    yield from _end_complaints("max", dim.max, dim.multiple_of)
    low = smallest_size(dim)
    high = dim.max
    if dim.min is not None and low > high >= 1:
        yield "min", f"min {low} is greater than max {high}; reduce min or increase max"
    elif low == high:
        message = (
            f"min and max are both {high}, so this dim cannot vary; write {high} in the shapes"
            " instead"
        )
        yield "max", message
    elif dim.example is not None and high > low >= 1:
        yield from _example_complaints(dim.example, low, high, dim.multiple_of)


def _end_complaints(field: str, size: int, step: int) -> Complaints:
    if size < 1:
        yield field, f"{field} is {size}, but must be at least 1: {FIXED_SIZES}"
    elif size % step:
        yield field, f"{field} {size} is not a multiple of {step}; {_use_nearest(size, step)}"


def _use_nearest(size: int, step: int) -> str:
    below = size // step * step
    if below == 0:
        return f"use {step}"
    return f"use {below} or {below + step}"


def _example_complaints(size: int, low: int, high: int, step: int) -> Complaints:
    field = "example"
    if size in (0, 1):
        yield field, f"example {size} would fix this dim: {FIXED_SIZES}; use 2 or more"
    elif not low <= size <= high:
        yield field, f"example {size} is outside the range {low} to {high}; use a size in the range"
    elif size % step:
        yield field, f"example {size} is not a multiple of {step}; {_use_nearest(size, step)}"
    elif size == step:
        # The export computes with the factor size / step, which would be 1.
        message = (
            f"example {size} is 1 * multiple_of, and torch.export would fix the factor 1 like a"
            f" size of 1; use {2 * step} or more"
        )
        yield field, message


# Sizes that depend on dims


def size_complaints(size: sizes.Size, dims: Mapping[str, project.Dim]) -> Iterator[str]:
    """Yield messages about a size that depends on dims. `dims` has all of them, and is valid."""
    has_inexact_terms = False
    for term in size.terms:
        dim = dims[term.name]
        if dim.multiple_of % term.divisor:
            has_inexact_terms = True
            step = lcm(dim.multiple_of, term.divisor)
            yield (
                f"{term} is not an integer for every {dim.name}; set multiple_of: {step} on the dim"
                f" {dim.name}"
            )
    # `dim_complaints` already checks a size that is a dim and nothing else.
    if not has_inexact_terms and not size.plain:
        yield from _range_of_size_complaints(size, dims)


def _range_of_size_complaints(size: sizes.Size, dims: Mapping[str, project.Dim]) -> Iterator[str]:
    ranges = {name: (dims[name].min, dims[name].max) for name in size.names}
    examples = {name: dims[name].example for name in size.names}
    low, high = size.bounds(ranges)
    example = size.at(examples)
    if low < 1:
        # The size is smallest at the lower end of a dim that it grows with, and otherwise at the
        # upper end.
        ends = {}
        for term in size.terms:
            smallest, largest = ranges[term.name]
            ends[term.name] = smallest if term.factor > 0 else largest
        yield (
            f"{size} is {low} when {_values_in_words(ends)}, but must be at least 1: {FIXED_SIZES}"
        )
    elif high > MAX_INT:
        yield f"{size} can be {high}, which exceeds the largest 64-bit integer; reduce max"
    elif example < 2:
        yield (
            f"{size} is {example} in the example, where {_values_in_words(examples)}:"
            f" {FIXED_SIZES}; use a larger example"
        )


def _values_in_words(values: Mapping[str, int]) -> str:
    return " and ".join(f"{name} is {value}" for name, value in values.items())


def undetermined_dims(tensor_sizes: Sequence[sizes.Size]) -> list[str]:
    """Return the sorted names of dims that these sizes of tensors use but do not determine.

    An example is `a + b`, if no other size tells `a` or `b`.
    """
    used: set[str] = set()
    for size in tensor_sizes:
        used.update(size.names)
    determined = {name for _, name in sizes.solution_order(tensor_sizes)}
    return sorted(used - determined)


# Tensors


def format_complaints(
    tensor: schema_inputs.TensorInput | project.TensorInput,
) -> Complaints:
    """Check that a tensor has the rank that its memory format is for."""
    name = tensor.memory_format
    rank = len(tensor.shape)
    if name not in RANKS or RANKS[name] == rank:
        return
    fitting = [other for other, other_rank in RANKS.items() if other_rank == rank]
    advice = f"write {fitting[0]}" if fitting else "remove it"
    message = f"{name} is for shapes of {RANKS[name]} entries, and this one has {rank}; {advice}"
    yield "memory_format", message


# Ranges of values


def range_complaints(tensor: schema_inputs.TensorInput | project.TensorInput) -> Complaints:
    """Check the range of the random values of a tensor."""
    if tensor.probability is not None and tensor.dtype != "bool":
        yield "probability", f"probability is for bool inputs, not for {tensor.dtype}; remove it"
    bounds = {}
    if tensor.low is not None:
        bounds["low"] = tensor.low
    if tensor.high is not None:
        bounds["high"] = tensor.high
    if not bounds:
        return
    if tensor.dtype in UNORDERED:
        for field in bounds:
            yield field, f"{field} does not apply to {tensor.dtype}; remove it"
        return
    if tensor.dtype in INTEGER_RANGES:
        complaints = list(_integer_complaints(tensor.dtype, bounds))
        yield from complaints
        if complaints:
            return
    low, high = value_range(tensor)
    if low is not None and high is not None and low >= high:
        low_text = str(bounds.get("low", f"{low:g} (the default)"))
        high_text = str(bounds.get("high", f"{high:g} (the default)"))
        field = "high" if "high" in bounds else "low"
        yield field, f"low {low_text} must be less than high {high_text}"


def _integer_complaints(dtype: str, bounds: Mapping[str, Number]) -> Complaints:
    smallest, end = INTEGER_RANGES[dtype]
    for field, value in bounds.items():
        # The range excludes `high`, so `high` may be one more than the largest value.
        largest = end - 1 if field == "low" else end
        if not isinstance(value, int):
            yield field, f"{field} is {value}; for {dtype} it must be an integer"
        elif not smallest <= value <= largest:
            yield field, f"{field} {value} is outside the range of {dtype}, {smallest} to {largest}"


def value_range(
    tensor: schema_inputs.TensorInput | project.TensorInput,
) -> tuple[Number | None, Number | None]:
    """Return the range [low, high) of the random values of a tensor, with defaults filled in.

    Return (None, None) if the tensor has neither bound. Its values then have the default
    distribution of the dtype.
    """
    low = tensor.low
    high = tensor.high
    if low is None and high is None:
        return None, None
    if tensor.dtype in INTEGER_RANGES:
        return 0 if low is None else low, 2 if high is None else high
    # A `low` of -0.0 becomes 0.0: they mean the same, but have different digests.
    return float(low) if low else 0.0, 1.0 if high is None else float(high)
