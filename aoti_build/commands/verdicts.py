"""What `verify` and `run` find of an artifact."""

from __future__ import annotations

from aoti_build.common.text_enum import TextEnum


class VerdictKind(TextEnum):
    """One word for the whole of a target's comparison with eager."""

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
