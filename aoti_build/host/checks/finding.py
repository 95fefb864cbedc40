"""The outcome of one check, as a value."""

from __future__ import annotations

from dataclasses import dataclass

from aoti_build.common.json_object import JsonObject
from aoti_build.errors import with_task_names

OK = "ok"
WARN = "warn"
FAIL = "fail"
UNAVAILABLE = "unavailable"
SKIPPED = "skipped"


@dataclass(frozen=True)
class Finding:
    """The outcome of the check named `check`.

    Attributes:
        check: the name of the check.
        outcome: one of the constants of this module.
        message: one line.
        device: the only device that is affected, or None for all.
        cause: the output of another program.
        fix: the remedy.
        stops: set on a failure that no compile can survive, whatever models.yaml says. Only such
            a failure keeps `build` from starting.
    """

    check: str
    outcome: str
    message: str
    device: str | None = None
    cause: str | None = None
    fix: str | None = None
    stops: bool = False

    def __post_init__(self) -> None:
        if self.fix:
            object.__setattr__(self, "fix", with_task_names(self.fix))

    def as_json(self) -> JsonObject:
        return {
            "check": self.check,
            "outcome": self.outcome,
            "said": self.message,
            "device": self.device,
            "cause": self.cause,
            "fix": self.fix,
        }
