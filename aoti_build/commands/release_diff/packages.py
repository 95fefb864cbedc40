"""How far the outputs of two packages of a target lie apart, when both were called.

The packages get the same inputs. So this drift shows everything that changed: the model, the
options of the compiler, and torch. That of the references shows the model alone.
"""

from __future__ import annotations

from dataclasses import dataclass

from aoti_build.commands.json_values import json_or_none
from aoti_build.commands.release_diff.drift import Drift
from aoti_build.common.json_object import JsonObject
from aoti_build.errors import AotiBuildError


@dataclass(frozen=True)
class PackageDrift:
    """The comparison of two packages.

    Attributes:
        drift: of their outputs. None if they were not called.
        is_same: both releases have the same files of the package. They were not called then.
        why: why they could not be called here. None if they were, or had no need to be.
        error: why a package failed, although this host can run it.
    """

    drift: Drift | None = None
    is_same: bool = False
    why: str | None = None
    error: AotiBuildError | None = None

    @property
    def unknown(self) -> tuple[str, ...]:
        """What could not be compared, a clause for each."""
        if self.error is not None:
            return (self.error.message,)
        if self.why is not None:
            return (self.why,)
        return self.drift.unknown if self.drift is not None else ()

    def as_json(self) -> JsonObject:
        return {
            "same": self.is_same,
            "drift": json_or_none(self.drift),
            "why": self.why,
            "error": json_or_none(self.error),
        }
