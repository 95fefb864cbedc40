"""The outcome of one check, as a value."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from aoti_build.common.json_object import JsonObject

OK, WARN, FAIL, UNAVAILABLE, SKIPPED = "ok", "warn", "fail", "unavailable", "skipped"


@dataclass(frozen=True)
class Finding:
    """What the check named `check` found; `device` is the only one it matters to, None if all.

    `said` is one line; `cause` what another program said; `fix` what to do. `stops` is set on a
    failure that no build which compiles can survive, whatever models.yaml says: it alone may keep
    `build` from starting.
    """

    check: str
    outcome: str
    said: str
    device: str | None = None
    cause: str | None = None
    fix: str | None = None
    stops: bool = False

    def as_json(self) -> JsonObject:
        return {name: value for name, value in asdict(self).items() if name != "stops"}
