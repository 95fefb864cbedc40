"""Untrusted JSON, checked by type: a record has the shape that the code relies on, or is refused.

`loads` parses the text. A `Reader` checks one value, and raises `ValueError` with the position and
the problem. Readers are combined to the shape of a whole record. Fields that a shape does not name
are ignored: a later release may have written them.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from functools import cache
from keyword import iskeyword
from typing import Any

from aoti_build.common.json_object import JsonObject

Reader = Callable[[Any], None]

# The name of a model, a preset or a variant. It becomes the name of a directory.
NAME = "[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9_-])?"
MAX_NAME = 100
# The name of a variant consists of up to three names.
MAX_DIRECTORY_NAME = 255
MAX_PATH = 4000
MAX_INT = 2**63 - 1  # torch and the system have 64-bit integers
MAX_TEXT = 1 << 20  # characters of one text
_MAX_DEPTH = 200  # models.yaml may nest 64 levels, which the record of its order doubles
_NAME = re.compile(NAME)
_DIGEST = re.compile("[0-9a-f]{64}")


def loads(data: bytes | str) -> Any:
    """The JSON value in a text.

    Raises:
        ValueError: the text is not JSON, or is JSON that parsers treat differently: a name that
            occurs twice in a table, infinite numbers, very deep nesting, text that cannot be
            encoded.
    """
    try:
        value = json.loads(
            data,
            object_pairs_hook=_unique_table,
            parse_constant=_refuse_constant,
            parse_float=_finite_float,
        )
    except RecursionError:
        raise ValueError("nested too deep") from None
    _check_depth_and_texts(value)
    return value


def _unique_table(pairs: list[tuple[str, Any]]) -> JsonObject:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a name occurs twice in a table")
    return table


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is not a JSON number")


def _finite_float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:20]} is too large")
    return number


def _check_depth_and_texts(value: Any) -> None:
    """Raise ValueError if a value is nested too deep, or a text holds half a surrogate pair."""
    # One level of nesting after the other: a recursive function would meet Python's limit first.
    level: list[Any] = [value]
    texts: list[str] = []
    for _ in range(_MAX_DEPTH):
        next_level: list[Any] = []
        for item in level:
            if type(item) is dict:
                texts += item
                next_level += item.values()
            elif type(item) is list:
                next_level += item
            elif type(item) is str:
                texts.append(item)
        if not next_level:
            break
        level = next_level
    else:
        raise ValueError("nested too deep")
    all_text = "".join(texts)
    if not all_text.isascii():
        # Python keeps bytes of file names that are not UTF-8 in escapes, which are allowed.
        all_text.encode("utf-8", "surrogateescape")


def is_name(value: Any) -> bool:
    """Whether a value may become the name of one of our directories."""
    if type(value) is not str or len(value) > MAX_DIRECTORY_NAME:
        return False
    return _NAME.fullmatch(value) is not None


def is_dotted_name(text: str) -> bool:
    """Whether a text can name a module, or something in a module."""
    return all(part.isidentifier() and not iskeyword(part) for part in text.split("."))


def module_name(value: Any) -> None:
    """The absolute name of a module."""
    text(value)
    if len(value) > MAX_DIRECTORY_NAME or not is_dotted_name(value):
        raise ValueError("is not a name of a module")


def is_digest(value: Any) -> bool:
    return type(value) is str and _DIGEST.fullmatch(value) is not None


def text(value: Any) -> None:
    if type(value) is not str or "\0" in value or len(value) > MAX_TEXT:
        raise ValueError("is not a text")


def digest(value: Any) -> None:
    if not is_digest(value):
        raise ValueError("is not a digest")


def flag(value: Any) -> None:
    if type(value) is not bool:
        raise ValueError("is neither true nor false")


def number(value: Any) -> None:
    if type(value) is int:
        # The end of a range of int64 values is 2**63, which is not in the range itself.
        if not -MAX_INT - 1 <= value <= MAX_INT + 1:
            raise ValueError("is too large")
    elif type(value) is not float or not math.isfinite(value):
        raise ValueError("is not a number")


def anything(value: Any) -> None:
    """Any value. For values that are only compared and shown."""


def integer(least: int = 0, most: int = MAX_INT) -> Reader:
    """An integer from `least` to `most`."""

    def read(value: Any) -> None:
        if type(value) is not int or not least <= value <= most:
            raise ValueError(f"is not an integer from {least} to {most}")

    return read


def one_of(*choices: str | bool | None) -> Reader:
    # With the types, since 1 equals True.
    typed_choices = [(type(choice), choice) for choice in choices]

    def read(value: Any) -> None:
        if (type(value), value) not in typed_choices:
            raise ValueError(f"is not one of {', '.join(map(repr, choices))}")

    return read


def matching(pattern: str, most: int = MAX_TEXT) -> Reader:
    """A text that matches a regular expression from start to end."""

    # Compiled on the first use: a no-op reads no record.
    @cache
    def compiled() -> re.Pattern[str]:
        return re.compile(pattern)

    def read(value: Any) -> None:
        if type(value) is not str or len(value) > most or not compiled().fullmatch(value):
            raise ValueError("does not have the expected form")

    return read


def either(*readers: Reader) -> Reader:
    """A value that at least one of the readers accepts."""

    def read(value: Any) -> None:
        problem = ""
        for reader in readers:
            try:
                return reader(value)
            except ValueError as error:
                # Not the error itself: it would keep the frames of all callers alive.
                problem = str(error)
        raise ValueError(problem)

    return read


def or_none(reader: Reader) -> Reader:
    def read(value: Any) -> None:
        if value is not None:
            reader(value)

    return read


def list_of(reader: Reader, least: int = 0, most: int = MAX_INT) -> Reader:
    """A list with `least` to `most` items."""

    def read(value: Any) -> None:
        if type(value) is not list or not least <= len(value) <= most:
            raise ValueError("is not a list of the right length")
        index = 0
        try:
            for item in value:
                reader(item)
                index += 1
        except ValueError as error:
            raise ValueError(f"[{index}] {error}") from None

    return read


def table_of(names: Reader, values: Reader) -> Reader:
    """A table with any number of entries, by readers for its names and its values."""

    def read(value: Any) -> None:
        if type(value) is not dict:
            raise ValueError("is not a table")
        name = ""
        try:
            for name, item in value.items():
                names(name)
                values(item)
        except ValueError as error:
            raise ValueError(f"{name[:40]!r} {error}") from None

    return read


def table(required: Mapping[str, Reader], optional: Mapping[str, Reader] | None = None) -> Reader:
    """A table with these fields. Further fields are ignored."""
    required_fields = list(required.items())
    optional_fields = list((optional or {}).items())

    def read(value: Any) -> None:
        if type(value) is not dict:
            raise ValueError("is not a table")
        name = ""
        try:
            for name, reader in required_fields:
                reader(value[name])
            for name, reader in optional_fields:
                if name in value:
                    reader(value[name])
        except KeyError:
            raise ValueError(f"lacks {name}") from None
        except ValueError as error:
            raise ValueError(f"{name} {error}") from None

    return read
