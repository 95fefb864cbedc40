"""What a build does about a target, and what became of it."""

from __future__ import annotations

from aoti_build.common.text_enum import TextEnum


class Action(TextEnum):
    """What is to be done about a target."""

    UP_TO_DATE = "up-to-date"
    BUILD = "build"
    RESTORE = "restore"
    RECHECK = "recheck"
    UNAVAILABLE = "unavailable"


class Done(TextEnum):
    """What was done about a target."""

    UP_TO_DATE = "up-to-date"
    RESTORED = "restored"
    REUSED = "reused"
    REPACKED = "repacked"
    COMPILED = "compiled"
    RECHECKED = "rechecked"
    REPRODUCED = "reproduced"
    UNAVAILABLE = "unavailable"
    FAILED = "failed"
    NOT_STARTED = "not-started"
