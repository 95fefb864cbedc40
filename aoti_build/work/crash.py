"""A worker that ended without a result: by which signal, what it printed last, and what to do."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from aoti_build.common.reading import open_regular
from aoti_build.errors import BuildError

_TAIL, _TAIL_BYTES = 12, 1 << 16


class WorkerCrash(BuildError):
    """A worker ended without a result; `signal_name` says by which signal, if by one."""

    def __init__(self, message: str, *, signal_name: str | None, **answers: Any) -> None:
        super().__init__(message, **answers)
        self.signal_name = signal_name


def crash_of(status: int, log: Path) -> WorkerCrash:
    """Of a worker with this exit status, negative for a signal."""
    if status >= 0:
        message, name = f"the worker ended with status {status} and no result", None
    else:
        name = _signal_name(-status)
        message = f"the worker was killed by {name}"
    hints = {
        "SIGKILL": "the system was probably out of memory: try --jobs 1",
        "SIGSEGV": (
            "native code crashed: `invoke doctor` says whether the compiler is to blame, and which"
            " CXX to take"
        ),
        "SIGILL": (
            "the code uses instructions this processor lacks; `invoke doctor` tries a small model"
        ),
    }
    return WorkerCrash(
        message,
        signal_name=name,
        cause=_tail(log),
        hint=hints.get(name or "", "see the log"),
        log=log,
    )


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"


def _tail(log: Path) -> str | None:
    """The last lines of the log, however long it is."""
    try:
        with open(open_regular(log), "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
            lines = file.read(_TAIL_BYTES).decode(errors="replace").splitlines()
    except OSError:
        return None
    return "\n".join(lines[-_TAIL:]) or None
