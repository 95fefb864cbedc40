"""A worker that ended without a result: the signal, the last lines of its log, and a remedy."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aoti_build.common.reading import open_regular
from aoti_build.errors import BuildError

_TAIL_LINES = 12
_TAIL_BYTES = 1 << 16
_HINTS: Mapping[str, str] = {
    # The system's out-of-memory killer sends this signal.
    "SIGKILL": "the system was probably out of memory: try --jobs 1",
    "SIGSEGV": (
        "native code crashed: `invoke doctor` tells whether the compiler is the cause, and which"
        " CXX to use"
    ),
    "SIGILL": (
        "the code uses instructions that this processor lacks: `invoke doctor` tries a small model"
    ),
}


class WorkerCrash(BuildError):
    """A worker ended without a result.

    `signal_name` is the signal that ended it, such as "SIGSEGV"; None if it exited.
    """

    def __init__(self, message: str, *, signal_name: str | None, **details: Any) -> None:
        """`details` are arguments of `AotiBuildError`."""
        super().__init__(message, **details)
        self.signal_name = signal_name


def crash_of(status: int, log: Path) -> WorkerCrash:
    """The error for a worker with this exit status, which is negative for a signal."""
    if status < 0:
        name = _signal_name(-status)
        message = f"the worker was killed by {name}"
        hint = _HINTS.get(name, "see the log")
    else:
        name = None
        message = f"the worker ended with status {status} and no result"
        hint = "see the log"
    return WorkerCrash(message, signal_name=name, cause=_last_lines(log), hint=hint, log=log)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"


def _last_lines(log: Path) -> str | None:
    """The last lines of the log; None if it is empty or cannot be read."""
    try:
        with open(open_regular(log), "rb") as file:
            # A log may be large, so only its end is read.
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, size - _TAIL_BYTES))
            text = file.read(_TAIL_BYTES).decode(errors="replace")
    except OSError:
        return None
    lines = text.splitlines()
    return "\n".join(lines[-_TAIL_LINES:]) or None
