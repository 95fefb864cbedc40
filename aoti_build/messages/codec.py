"""Messages as JSON documents."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import msgspec

from aoti_build import __version__
from aoti_build.errors import MessageError
from aoti_build.figures import TYPE
from aoti_build.messages.job import TargetJob
from aoti_build.messages.parts import AnyMessage, Json, Message, TargetDocument
from aoti_build.models_file.records import target_from_json, target_to_json

FORMAT = "aoti-build/message"
# Goes up with each change of the types of messages.
FORMAT_VERSION = 1
_HEAD: Mapping[str, Any] = {"format": FORMAT, "format_version": FORMAT_VERSION}


def encode(message: Message) -> dict[str, Json]:
    """The JSON document of a message."""
    return {**_HEAD, **msgspec.to_builtins(message, enc_hook=_plain)}


def decode(document: Json, *kinds: type[AnyMessage], where: str | None = None) -> AnyMessage:
    """The message in a document, which must be one of `kinds`.

    Raises MessageError, with `where` as the place that the document was read from.
    """
    if type(document) is not dict or document.get("format") != FORMAT:
        raise _unreadable(f"its format is not {FORMAT}", where)
    # JSON's true and 1.0 equal 1 in Python, so the type is compared too.
    version = document.get("format_version")
    if type(version) is not int or version != FORMAT_VERSION:
        cause = (
            f"it has format version {version}, and aoti_build {__version__} reads {FORMAT_VERSION}"
        )
        raise _unreadable(cause, where)
    name = document.get(TYPE)
    kind = _kind_of(name, kinds)
    if kind is None:
        expected = " or ".join(kind.type_name() for kind in kinds)
        raise _unreadable(f"it is a {name}, where a {expected} was expected", where)
    fields = {field: value for field, value in document.items() if field not in _HEAD}
    try:
        message = msgspec.convert(fields, kind)
    except ValueError as error:  # a ValidationError, or text that cannot be encoded
        raise _unreadable(f"{name}: {error}", where) from error
    if isinstance(message, TargetJob):
        # For msgspec a target is any JSON object.
        try:
            _check_target(message.target_document)
        except (KeyError, TypeError, ValueError) as error:
            raise _unreadable(f"{name}: $.target: {error}", where) from error
    return message


def _plain(value: Any) -> str | int | float:
    """The plain value of a subclass of str, int or float, which `json` takes and msgspec does not.

    Raises NotImplementedError for other values, as msgspec expects it.
    """
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    raise NotImplementedError(f"a message cannot hold a {type(value).__name__}")


def _kind_of(name: Json, kinds: tuple[type[AnyMessage], ...]) -> type[AnyMessage] | None:
    for kind in kinds:
        if kind.type_name() == name:
            return kind
    return None


def _check_target(document: TargetDocument) -> None:
    """Raises KeyError, TypeError or ValueError unless it is a target without unknown fields."""
    written = target_to_json(target_from_json(document))
    # As JSON, since a target has tuples where a document has lists.
    if json.loads(json.dumps(written)) != document:
        raise ValueError("has a field that no target has")


def _unreadable(cause: str, where: str | None) -> MessageError:
    return MessageError(
        "a message between aoti_build and its worker process cannot be read",
        where=where,
        cause=cause,
        hint="both must be of one release: look for a second aoti_build on the worker's PYTHONPATH",
    )
