"""Are the options of a preset those of this torch's inductor, with values of their types?

inductor itself takes any value. One of another type fails far into a compile, or changes what the
compile does without a word.
"""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Mapping
from typing import Any

import torch
from torch._inductor import config

from aoti_build.errors import UsageError
from aoti_build.models_file.wording import in_words

_IN_WORDS: Mapping[Any, str] = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "a string",
    list: "a list",
    dict: "a mapping",
    types.NoneType: "null",
}


def check_options(options: Mapping[str, Any], where: Mapping[str, str]) -> None:
    """Raise `UsageError` for a name that inductor does not have, and for a value of another type
    than the option's. `where` has the positions of ``inductor_configs.NAME`` in models.yaml."""
    available = config.get_config_copy()
    for name, value in options.items():
        place = where.get(f"inductor_configs.{name}", where["inductor_configs"])
        if name not in available:
            raise _no_such_option(name, available, place)
        choices = _choices(config.get_type(name))
        if choices and not any(_is_one(value, choice) for choice in choices):
            raise _wrong_value(name, value, choices, available[name], place)


def _choices(declared: Any) -> tuple[Any, ...]:
    """The types and literal values that an option may have; () if that cannot be told."""
    origin = typing.get_origin(declared)
    if origin is typing.Literal:
        return typing.get_args(declared)
    if origin in (typing.Union, types.UnionType):
        choices: list[Any] = []
        for member in typing.get_args(declared):
            of_member = (member,) if member is types.NoneType else _choices(member)
            if not of_member:
                return ()
            choices += of_member
        return tuple(choices)
    plain = origin or declared
    # An option without a type has None as its default, and that is its type then. YAML has no
    # tuples and no functions.
    return (plain,) if plain in (bool, int, float, str, list, dict) else ()


def _is_one(value: Any, choice: Any) -> bool:
    if not isinstance(choice, type):
        return type(value) is type(choice) and bool(value == choice)
    if choice is float and type(value) is int:
        return True
    return type(value) is choice


def _no_such_option(name: str, available: Mapping[str, Any], where: str) -> UsageError:
    matches = difflib.get_close_matches(name, available, n=3)
    hint = "torch._inductor.list_options() lists them"
    if matches:
        hint = f"did you mean {', '.join(matches)}?"
    return UsageError(
        f"torch {torch.__version__} has no inductor option {name!r}",
        where=where,
        hint=hint,
    )


def _wrong_value(
    name: str,
    value: Any,
    choices: tuple[Any, ...],
    default: Any,
    where: str,
) -> UsageError:
    words = []
    for choice in choices:
        words.append(_IN_WORDS[choice] if isinstance(choice, type) else repr(choice))
    quotes = ""
    if str in choices and isinstance(value, int | float):
        quotes = "; put it in quotes to make it a string"
    return UsageError(
        f"the inductor option {name} is {in_words(value)}; it must be {' or '.join(words)}",
        where=where,
        hint=f"correct it in the preset; its default is {default!r}{quotes}",
    )
