"""Enumerations whose members are texts, in reports and JSON as well."""

from __future__ import annotations

from enum import Enum


class TextEnum(str, Enum):
    """Python's StrEnum, which Python 3.10 does not have."""

    def __str__(self) -> str:
        return str.__str__(self)

    def __format__(self, spec: str) -> str:
        return str.__format__(self, spec)
