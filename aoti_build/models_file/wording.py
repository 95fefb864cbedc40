"""The words of the spec layer's errors: what was found, what would be right, and what was probably
meant.

pydantic says what is wrong in its own terms; `sentence` says it in the terms of models.yaml.
Nothing here imports pydantic or yaml, so that selection can use the same words without paying for
them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from itertools import islice
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

SHOWN_TEXT = 40
# In hints to a user who has no models.yaml yet.
SMALL_EXAMPLE = """\
version: 1
models:
  net:
    source: net.py:build
    inputs: [{shape: [1, 8]}]"""
# Options that a name is compared with, letters of one, and options that a sentence lists. Each
# comparison takes its time, and a file with thousands of names can have as many mistakes.
COMPARED, LONGEST_COMPARED, LISTED = 200, 200, 20

# What people write for a choice, and what this project calls it.
SYNONYMS = {
    "float": "float32",
    "double": "float64",
    "half": "float16",
    "bf16": "bfloat16",
    "fp16": "float16",
    "fp32": "float32",
    "fp64": "float64",
    "int": "int64",
    "long": "int64",
    "short": "int16",
    "char": "int8",
    "boolean": "bool",
    "complex": "complex64",
    "gpu": "cuda",
    "nvidia": "cuda",
    "host": "cpu",
    "x86": "cpu",
}


def nearest(
    word: str, options: Iterable[str], count: int = 1, *, among: int = COMPARED
) -> list[str]:
    """The options that `word` was probably meant to be, best first, letter case aside; none where
    there are more than `among` to compare it with."""
    compared = list(islice(options, among + 1))
    if len(compared) > among or len(word) > LONGEST_COMPARED:
        return []
    by_lower: dict[str, str] = {}
    for option in compared:
        by_lower.setdefault(option.lower(), option)
    plain = word.lower().removeprefix("torch.").partition(":")[0] or word.lower()
    if (synonym := SYNONYMS.get(plain, plain)) in by_lower:
        return [by_lower[synonym]]
    return [by_lower[match] for match in get_close_matches(word.lower(), by_lower, n=count)]


def did_you_mean(matches: Sequence[str]) -> str:
    """`` (did you mean 'x'?)``, or nothing when there is nothing near."""
    return f" (did you mean {' or '.join(repr(match) for match in matches)}?)" if matches else ""


def unknown(what: str, word: str, options: Iterable[str]) -> str:
    """The sentence for a name that is not one of `options`, with the one that was probably meant,
    or else all."""
    compared = list(islice(options, COMPARED + 1))
    more = ", and more" if len(compared) > LISTED else ""
    listed = f" (known: {', '.join(compared[:LISTED])}{more})"
    return f"unknown {what} {shown(word)}" + (did_you_mean(nearest(word, compared)) or listed)


def shown(text: str) -> str:
    """A user's own text, quoted, and cut where it would drown the sentence around it."""
    return repr(text if len(text) <= SHOWN_TEXT else text[: SHOWN_TEXT - 3] + "...")


def in_words(value: object) -> str:
    """What stands in the file, in YAML's terms."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return f"the number {value}"
    if isinstance(value, str):
        return f"the text {shown(value)}"
    return "a mapping" if isinstance(value, Mapping) else "a list"


def label(path: Sequence[str | int]) -> str:
    """How a sentence names the place `path`: its last key, with the indices that follow it."""
    names = [index for index, part in enumerate(path) if isinstance(part, str)]
    if not names:
        return "the file"
    last = names[-1]
    return f"'{path[last]}'" + "".join(f"[{index}]" for index in path[last + 1 :])


# What pydantic's error types (and those that `aoti_build.models_file.schema` adds) mean in
# models.yaml.
SENTENCES = {
    "string_type": "{name} must be a text, not {found}",
    "int_type": "{name} must be an integer, not {found}",
    "number_type": "{name} must be a number, not {found}",
    "list_type": "{name} must be a list, not {found}",
    "dict_type": "{name} must be a mapping, not {found}",
    "model_type": "{name} must be a mapping, not {found}",
    "value_kind": "{name} must be a {msg}, not {found}",
    "no_value": "{name} has no value; write one, or remove the key",
    "missing": "{parent} lacks the key {name}",
    "too_short": "{name} is empty; it needs at least one entry",
    "greater_than_equal": "{name} is {value}; it must be at least {ge}",
    "less_than_equal": "{name} is {value}; it must be at most {le}",
    "value_error": "{error}",
}


def sentence(error: ErrorDetails, path: Sequence[str | int], known_keys: Iterable[str]) -> str:
    """What pydantic's `error` at `path` means to somebody who writes models.yaml."""
    kind, value, name = error["type"], error["input"], label(path)
    context: Mapping[str, Any] = error.get("ctx", {})
    if kind == "extra_forbidden":
        return unknown("key", str(path[-1]), known_keys)
    if kind == "literal_error":
        return _not_a_choice(name if path[-1] != value else "this key", value, context)
    answers = {
        "name": name,
        "parent": label(path[:-1]),
        "found": in_words(value),
        "value": value,
        "msg": error["msg"],
    }
    return SENTENCES.get(kind, "{name}: {msg}").format(**{**answers, **context}) + _number_hint(
        kind, value
    )


def _number_hint(kind: str, value: object) -> str:
    if kind == "string_type" and isinstance(value, (int, float)):
        return "; to mean the text, put it in quotes"
    if (
        kind in ("int_type", "number_type")
        and isinstance(value, str)
        and re.fullmatch(r"[-+]?[0-9.]+([eE].*)?", value)
    ):
        return "; take the quotes away"
    return ""


def _not_a_choice(name: str, value: object, context: Mapping[str, Any]) -> str:
    choices = re.findall(r"'([^']*)'", context["expected"])
    near = did_you_mean(nearest(value, choices)) if isinstance(value, str) else ""
    return f"{name} is {in_words(value)}; it must be one of {', '.join(choices)}{near}"
