"""Shapes of signed documents, stricter than those of our own records."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aoti_build.artifact.signing import base64_text
from aoti_build.artifact.signing.refusals import ASK_SENDER, MalformedSignature
from aoti_build.common import fields
from aoti_build.common.fields import Reader
from aoti_build.common.json_object import JsonObject


def closed(required: Mapping[str, Reader], optional: Mapping[str, Reader] | None = None) -> Reader:
    """A table with these fields and no others."""
    known = {*required, *(optional or {})}
    read_table = fields.table(required, optional)

    def read(value: Any) -> None:
        read_table(value)
        unknown = sorted(set(value) - known)
        if unknown:
            raise ValueError(f"has the unknown field {unknown[0][:40]!r}")

    return read


def long_text(value: Any) -> None:
    """A text of any length. The limit of the file is its limit."""
    if type(value) is not str or not value:
        raise ValueError("is not a text")


def document_in(data: bytes, shape: Reader, what: str) -> JsonObject:
    """The JSON object in UTF-8 text that has a shape.

    `what` names it in messages. Raises `MalformedSignature`.
    """
    try:
        # json would guess other encodings from bytes.
        document: JsonObject = fields.loads(data.decode())
        shape(document)
    except ValueError as error:
        raise MalformedSignature(
            f"{what} is malformed", cause=str(error), hint=ASK_SENDER
        ) from error
    return document


def decoded(name: str, text: str) -> bytes:
    """The bytes of a base64 field. Raises `MalformedSignature`."""
    try:
        return base64_text.decode(text)
    except ValueError as error:
        raise MalformedSignature(
            "the signature file is malformed",
            cause=f"{name} {error}",
            hint=ASK_SENDER,
        ) from error
