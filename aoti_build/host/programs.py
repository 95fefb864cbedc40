"""Programs of this host and their versions."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from functools import cache


@cache
def program_version(command: str) -> str:
    """The part of ``command --version`` that names the release: every line, joined; "absent" if it
    cannot run."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        return f"unusable: {error}"
    if not words or shutil.which(words[0]) is None:
        return "absent"
    try:
        answer = subprocess.run(
            [*words, "--version"],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=30,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"unusable: {error}"
    lines = [line.strip() for line in answer.stdout.splitlines() if line.strip()]
    return (
        " | ".join(lines[:1] if "g++" in command or "clang" in command else lines)
        or f"exit {answer.returncode}"
    )


def compiler_command() -> str:
    """The C++ compiler that inductor will call: CXX, else the platform's.

    Unlike a shell, inductor takes an empty CXX as it is.
    """
    return os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
