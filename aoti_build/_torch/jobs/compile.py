"""The `compile` job: call a C++ compiler in a process group that ends with the parent. torch is not
imported."""

from __future__ import annotations

import subprocess
import sys

from aoti_build._torch.events import Events
from aoti_build.errors import ToolchainError
from aoti_build.messages import CompileJob, CompileResult

_SHOWN = 3


def compile(job: CompileJob, events: Events) -> CompileResult:  # noqa: A001 - the job's name
    """Raises `ToolchainError` if the compiler fails."""
    with events.phase("compile"):
        try:
            done = subprocess.run(
                job.command, capture_output=True, stdin=subprocess.DEVNULL, check=False
            )
        except OSError as error:
            raise _failed(job.what, str(error)) from error
        printed = (done.stdout + done.stderr).decode(errors="replace")
        print(printed, file=sys.stderr, end="")
    if done.returncode != 0:
        lines = [line for line in printed.splitlines() if "error" in line or "cannot find" in line]
        raise _failed(
            job.what,
            "\n".join((lines or printed.splitlines())[:_SHOWN]) or f"status {done.returncode}",
        )
    return CompileResult(seconds=events.seconds)


def _failed(what: str, cause: str) -> ToolchainError:
    return ToolchainError(
        f"{what} could not be compiled",
        cause=cause,
        hint="`invoke doctor` tries the compiler and names one that will do",
    )
