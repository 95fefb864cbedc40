"""The actions of a build: planned ones, and their results."""

from __future__ import annotations

from aoti_build.common.text_enum import TextEnum


class Action(TextEnum):
    """What a build will do about a target."""

    UP_TO_DATE = "up-to-date"
    BUILD = "build"
    RESTORE = "restore"
    RECHECK = "recheck"
    UNAVAILABLE = "unavailable"


class Done(TextEnum):
    """What a build did about a target."""

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
