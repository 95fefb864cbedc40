"""Parts of a report's JSON."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, TypeVar

Record_co = TypeVar("Record_co", covariant=True)


class HasJson(Protocol[Record_co]):
    """A value that knows its JSON object, such as a reason or an error."""

    def as_json(self) -> Record_co: ...


def json_list(values: Iterable[HasJson[Record_co]]) -> list[Record_co]:
    return [value.as_json() for value in values]


def json_or_none(value: HasJson[Record_co] | None) -> Record_co | None:
    return None if value is None else value.as_json()
