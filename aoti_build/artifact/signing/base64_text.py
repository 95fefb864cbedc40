"""Base64 with exactly one text for the same bytes."""

from __future__ import annotations

import base64
import binascii


def encode(data: bytes) -> str:
    return base64.b64encode(data).decode()


def decode(text: str) -> bytes:
    """The bytes of a text in standard base64 with padding.

    Raises ValueError for any other text, also if unused bits are set or characters are in between.
    """
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError("is not base64") from error
    if encode(data) != text:
        raise ValueError("is not the one base64 text of its bytes")
    return data
