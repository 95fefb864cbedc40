"""The options of `verify --release`."""

from __future__ import annotations

from dataclasses import dataclass

from aoti_build.commands.received.options import ReceiverOptions


@dataclass(frozen=True)
class VerifyReleaseOptions(ReceiverOptions):
    """The options of `verify --release`.

    Attributes:
        strict: count what could not be compared as a failure.
        limit: the most seconds of each process.
        runtime: what calls the packages, as in `verify`.
    """

    strict: bool = False
    limit: float = 600.0
    runtime: str = "python"
