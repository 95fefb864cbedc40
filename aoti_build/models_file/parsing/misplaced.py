"""Finds parts of models.yaml that have the right content at a wrong place or in a wrong form.

pydantic would report one such mistake as several wrong keys and types, in words that fit none. Here
each becomes one problem that says what was probably meant. The rest of the parser skips the part.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from aoti_build.models_file.parsing.reader import DocumentReader
from aoti_build.models_file.parsing.schema import File, Model
from aoti_build.models_file.parsing.schema_inputs import TensorInput
from aoti_build.models_file.parsing.yaml_document import FieldPath
from aoti_build.models_file.wording import MAX_QUOTED_LENGTH, in_words

_INPUT_KEYS = frozenset({*TensorInput.model_fields, "value"})


def check_places(reader: DocumentReader) -> None:
    """Add a problem for each model at the top level, for each key of a model beside it, and for
    inputs without their list."""
    if not isinstance(reader.data, dict):
        return
    _check_top_level(reader, reader.data)
    models = reader.get_collection(("models",))
    if not isinstance(models, dict):
        return
    _check_names(reader, models)
    for name, model in models.items():
        if isinstance(model, dict) and isinstance(name, str):
            _check_inputs(reader, ("models", name, "inputs"), model.get("inputs"))


def _check_top_level(reader: DocumentReader, data: dict[Any, Any]) -> None:
    misplaced = [
        name
        for name, value in data.items()
        if isinstance(name, str) and name not in File.model_fields and _is_model(value)
    ]
    for name in misplaced:
        place = "stands beside 'models'" if "models" in data else "has no key 'models' above it"
        message = f"the model {name!r} {place}; indent it below a line `models:`"
        _add(reader, (name,), message, at_key=True)
    if misplaced and not data.get("models"):
        reader.broken.add(("models",))


def _is_model(value: Any) -> bool:
    return isinstance(value, dict) and "source" in value


def _check_names(reader: DocumentReader, models: dict[Any, Any]) -> None:
    """Look for the keys of a model that stand beside its name."""
    keys = [
        name
        for name, value in models.items()
        if name in Model.model_fields and not _is_model(value)
    ]
    empty = [name for name, value in models.items() if value is None and name not in keys]
    if not keys or not empty:
        return
    names = ", ".join(repr(key) for key in keys)
    beside = "stand" if len(keys) > 1 else "stands"
    message = f"{names} {beside} beside {empty[-1]!r}; indent what belongs to that model further"
    _add(reader, ("models", keys[0]), message, at_key=True)
    for name in (*keys, *empty):
        reader.broken.add(("models", name))


def _check_inputs(reader: DocumentReader, path: FieldPath, inputs: Any) -> None:
    if isinstance(inputs, dict):
        if _is_single_input(inputs):
            _add(
                reader,
                path,
                "'inputs' is one input, where a list of inputs is meant; write"
                f" {_list_of_one(inputs)}",
            )
            return
        entries: Iterator[tuple[str | int, Any]] = iter(inputs.items())
    elif isinstance(inputs, list):
        if inputs and all(_is_number(entry) for entry in inputs):
            shape = _flow(inputs)
            message = "'inputs' is a list of numbers; if they are the shape of one tensor, write"
            _add(reader, path, f"{message} [{{shape: {shape}}}]")
            return
        entries = iter(enumerate(inputs))
    else:
        return
    for key, value in entries:
        if not isinstance(value, dict):
            _add(reader, (*path, key), f"{_label(key)} is {_not_an_input(value)}")


def _is_single_input(inputs: dict[Any, Any]) -> bool:
    """Whether the mapping has the keys of an input. Otherwise its keys are names of inputs."""
    if not _INPUT_KEYS.issuperset(inputs):
        return False
    return any(key in inputs and not isinstance(inputs[key], dict) for key in ("shape", "value"))


def _list_of_one(inputs: dict[Any, Any]) -> str:
    parts = ", ".join(f"{key}: {_flow(value)}" for key, value in inputs.items())
    return f"[{{{parts}}}]" if len(parts) <= MAX_QUOTED_LENGTH else "[{shape: ...}]"


def _not_an_input(value: Any) -> str:
    words = in_words(value)
    if isinstance(value, list):
        return f"{words}; if it is the shape of a tensor, write {{shape: {_flow(value)}}}"
    return (
        f"{words}, which is no tensor; write {{value: {_flow(value)}}} for a constant, {{shape:"
        " [...]} for a tensor, or let a callable make all inputs (`inputs: file.py:callable`)"
    )


def _flow(value: Any) -> str:
    """The value as YAML in one line; `...` in the place of a long one."""
    if isinstance(value, str) and value.isidentifier():
        return value
    try:
        text = json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        return "..."
    return text.replace('"', "") if len(text) <= MAX_QUOTED_LENGTH else "..."


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _label(key: str | int) -> str:
    return f"'inputs'[{key}]" if isinstance(key, int) else f"'{key}'"


def _add(reader: DocumentReader, path: FieldPath, message: str, *, at_key: bool = False) -> None:
    if reader.is_sound(path):
        reader.add(path, message, at_key=at_key)
        reader.broken.add(path)
