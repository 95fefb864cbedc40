"""What a single value of models.yaml must be beyond its type. A rule raises `RefusedError`.

Nothing here imports pydantic or yaml, so that targets which are read from a record
(`aoti_build.models_file.records`) obey the same rules. What several fields must agree on is in
`aoti_build.models_file.agreements`. `aoti_build.models_file.resolve` knows lines and columns.
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
from aoti_build.host.devices.cpu import ISA_OPTIONS
from aoti_build.host.gpu_architectures import ARCHITECTURE_PATTERN
from aoti_build.models_file.project import Source
from aoti_build.models_file.wording import did_you_mean, nearest, shown

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
ISAS = tuple(ISA_OPTIONS)
MODULE = r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*$"
OPTION = r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*"
SIZE = "[0-9]{1,15}[kmg]?"
ARCH = f"({NATIVE}|{ARCHITECTURE_PATTERN})"
_ARCHES = (
    NATIVE,
    *(f"sm_{number}" for number in (75, 80, 86, 87, 89, 90, 100, 103, 110, 120, 121)),
)


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


def size_in_bytes(text: str) -> int:
    """``64m`` in bytes: k, m and g are powers of 1024."""
    units = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
    return int(text[:-1]) * units[text[-1]] if text[-1] in units else int(text)


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
