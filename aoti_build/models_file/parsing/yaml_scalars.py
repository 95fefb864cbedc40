"""The values of YAML scalars, by the core schema of YAML 1.2 (section 10.3 of its specification).

PyYAML's own resolver follows YAML 1.1, where ``1e-3`` is a string, ``on`` is true and ``010`` is
eight. Other tags than those of the core schema are refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

from aoti_build.models_file.rules import RefusedError
from aoti_build.models_file.wording import quoted

# Python needs a time that grows with the square of the length to convert a number.
MAX_NUMBER_LENGTH = 100

TAG_PREFIX = "tag:yaml.org,2002:"
SURROGATE = re.compile("[\ud800-\udfff]")


class ScalarKind(NamedTuple):
    """A kind of values: how an unquoted scalar of this kind looks, and how to convert it."""

    pattern: re.Pattern[str]
    convert: Callable[[str], Any]


def _to_none(_text: str) -> None:
    return None


def _to_bool(text: str) -> bool:
    return text.lower() == "true"


def _to_int(text: str) -> int:
    bases = {"0o": 8, "0x": 16}
    return int(text, bases.get(text[:2], 10))


def _to_float(text: str) -> float:
    # Python writes YAML's .inf and .nan without the dot.
    return float(re.sub(r"\.(?=[in])", "", text.lower()))


CORE_KINDS = {
    "null": ScalarKind(re.compile("null|Null|NULL|~|"), _to_none),
    "bool": ScalarKind(re.compile("true|True|TRUE|false|False|FALSE"), _to_bool),
    "int": ScalarKind(re.compile("[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+"), _to_int),
    "float": ScalarKind(
        re.compile(
            r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"
            r"|[-+]?\.(inf|Inf|INF)"
            r"|\.(nan|NaN|NAN)"
        ),
        _to_float,
    ),
}


def scalar_value(text: str, tag: str | None) -> Any:
    """Return the value of a scalar.

    `tag` is None for an unquoted scalar without a tag, and ``!`` for a string.

    Raises:
        RefusedError: the tag is not in the core schema, or the text is not a value of that tag.
    """
    if SURROGATE.search(text):
        raise RefusedError("a surrogate escape is not a character; remove it")
    if tag in ("!", TAG_PREFIX + "str"):
        return text
    if tag is None:
        return _untagged_value(text)
    name = tag.removeprefix(TAG_PREFIX)
    if tag == name or name not in CORE_KINDS:
        raise RefusedError(unsupported_tag(tag))
    kind = CORE_KINDS[name]
    if not kind.pattern.fullmatch(text):
        raise RefusedError(f"{quoted(text)} is not a value of the tag !!{name}")
    return _converted(text, kind)


def _untagged_value(text: str) -> Any:
    for kind in CORE_KINDS.values():
        if kind.pattern.fullmatch(text):
            return _converted(text, kind)
    return text


def _converted(text: str, kind: ScalarKind) -> Any:
    if len(text) > MAX_NUMBER_LENGTH:
        raise RefusedError(
            f"a number of {len(text)} digits exceeds the limit of {MAX_NUMBER_LENGTH}; put it in"
            " quotes to make it a string"
        )
    return kind.convert(text)


def unsupported_tag(tag: str) -> str:
    """Return the message for a tag outside the core schema."""
    name = tag
    if tag.startswith(TAG_PREFIX):
        name = "!!" + tag.removeprefix(TAG_PREFIX)
    return f"the tag {quoted(name)} is not supported; remove it"
