"""Why a target is not up to date, or why it is unavailable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from aoti_build.common.json_object import JsonObject
from aoti_build.common.text_enum import TextEnum


class ReasonKind(TextEnum):
    """The words by which reports call reasons. A manifest keeps those of its build, and may have
    words of an older or a newer release."""

    FORCED = "forced"
    NO_ARTIFACT = "no-artifact"
    ARTIFACT_DAMAGED = "artifact-damaged"
    SPEC_CHANGED = "spec-changed"
    CONFIG_CHANGED = "config-changed"
    SOURCE_CHANGED = "source-changed"
    WEIGHTS_CHANGED = "weights-changed"
    WEIGHTS_IN_CODE = "weights-in-code"
    TOOLCHAIN_CHANGED = "toolchain-changed"
    UNVERIFIED = "unverified"
    NO_DEVICE = "no-device"
    LACKS_ARCHITECTURE = "lacks-architecture"
    NOT_IN_CPP = "not-in-cpp"


# Group of the source key -> the reason by which a difference in it is reported. The order is the
# order of reports.
REASON_OF_GROUP: Mapping[str, ReasonKind] = {
    "spec": ReasonKind.SPEC_CHANGED,
    "config": ReasonKind.CONFIG_CHANGED,
    "sources": ReasonKind.SOURCE_CHANGED,
    "distributions": ReasonKind.SOURCE_CHANGED,
    "modules": ReasonKind.SOURCE_CHANGED,
    "variables": ReasonKind.SOURCE_CHANGED,
    "weights": ReasonKind.WEIGHTS_CHANGED,
    "toolchain": ReasonKind.TOOLCHAIN_CHANGED,
    "environment": ReasonKind.TOOLCHAIN_CHANGED,
}


@dataclass(frozen=True)
class Reason:
    """One reason: `what` is the file, field or fact that it concerns; `old` and `new` are its
    values where it has any."""

    reason: ReasonKind | str
    what: str = ""
    old: Any = None
    new: Any = None

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Reason:
        """The reason that `as_json` made. Its word may be one that this release does not know."""
        return cls(record["reason"], record["what"], record["old"], record["new"])

    def __str__(self) -> str:
        if self.old is None and self.new is None:
            return f"{self.reason}: {self.what}" if self.what else str(self.reason)
        return f"{self.reason}: {self.what} {_shown(self.old)} -> {_shown(self.new)}"

    def as_json(self) -> JsonObject:
        return asdict(self)


def _shown(value: Any) -> str:
    """A value as reports have it: of a digest, the first characters."""
    if value is None:
        return "(none)"
    text = value if isinstance(value, str) else repr(value)
    if len(text) == 64 and all(character in "0123456789abcdef" for character in text):
        return text[:12]
    return text
