"""Calls of the programs that a compile calls, and their messages when they fail."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from aoti_build.common.directories import temporary_directory
from aoti_build.errors import DirectoryError

_TIMEOUT_SECONDS = 60.0  # a first call on a cold network disk is slow
_ERROR = re.compile(r"error|cannot find|undefined reference|not found|No such file|No space")
_GIST_LINES = 3


def failure_of(words: Sequence[str]) -> str | None:
    """Run a program. Returns None if it succeeded, else its output, in English if possible."""
    try:
        process = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_TIMEOUT_SECONDS,
            check=False,
            text=True,
            errors="replace",
            env={**os.environ, "LC_ALL": "C"},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if process.returncode == 0:
        return None
    output = process.stdout.strip()
    return output or f"it ended with status {process.returncode} and printed nothing"


def compile_failure(words: list[str], name: str, text: str, *last_words: str) -> str | None:
    """The compiler's output if a file of this name and text does not compile, else None."""
    try:
        parent = temporary_directory()
        with tempfile.TemporaryDirectory(dir=parent, prefix="aoti_build-doctor-") as scratch:
            source = Path(scratch, name)
            source.write_text(text, encoding="utf-8")
            output = source.with_suffix(".so")
            return failure_of([*words, str(source), "-o", str(output), *last_words])
    except (OSError, DirectoryError) as error:
        return str(error)


def gist(output: str) -> str:
    """The first three lines of a program's output that report an error, else the last three."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    error_lines = [line for line in lines if _ERROR.search(line)]
    if error_lines:
        return "\n".join(error_lines[:_GIST_LINES])
    return "\n".join(lines[-_GIST_LINES:])
