"""JSON that anybody may have written, read by type: each value is what the code relies on, or the
record is none.

`loads` reads the text. A `Reader` looks at one value and raises `ValueError` with the place of what
is wrong in it; readers are put together to the shape of a whole record. Fields that a shape does
not name are left alone: a later release may have written them.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from keyword import iskeyword
from typing import Any

Reader = Callable[[Any], None]

# What a model, a preset or a variant may be called: it becomes the name of a directory.
NAME = "[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9_-])?"
MAX_NAME = 100
# A variant is made of up to three names.
MAX_DIRECTORY_NAME = 255
MAX_PATH = 4000
MAX_INT = 2**63 - 1  # what fits torch's, and the system's, 64-bit integers
MAX_TEXT = 1 << 20  # characters of one text
_MOST_DEPTH = 200  # models.yaml may nest 64 levels, which the record of its order doubles
_NAME = re.compile(NAME)
_DIGEST = re.compile("[0-9a-f]{64}")


def loads(data: bytes | str) -> Any:
    """The JSON value that is written in `data`. Raises ValueError for what is none, and for what
    readers disagree on or few expect: a name that stands twice in a table, infinite numbers, values
    nested deeper than any record, and text that cannot be encoded.
    """
    try:
        value = json.loads(
            data, object_pairs_hook=_table, parse_constant=_infinite, parse_float=_finite
        )
    except RecursionError:
        raise ValueError("nested too deep") from None
    _check_plain(value)
    return value


def _table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice in a table")
    return found


def _infinite(text: str) -> float:
    raise ValueError(f"{text} is no number of JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:20]} is too large")
    return number


def _check_plain(value: Any) -> None:
    """Raises ValueError for a value that is nested too deep or holds half a surrogate pair. Level
    by level: a recursion would meet its own limit first."""
    level: list[Any] = [value]
    texts: list[str] = []
    for _ in range(_MOST_DEPTH):
        inner: list[Any] = []
        for one in level:
            if type(one) is dict:
                texts += one
                inner += one.values()
            elif type(one) is list:
                inner += one
            elif type(one) is str:
                texts.append(one)
        if not inner:
            break
        level = inner
    else:
        raise ValueError("nested too deep")
    text = "".join(texts)
    if not text.isascii():
        text.encode("utf-8", "surrogateescape")  # file names that are no UTF-8 are kept in escapes


def is_name(value: Any) -> bool:
    """Whether a directory of ours may be called so."""
    return (
        type(value) is str
        and len(value) <= MAX_DIRECTORY_NAME
        and _NAME.fullmatch(value) is not None
    )


def is_dotted_name(text: str) -> bool:
    """Whether it can name a module, or something in one."""
    return all(part.isidentifier() and not iskeyword(part) for part in text.split("."))


def module_name(value: Any) -> None:
    """The name of a module that may be imported: no path, and nothing relative."""
    text(value)
    if len(value) > MAX_DIRECTORY_NAME or not is_dotted_name(value):
        raise ValueError("is no name of a module")


def is_digest(value: Any) -> bool:
    return type(value) is str and _DIGEST.fullmatch(value) is not None


def text(value: Any) -> None:
    if type(value) is not str or "\0" in value or len(value) > MAX_TEXT:
        raise ValueError("is no text")


def digest(value: Any) -> None:
    if not is_digest(value):
        raise ValueError("is no digest")


def flag(value: Any) -> None:
    if type(value) is not bool:
        raise ValueError("is neither true nor false")


def number(value: Any) -> None:
    if type(value) is int:
        if not -MAX_INT <= value <= MAX_INT:
            raise ValueError("is too large")
    elif type(value) is not float or not math.isfinite(value):
        raise ValueError("is no number")


def anything(value: Any) -> None:
    """For values that are compared and shown, and otherwise not used."""


def whole(least: int = 0, most: int = MAX_INT) -> Reader:
    def read(value: Any) -> None:
        if type(value) is not int or not least <= value <= most:
            raise ValueError(f"is no whole number from {least} to {most}")

    return read


def one_of(*choices: str | bool | None) -> Reader:
    kinds = [(type(choice), choice) for choice in choices]

    def read(value: Any) -> None:
        if (type(value), value) not in kinds:
            raise ValueError(f"is none of {', '.join(map(repr, choices))}")

    return read


def spelt(pattern: str, most: int = MAX_TEXT) -> Reader:
    """A text that the regular expression `pattern` describes as a whole."""
    known: list[re.Pattern[str]] = []  # compiled when it is first needed: a no-op reads no record

    def read(value: Any) -> None:
        if not known:
            known.append(re.compile(pattern))
        if type(value) is not str or len(value) > most or not known[0].fullmatch(value):
            raise ValueError("is not spelt as it should be")

    return read


def either(*readers: Reader) -> Reader:
    """What one of the readers takes."""

    def read(value: Any) -> None:
        said = ""
        for reader in readers:
            try:
                return reader(value)
            except ValueError as error:
                # An error that is kept keeps its frames, and all that the callers' frames hold.
                said = str(error)
        raise ValueError(said)

    return read


def or_none(reader: Reader) -> Reader:
    def read(value: Any) -> None:
        if value is not None:
            reader(value)

    return read


def list_of(reader: Reader, least: int = 0, most: int = MAX_INT) -> Reader:
    def read(value: Any) -> None:
        if type(value) is not list or not least <= len(value) <= most:
            raise ValueError("is no list of the right length")
        read_so_far = 0
        try:
            for item in value:
                reader(item)
                read_so_far += 1
        except ValueError as error:
            raise ValueError(f"[{read_so_far}] {error}") from None

    return read


def table_of(names: Reader, values: Reader) -> Reader:
    """A table of any length: what its names and its values must be."""

    def read(value: Any) -> None:
        if type(value) is not dict:
            raise ValueError("is no table")
        name = ""
        try:
            for name, item in value.items():
                names(name)
                values(item)
        except ValueError as error:
            raise ValueError(f"{name[:40]!r} {error}") from None

    return read


def table(required: Mapping[str, Reader], optional: Mapping[str, Reader] | None = None) -> Reader:
    """A table with these fields; others are not looked at."""
    needed, further = list(required.items()), list((optional or {}).items())

    def read(value: Any) -> None:
        if type(value) is not dict:
            raise ValueError("is no table")
        name = ""
        try:
            for name, reader in needed:
                reader(value[name])
            for name, reader in further:
                if name in value:
                    reader(value[name])
        except KeyError:
            raise ValueError(f"lacks {name}") from None
        except ValueError as error:
            raise ValueError(f"{name} {error}") from None

    return read
