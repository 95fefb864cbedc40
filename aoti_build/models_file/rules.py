"""What the values of models.yaml must be beyond their types: pure functions from values to
complaints.

A rule about one text raises `RefusedError`; a rule about several fields yields ``(field,
complaint)`` for each one that breaks it. They know nothing of lines and columns:
`aoti_build.models_file.resolve` puts each complaint in its place. Targets that are read from a
record fulfil the same rules (`aoti_build.models_file.records`); neither pydantic nor yaml is
imported.
"""

from __future__ import annotations

import math
import posixpath
import re
from collections.abc import Iterator, Mapping
from keyword import iskeyword
from math import lcm
from typing import TYPE_CHECKING, Any

from aoti_build.common import sizes
from aoti_build.common.fields import (
    MAX_DIRECTORY_NAME,
    MAX_INT,
    MAX_NAME,
    MAX_PATH,
    is_dotted_name,
    is_name,
)
from aoti_build.host.devices import NATIVE
from aoti_build.host.gpu_architectures import ARCHITECTURE_PATTERN
from aoti_build.models_file.project import Source
from aoti_build.models_file.wording import did_you_mean, nearest, shown

if TYPE_CHECKING:
    from aoti_build.models_file import project, schema

Complaints = Iterator[tuple[str, str]]

INDEX_SUFFIXES = (".safetensors.index.json", ".bin.index.json")
WEIGHT_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", *INDEX_SUFFIXES)
INTEGER_RANGES = {
    "int8": (-(2**7), 2**7),
    "int16": (-(2**15), 2**15),
    "int32": (-(2**31), 2**31),
    "int64": (-(2**63), 2**63),
    "uint8": (0, 2**8),
}
UNORDERED = ("bool", "complex64")
FLOATS = ("float32", "float64", "float16", "bfloat16")
DTYPES = (*INTEGER_RANGES, *UNORDERED, *FLOATS)
ISAS = (NATIVE, "avx2", "avx512")
MODULE = r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*$"
OPTION = r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*"
SIZE = "[0-9]{1,15}[kmg]?"
ARCH = f"({NATIVE}|{ARCHITECTURE_PATTERN})"
_ARCHES = (
    NATIVE,
    *(f"sm_{number}" for number in (75, 80, 86, 87, 89, 90, 100, 103, 110, 120, 121)),
)
SPECIALISES = "torch.export treats the sizes 0 and 1 as fixed"


class RefusedError(ValueError):
    """A text of models.yaml that cannot mean anything; its message says what would."""


def directory_name(text: str) -> str:
    """The name of a model or a preset."""
    if "/" in text or "\\" in text:
        raise RefusedError(
            f"the name {shown(text)} has a path separator; it becomes the name of a directory"
        )
    if len(text) > MAX_NAME:
        raise RefusedError(f"a name of {len(text)} characters is too long; {MAX_NAME} are the most")
    if not is_name(text):
        rule = "letters, digits, '.', '_' and '-', with a letter or digit first and no '.' last"
        raise RefusedError(
            f"the name {shown(text)} is not usable as that of a directory; use {rule}"
        )
    return text


def identifier(text: str) -> str:
    """The name of an input or a dim."""
    if not text.isidentifier() or iskeyword(text):
        raise RefusedError(
            f"{shown(text)} is no Python name; use letters, digits and '_', with no digit first"
        )
    return text


def option(text: str) -> str:
    """The name of an inductor option."""
    if not re.fullmatch(OPTION, text):
        raise RefusedError(
            f"{shown(text)} is no inductor option; write it as `max_autotune` or `cpp.threads`"
        )
    return text


def size(text: str) -> str:
    """A number of bytes."""
    if not re.fullmatch(SIZE, text):
        raise RefusedError(
            f"{shown(text)} is no size; write a whole number with k, m or g, such as 64m"
        )
    return text


def shape_size(text: str) -> str:
    """A size that follows dims, in its one spelling."""
    try:
        parsed = sizes.parse(text)
    except ValueError as error:
        raise RefusedError(f"{shown(text)} is no size: {error}") from None
    if not parsed.terms:
        raise RefusedError(f"{shown(text)} names no dim; write the number {parsed.constant}")
    for name in parsed.names:
        identifier(name)
    return str(parsed)


def arch(text: str) -> str:
    """A GPU architecture."""
    if not re.fullmatch(ARCH, text):
        plain = re.sub(r"^(sm|compute)?[_ -]*", "", text.lower()).replace(".", "")
        near = did_you_mean(nearest(f"sm_{plain}" if plain[:1].isdigit() else text, _ARCHES))
        raise RefusedError(
            f"{shown(text)} is no architecture; write native, or sm_80 for compute capability"
            f" 8.0{near}"
        )
    return text


