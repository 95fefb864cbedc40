"""Converts the validation errors of pydantic to messages in the terms of models.yaml."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from aoti_build.models_file.parsing.reader import DocumentReader
from aoti_build.models_file.parsing.schema import (
    MAPPING_TYPES,
    MappingTypes,
    mapping_type_at,
)
from aoti_build.models_file.parsing.yaml_document import FieldPath
from aoti_build.models_file.wording import (
    MAX_QUOTED_LENGTH,
    did_you_mean,
    in_words,
    nearest,
    unknown,
)

# The message for each of pydantic's error types, and for those that `field_types` adds. `ge` and
# `le` are from pydantic.
TEMPLATES = {
    "string_type": "{name} must be a string, not {value_in_words}",
    "bool_type": "{name} must be true or false, not {value_in_words}",
    "int_type": "{name} must be an integer, not {value_in_words}",
    "number_type": "{name} must be a number, not {value_in_words}",
    "list_type": "{name} must be a list, not {value_in_words}",
    "dict_type": "{name} must be a mapping, not {value_in_words}",
    "model_type": "{name} must be a mapping, not {value_in_words}",
    "value_kind": "{name} must be a {reason}, not {value_in_words}",
    "no_value": "{name} has no value; write one, or remove the key",
    "missing": "{parent} is missing the required key {name}",
    "string_too_short": "{name} is an empty string; write a text, or remove it",
    "too_short": "{name} is empty; it needs at least one entry",
    "greater_than_equal": "{name} is {value}; it must be at least {ge}",
    "less_than_equal": "{name} is {value}; it must be at most {le}",
    "value_error": "{error}",
}
# Errors that are about a key, and are therefore reported at the key.
KEY_ERRORS = ("extra_forbidden", "missing", "no_value")
# The part of a path in pydantic's errors that says that the key itself is invalid.
KEY_MARK = "[key]"


def check_types(reader: DocumentReader, types: MappingTypes = MAPPING_TYPES) -> None:
    """Add a problem for each value or key of a wrong type.

    `types` has the type of the mapping at each path; that of the file is at the empty path.
    """
    try:
        types[()].model_validate(reader.data)
    except ValidationError as validation_error:
        errors = validation_error.errors(include_url=False)
        invalid_keys = {_path(error) for error in errors if _is_about_key(error)}
        for error in errors:
            path = _path(error)
            above = {path[:length] for length in range(1, len(path) + 1)}
            # What belongs below an invalid key is not known, so nothing is said of its value.
            if above & invalid_keys and not _is_about_key(error):
                reader.broken.add(path)
            else:
                _add_problem(reader, error, types)


def _path(error: ErrorDetails) -> FieldPath:
    """The path of an error. pydantic's also has the tags of union members and a mark for keys."""
    return tuple(part for part in error["loc"] if not _is_mark(part))


def _is_about_key(error: ErrorDetails) -> bool:
    return error["loc"][-1:] == (KEY_MARK,)


def _add_problem(reader: DocumentReader, error: ErrorDetails, types: MappingTypes) -> None:
    path = _path(error)
    if not reader.is_sound(path):
        return
    is_invalid_key = _is_about_key(error)
    # A missing key has no position, so the problem is reported at its mapping.
    reported_path = path[:-1] if error["type"] == "missing" else path
    at_key = is_invalid_key or error["type"] in KEY_ERRORS
    reader.add(reported_path, _message(error, path, types), at_key=at_key)
    if not is_invalid_key:
        reader.broken.add(path)


def _is_mark(part: str | int) -> bool:
    if not isinstance(part, str):
        return False
    is_tag = part.startswith("<") and part.endswith(">")
    return is_tag or part == KEY_MARK


def _message(error: ErrorDetails, path: FieldPath, types: MappingTypes) -> str:
    error_type = error["type"]
    value = error["input"]
    context: Mapping[str, Any] = error.get("ctx", {})
    if error_type == "extra_forbidden":
        return unknown("key", str(path[-1]), _keys_at(path[:-1], types))
    if error_type == "literal_error":
        # An invalid key is its own name, so naming it would repeat it.
        is_key = isinstance(path[-1], str) and path[-1] == value
        name = "this key" if is_key else _label(path)
        problem = _not_a_choice(name, value, context["expected"])
        if is_key and path[-2] == "inductor_configs":
            problem += "; options of inductor belong to a preset, which the top level defines"
        return problem
    values = {
        "name": _label(path),
        "parent": _label(path[:-1]),
        "value": value,
        "value_in_words": in_words(value),
        "reason": error["msg"],
        **context,
    }
    template = TEMPLATES.get(error_type, "{name}: {reason}")
    return template.format(**values) + _advice(error_type, value, path)


def _keys_at(path: FieldPath, types: MappingTypes) -> Iterable[str]:
    mapping_type = mapping_type_at(path, types)
    if mapping_type is None:
        return ()
    return mapping_type.model_fields


def _label(path: Sequence[str | int]) -> str:
    """Return the name of a value for a message: its last key, with the indices that follow it."""
    indices = ""
    for part in reversed(path):
        if isinstance(part, str):
            return f"'{part}'{indices}"
        indices = f"[{part}]{indices}"
    return "the file"


def _not_a_choice(name: str, value: object, expected: str) -> str:
    # pydantic lists the choices as a text: 'cpu' or 'cuda'.
    choices = re.findall(r"'([^']*)'", expected)
    suggestion = did_you_mean(nearest(value, choices)) if isinstance(value, str) else ""
    return f"{name} is {in_words(value)}; it must be one of {', '.join(choices)}{suggestion}"


def _advice(error_type: str, value: object, path: FieldPath) -> str:
    if "shape" in path[-2:]:
        if error_type == "list_type":
            return "; write the sizes in brackets, such as [2, 8]"
        if error_type in ("greater_than_equal", "value_kind"):
            return "; for a size that varies, declare a dim in 'dims' and write its name"
    if error_type == "list_type" and isinstance(value, str) and len(value) <= MAX_QUOTED_LENGTH:
        return f"; write [{value}]"
    if path == ("models",) and isinstance(value, list):
        return "; write the name of each model as its key, without a '-'"
    if path == ("version",) and error_type == "missing":
        return "; write `version: 1`"
    if path[-2:-1] == ("dims",) and type(value) is int:
        return f"; write {{max: {value}}}"
    return _advice_on_quotes(error_type, value)


def _advice_on_quotes(error_type: str, value: object) -> str:
    if error_type == "string_type" and isinstance(value, (int, float)):
        return "; put it in quotes to make it a string"
    if error_type not in ("int_type", "number_type") or not isinstance(value, str):
        return ""
    looks_like_number = re.fullmatch(r"[-+]?[0-9.]+([eE].*)?", value)
    return "; remove the quotes" if looks_like_number else ""
