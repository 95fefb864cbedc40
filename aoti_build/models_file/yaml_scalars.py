"""What a scalar of models.yaml means: the core schema of YAML 1.2.

PyYAML's own resolver reads YAML 1.1: ``1e-3`` is a text, ``on`` is true, ``010`` is eight. Tags of
one's own are refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from aoti_build.models_file.rules import RefusedError
from aoti_build.models_file.wording import shown

MAX_NUMBER_LENGTH = 100

TAG = "tag:yaml.org,2002:"
SURROGATE = re.compile("[\ud800-\udfff]")
INT = "[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+"
FLOAT = r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
# What a value of each kind looks like without quotes, and what it is.
CORE: dict[str, tuple[re.Pattern[str], Callable[[str], Any]]] = {
    "null": (re.compile("null|Null|NULL|~|"), lambda _: None),
    "bool": (re.compile("true|True|TRUE|false|False|FALSE"), lambda text: text[0] in "tT"),
    "int": (re.compile(INT), lambda text: int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))),
    "float": (re.compile(FLOAT), lambda text: float(re.sub(r"\.(?=[in])", "", text.lower()))),
}


def scalar_value(text: str, tag: str | None) -> Any:
    """The value of a scalar with this tag; None stands for an unquoted one without a tag, ``!`` for
    a text. Raises RefusedError."""
    if SURROGATE.search(text):
        raise RefusedError("a surrogate escape is no character")
    if tag in ("!", TAG + "str"):
        return text
    kinds = [kind for kind in CORE if tag in (None, TAG + kind)]
    for kind in kinds:
        pattern, value_of = CORE[kind]
        if pattern.fullmatch(text):
            if len(text) > MAX_NUMBER_LENGTH:
                words = f"a number of {len(text)} digits; put it in quotes if it is a text"
                raise RefusedError(words)
            return value_of(text)
    if tag is None:
        return text
    if kinds:
        raise RefusedError(f"{shown(text)} is no value of the tag !!{kinds[0]}")
    raise RefusedError(bad_tag(tag))


def bad_tag(tag: str) -> str:
    """The complaint about a tag that is not of the core schema."""
    name = "!!" + tag.removeprefix(TAG) if tag.startswith(TAG) else tag
    return f"the tag {shown(name)} means nothing here; remove it"
