"""Why a target is not up to date, or why it is unavailable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aoti_build.common.fields import is_digest
from aoti_build.common.text_enum import TextEnum

if TYPE_CHECKING:
    from aoti_build.artifact.manifest_types import ReasonRecord

_SHOWN_DIGITS = 12  # of a digest


class ReasonKind(TextEnum):
    """The words of reports for reasons.

    A manifest has the words of the release that wrote it. They may be words that this release does
    not have.
    """

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
    NOT_IN_CUDA_GRAPHS = "not-in-cuda-graphs"


# The groups of the source key, with the reason that reports a difference in each. Reports have this
# order.
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
    """One reason. `what` is the file, field or fact, `old` and `new` are its values if it has any.

    The fields have their names in reports and manifests.
    """

    reason: ReasonKind | str
    what: str = ""
    old: Any = None
    new: Any = None

    @classmethod
    def of(cls, record: ReasonRecord) -> Reason:
        """The reason in a manifest, the inverse of `as_json`."""
        return cls(record["reason"], record["what"], record["old"], record["new"])

    def __str__(self) -> str:
        if self.old is not None or self.new is not None:
            return f"{self.reason}: {self.what} {_shown(self.old)} -> {_shown(self.new)}"
        if self.what:
            return f"{self.reason}: {self.what}"
        return str(self.reason)

    def as_json(self) -> ReasonRecord:
        return {"reason": self.reason, "what": self.what, "old": self.old, "new": self.new}


def _shown(value: Any) -> str:
    """A value as reports show it. A digest is cut to its first digits."""
    if value is None:
        return "(none)"
    if is_digest(value):
        return str(value)[:_SHOWN_DIGITS]
    return value if isinstance(value, str) else repr(value)
