"""The parts that several messages share: JSON of other documents, errors, and the base class."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeAlias, TypeVar

from aoti_build.errors import AotiBuildError
from aoti_build.figures import TYPE, Part

Json: TypeAlias = Any
JsonObject: TypeAlias = Mapping[str, Json]
# As `models_file.records.target_to_json` writes it.
TargetDocument: TypeAlias = JsonObject
# Parts of manifests, as `artifact.manifest_types` describes them.
Signature: TypeAlias = JsonObject
Tolerance: TypeAlias = JsonObject
Import: TypeAlias = JsonObject
WeightsRecord: TypeAlias = JsonObject
# Digests or versions by path, distribution, module or variable. None if there is no such thing.
Recorded: TypeAlias = Mapping[str, str | None]
# Positions in models.yaml by field, for errors, as `work.check.places` writes them.
Positions: TypeAlias = Mapping[str, str]
# By phase.
Seconds: TypeAlias = Mapping[str, float]


def _type_name(class_name: str) -> str:
    """The `type` of a message, such as ``check-job`` for ``CheckJob``."""
    return re.sub("(?<=.)(?=[A-Z])", "-", class_name).lower()


class Message(Part, frozen=True, tag_field=TYPE, tag=_type_name):
    """A document of its own."""

    @classmethod
    def type_name(cls) -> str:
        return _type_name(cls.__name__)


AnyMessage = TypeVar("AnyMessage", bound=Message)


class ErrorRecord(Part, frozen=True):
    """An `AotiBuildError` as part of a message."""

    kind: str
    message: str
    target: str | None = None
    where: str | None = None
    cause: str | None = None
    hint: str | None = None

    @classmethod
    def of(cls, error: AotiBuildError) -> ErrorRecord:
        return cls(
            kind=error.kind,
            message=error.message,
            target=error.target,
            where=error.where,
            cause=error.cause,
            hint=error.hint,
        )
