"""The rules for single values of models.yaml, beyond their types.

A rule returns the value in its normal form, or raises `RefusedError` with a message for the user.
`aoti_build.models_file.agreements` has the rules that compare several fields.

This module imports neither pydantic nor yaml, so that `aoti_build.models_file.records` can apply
the same rules to cached targets.
"""

from __future__ import annotations

import math
import posixpath
import re
from collections.abc import Iterator
from keyword import iskeyword
from typing import Any

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
from aoti_build.models_file.wording import did_you_mean, nearest, quoted

INDEX_SUFFIXES = (".safetensors.index.json", ".bin.index.json")
WEIGHT_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", *INDEX_SUFFIXES)
# For each integer dtype, its smallest value and the value after its largest.
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
MODULE = r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*$"
OPTION = r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*"
SIZE = "[0-9]{1,15}[kmg]?"
ARCH = f"({NATIVE}|{ARCHITECTURE_PATTERN})"
# NVIDIA's current compute capabilities, for suggestions only.
_COMPUTE_CAPABILITIES = (75, 80, 86, 87, 89, 90, 100, 103, 110, 120, 121)
_SUGGESTED_ARCHES = (NATIVE, *(f"sm_{number}" for number in _COMPUTE_CAPABILITIES))
_UNITS = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


class RefusedError(ValueError):
    """A value of models.yaml is invalid. The message says what to write instead."""


def directory_name(text: str) -> str:
    """Check the name of a model or a preset."""
    if "/" in text or "\\" in text:
        raise RefusedError(
            f"the name {quoted(text)} becomes a directory name, so it cannot have a path separator"
        )
    if len(text) > MAX_NAME:
        raise RefusedError(f"a name of {len(text)} characters exceeds the limit of {MAX_NAME}")
    if not is_name(text):
        raise RefusedError(
            f"the name {quoted(text)} cannot be a directory name; use letters, digits, '.', '_' and"
            " '-', begin with a letter or digit, and do not end with '.'"
        )
    return text


def identifier(text: str) -> str:
    """Check the name of an input or a dim."""
    if not text.isidentifier() or iskeyword(text):
        raise RefusedError(
            f"{quoted(text)} is not a Python name; use letters, digits and '_', and do not begin"
            " with a digit"
        )
    return text


def option(text: str) -> str:
    """Check the name of an inductor option."""
    if not re.fullmatch(OPTION, text):
        raise RefusedError(
            f"{quoted(text)} is not an inductor option; write it like `max_autotune` or"
            " `cpp.threads`"
        )
    return text


def size(text: str) -> str:
    """Check a number of bytes with an optional unit."""
    if not re.fullmatch(SIZE, text):
        raise RefusedError(
            f"{quoted(text)} is not a size; write an integer with k, m or g, such as 64m"
        )
    return text


def size_in_bytes(text: str) -> int:
    """Convert a valid size to bytes. The units k, m and g are powers of 1024."""
    factor = _UNITS.get(text[-1])
    if factor is None:
        return int(text)
    return int(text[:-1]) * factor


def shape_size(text: str) -> str:
    """Check an entry of a shape that depends on dims, and return its canonical spelling."""
    try:
        parsed = sizes.parse(text)
    except ValueError as error:
        raise RefusedError(f"{quoted(text)} is not a size: {error}") from None
    if not parsed.terms:
        raise RefusedError(f"{quoted(text)} uses no dim; write the number {parsed.constant}")
    for name in parsed.names:
        identifier(name)
    return str(parsed)


def arch(text: str) -> str:
    """Check the name of a GPU architecture."""
    if re.fullmatch(ARCH, text):
        return text
    # Users write `9.0`, `SM80` or `compute_90` for sm_90 and sm_80.
    capability = re.sub(r"^(sm|compute)?[_ -]*", "", text.lower()).replace(".", "")
    word = f"sm_{capability}" if capability[:1].isdigit() else text
    suggestion = did_you_mean(nearest(word, _SUGGESTED_ARCHES))
    raise RefusedError(
        f"{quoted(text)} is not an architecture; write native, or sm_80 for compute capability"
        f" 8.0{suggestion}"
    )


def parse_source(text: str) -> Source:
    """Parse ``package.module:callable`` or ``path/to/file.py:callable``."""
    location, colon, attribute = text.rpartition(":")
    if text.endswith(WEIGHT_SUFFIXES):
        raise RefusedError(
            f"{quoted(text)} is a file of weights; write it under `weights`, and here the callable"
            " that makes the model"
        )
    if location.endswith(":"):
        raise RefusedError(f"{quoted(text)} has two colons; write path.py:callable with one")
    if not colon:
        raise RefusedError(
            f"{quoted(text)} does not name a callable; write module:callable or"
            f" path.py:callable{_suggested_source(text)}"
        )
    if not is_dotted_name(attribute):
        raise RefusedError(
            f"{quoted(attribute)} after the ':' is not a Python name; write the name of a callable"
        )
    if location.endswith(".py"):
        return Source(attribute, path=project_path(location))
    if "/" in location or "\\" in location:
        raise RefusedError(
            f"{quoted(location)} is neither a module nor a path that ends in .py; write"
            " module:callable or path.py:callable"
        )
    if not is_dotted_name(location):
        raise RefusedError(
            f"{quoted(location)} before the ':' is not a module name; write it as in an import"
            " statement"
        )
    return Source(attribute, module=location)