def parse_source(text: str) -> Source:
    """``package.module:callable`` or ``path/to/file.py:callable``."""
    location, colon, attribute = text.rpartition(":")
    if not colon:
        raise RefusedError(
            f"{shown(text)} names no callable; write module:callable or"
            f" path.py:callable{_split_hint(text)}"
        )
    if not is_dotted_name(attribute):
        raise RefusedError(f"{shown(attribute)} after the ':' is no name of a callable")
    if location.endswith(".py"):
        return Source(attribute, path=project_path(location))
    if "/" in location or "\\" in location:
        raise RefusedError(f"{shown(location)} is neither a module nor a path that ends in .py")
    if not is_dotted_name(location):
        raise RefusedError(f"{shown(location)} before the ':' is no name of a module")
    return Source(attribute, module=location)


def module_name(text: str) -> str:
    """The name of a module to import."""
    if text.endswith(".py") or "/" in text:
        plain = text.removesuffix(".py").replace("/", ".")
        raise RefusedError(
            f"{shown(text)} is a file; name the module as it is imported, such as {plain}"
        )
    if len(text) > MAX_DIRECTORY_NAME or not is_dotted_name(text):
        raise RefusedError(
            f"{shown(text)} is no name of a module; write it as it is imported, such as"
            " my_package.ops"
        )
    return text


def constant(value: Any) -> Any:
    """The value of an argument that is no tensor."""
    if isinstance(value, list):
        return [constant(inner) for inner in value]
    if isinstance(value, dict):
        raise RefusedError(
            "a constant is a number, a text, true, false, null or a list of these, not a mapping"
        )
    if isinstance(value, int) and not -MAX_INT <= value <= MAX_INT:
        raise RefusedError(f"{shown(str(value))} does not fit into 64 bits")
    return value


def constant_complaints(wire: schema.ConstantInput) -> Complaints:
    """What is wrong with an entry that has a value: other keys describe tensors."""
    for field in wire.model_extra or ():
        text = (
            f"value stands alone: the argument is no tensor, so {shown(field)} means nothing;"
            " remove one"
        )
        yield field, text


def _split_hint(text: str) -> str:
    if "." not in text or text.endswith(".py") or not is_dotted_name(text):
        return ""
    head, _, last = text.rpartition(".")
    return f" (did you mean '{head}:{last}'?)"


def project_path(text: str) -> str:
    """A path below the directory of models.yaml, in its plainest form."""
    _refuse_no_path(text)
    if text.startswith(("/", "~")) or re.match("[A-Za-z]:", text):
        raise RefusedError(f"the path {shown(text)} is absolute; write it relative to models.yaml")
    path = posixpath.normpath(text)
    if path == ".." or path.startswith("../"):
        raise RefusedError(f"the path {shown(text)} leads out of the directory of models.yaml")
    return path


def _refuse_no_path(text: str) -> None:
    if "\\" in text:
        raise RefusedError(f"the path {shown(text)} has backslashes; use '/'")
    if "\0" in text:
        raise RefusedError(f"the path {shown(text)} has a character that no path can have")
    if len(text) > MAX_PATH or any(len(part) > MAX_DIRECTORY_NAME for part in text.split("/")):
        raise RefusedError(f"the path {shown(text)} is longer than a file system takes")


def weights_path(text: str) -> str:
    """The path of a file of weights, in its plainest form. It may lie outside the project: weights
    are large, and several projects share them."""
    if not text.endswith(WEIGHT_SUFFIXES):
        raise RefusedError(
            f"weights are read from {', '.join(WEIGHT_SUFFIXES)} files, not from {shown(text)}"
        )
    _refuse_no_path(text)
    if text.startswith("~") and not text.startswith("~/"):
        raise RefusedError(f"the path {shown(text)} names another user's home; write it in full")
    if text.startswith("~/"):
        below = posixpath.normpath(text.removeprefix("~").lstrip("/"))
        if below == ".." or below.startswith("../"):
            raise RefusedError(
                f"the path {shown(text)} leads out of the home directory; write it in full"
            )
        return f"~/{below}"
    # Two slashes at the beginning mean something of their own in POSIX; nobody means that here.
    return posixpath.normpath(re.sub("^/+", "/", text))


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


def size_in_bytes(text: str) -> int:
    """``64m`` in bytes: k, m and g are powers of 1024."""
    units = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
    return int(text[:-1]) * units[text[-1]] if text[-1] in units else int(text)


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
    determined = {name for _, name in sizes.told(tensor_sizes)}
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


def not_finite(value: Any, path: tuple[str | int, ...]) -> Iterator[tuple[str | int, ...]]:
    """The paths of all nan and inf in JSON-like data."""
    if isinstance(value, float) and not math.isfinite(value):
        yield path
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from not_finite(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from not_finite(inner, (*path, index))
