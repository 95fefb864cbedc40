"""Parts of a report's JSON."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from aoti_build.common.json_object import JsonObject


class HasJson(Protocol):
    """A value that knows its JSON object, such as a reason or an error."""

    def as_json(self) -> JsonObject: ...


def json_list(values: Iterable[HasJson]) -> list[JsonObject]:
    return [value.as_json() for value in values]


def json_or_none(value: HasJson | None) -> JsonObject | None:
    return None if value is None else value.as_json()