def _suggested_source(text: str) -> str:
    """Suggest `a.b:c` for the dotted name `a.b.c`."""
    if "." not in text or text.endswith(".py") or not is_dotted_name(text):
        return ""
    module, _, attribute = text.rpartition(".")
    return f" (did you mean '{module}:{attribute}'?)"


def module_name(text: str) -> str:
    """Check the name of a module to import."""
    if text.endswith(".py") or "/" in text:
        dotted = text.removesuffix(".py").replace("/", ".")
        example = dotted if is_dotted_name(dotted) else "my_package.ops"
        raise RefusedError(
            f"{quoted(text)} is a file; write the module name as in an import statement, such as"
            f" {example}"
        )
    if len(text) > MAX_DIRECTORY_NAME or not is_dotted_name(text):
        raise RefusedError(
            f"{quoted(text)} is not a module name; write it as in an import statement, such as"
            " my_package.ops"
        )
    return text


def constant(value: Any) -> Any:
    """Check the value of an argument that is not a tensor."""
    if isinstance(value, list):
        return [constant(item) for item in value]
    if isinstance(value, dict):
        raise RefusedError(
            "a constant must be a number, a string, true, false, null or a list of these, not a"
            " mapping"
        )
    if isinstance(value, int) and not -MAX_INT <= value <= MAX_INT:
        raise RefusedError(
            f"{quoted(str(value))} does not fit into a 64-bit integer; use a smaller number"
        )
    return value


def root_path(text: str) -> str:
    """Check the root of the project, relative to the directory of models.yaml, and normalise it."""
    _check_path_text(text)
    if _is_absolute(text):
        raise RefusedError(
            f"the root {quoted(text)} is absolute; write it relative to models.yaml, such as `..`"
        )
    return posixpath.normpath(text)


def artifacts_path(text: str) -> str:
    """Check the directory of artifacts, and normalise it."""
    path = project_path(text)
    if path == ".":
        raise RefusedError("artifacts need a directory of their own, such as `artifacts`")
    return path


def history_path(text: str) -> str:
    """Check the directory of the history of benchmarks, and normalise it."""
    path = project_path(text)
    if path == ".":
        raise RefusedError("the history needs a directory of its own, such as `benchmarks/history`")
    return path


def project_path(text: str) -> str:
    """Check a path inside the root of the project, and normalise it."""
    _check_path_text(text)
    if _is_absolute(text):
        raise RefusedError(
            f"the path {quoted(text)} is absolute; write it relative to the project's root"
        )
    path = posixpath.normpath(text)
    if _leads_up(path):
        raise RefusedError(
            f"the path {quoted(text)} leads out of the directory of the project's root; paths begin"
            " at the root and stay below it, and `root:` can name a higher directory, such as `..`"
        )
    return path


def weights_path(text: str) -> str:
    """Check the path of a file with weights, and normalise it.

    It may lie outside the project, because weights are large and projects share them.
    """
    if "://" in text:
        raise RefusedError(
            f"{quoted(text)} is a URL; download the file first, or load it in the callable"
        )
    if not text.endswith(WEIGHT_SUFFIXES):
        raise RefusedError(
            f"weights must be a file that ends in {', '.join(WEIGHT_SUFFIXES)}, not {quoted(text)};"
            " save a state dict as one of these"
        )
    _check_path_text(text)
    if not text.startswith("~"):
        # POSIX leaves the meaning of exactly two leading slashes to the system, and normpath keeps
        # them. Here they mean one.
        return posixpath.normpath(re.sub("^/+", "/", text))
    if not text.startswith("~/"):
        raise RefusedError(
            f"the path {quoted(text)} is in another user's home directory; write its full path"
        )
    path = posixpath.normpath(text.removeprefix("~").lstrip("/"))
    if _leads_up(path):
        raise RefusedError(
            f"the path {quoted(text)} leads out of the home directory; write its full path"
        )
    return f"~/{path}"


def _check_path_text(text: str) -> None:
    if "\\" in text:
        raise RefusedError(f"the path {quoted(text)} has backslashes; use '/'")
    if "\0" in text:
        raise RefusedError(f"the path {quoted(text)} has a NUL character; remove it")
    longest_part = max(len(part) for part in text.split("/"))
    if len(text) > MAX_PATH or longest_part > MAX_DIRECTORY_NAME:
        raise RefusedError(f"the path {quoted(text)} is longer than file systems allow; shorten it")


def _is_absolute(text: str) -> bool:
    # The pattern matches the drive letter of a Windows path.
    return text.startswith(("/", "~")) or re.match("[A-Za-z]:", text) is not None


def _leads_up(path: str) -> bool:
    """Return whether a normalised relative path leaves the directory that it is relative to."""
    return path == ".." or path.startswith("../")


def not_finite(value: Any, path: tuple[str | int, ...]) -> Iterator[tuple[str | int, ...]]:
    """Yield the path of each nan and infinity in JSON-like data. `path` is that of `value`."""
    if isinstance(value, float) and not math.isfinite(value):
        yield path
    elif isinstance(value, dict):
        for key, entry in value.items():
            yield from not_finite(entry, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from not_finite(item, (*path, index))
