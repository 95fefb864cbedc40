"""Calling the programs that a compile calls, and what they say when they fail."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence

_LIMIT = 60.0  # seconds; a first call on a cold network disk is slow
_TELLING = re.compile(r"error|cannot find|undefined reference|not found|No such file|No space")


def failure_of(words: Sequence[str]) -> str | None:
    """None if the program ended well, else what it printed, in English where it can."""
    try:
        done = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_LIMIT,
            check=False,
            text=True,
            errors="replace",
            env={**os.environ, "LC_ALL": "C"},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if done.returncode == 0:
        return None
    return done.stdout.strip() or f"it ended with status {done.returncode} and said nothing"


def gist(printed: str) -> str:
    """The first three lines that tell of an error, else the last three."""
    lines = [line.strip() for line in printed.splitlines() if line.strip()]
    return "\n".join(([line for line in lines if _TELLING.search(line)] or lines[-3:])[:3])
