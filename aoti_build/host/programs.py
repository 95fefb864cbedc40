"""Programs of this host and their versions."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from functools import cache

_TIMEOUT_SECONDS = 30


@cache
def program_version(command: str) -> str:
    """The output of ``command --version``, with its lines joined; "absent" if there is no program.

    Of a C++ compiler it is the first line, which names the release.
    """
    try:
        words = shlex.split(command)
    except ValueError as error:
        return f"unusable: {error}"
    if not words or shutil.which(words[0]) is None:
        return "absent"
    try:
        process = subprocess.run(
            [*words, "--version"],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT_SECONDS,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"unusable: {error}"
    lines = [line.strip() for line in process.stdout.splitlines() if line.strip()]
    if not lines:
        return f"exit {process.returncode}"
    if "g++" in command or "clang" in command:
        return lines[0]
    return " | ".join(lines)


def compiler_command() -> str:
    """The C++ compiler that inductor will call: CXX, else the platform's default.

    Unlike a shell, inductor takes an empty CXX as it is.
    """
    default = "clang++" if sys.platform == "darwin" else "g++"
    return os.environ.get("CXX", default)
