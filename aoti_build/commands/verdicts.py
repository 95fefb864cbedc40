"""The verdicts that `verify` and `run` reach about an artifact.

The module imports nothing that a build with nothing to do could spare: its report needs this one.
"""

from __future__ import annotations

from aoti_build.common.text_enum import TextEnum


class VerdictKind(TextEnum):
    """The result of comparing a target's artifact with eager mode, in one word."""

    PASSED = "passed"
    # Some outputs had no reference data to be compared with.
    INCOMPLETE = "incomplete"
    MISMATCH = "mismatch"
    CRASHED = "crashed"
    TIMEOUT = "timeout"
    # There was nothing to compare with.
    UNVERIFIED = "unverified"
    MISSING = "missing"
    REFUSED = "refused"
    FAILED = "failed"
    UNAVAILABLE = "unavailable"
