"""Colours for a terminal: verdicts, actions and the first word of errors, and nothing else."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TextIO

_GREEN, _YELLOW, _RED = 32, 33, 31
_COLOURS: Mapping[str, int] = {
    **dict.fromkeys(("compiled", "reused", "repacked", "restored", "rechecked"), _GREEN),
    **dict.fromkeys(("reproduced", "passed", "up-to-date", "ok"), _GREEN),
    **dict.fromkeys(("unavailable", "unverified", "not-started", "incomplete"), _YELLOW),
    **dict.fromkeys(("warning", "warn", "build", "restore", "recheck"), _YELLOW),
    **dict.fromkeys(("failed", "mismatch", "crashed", "timeout", "missing"), _RED),
    **dict.fromkeys(("refused", "error", "fail", "FAILED"), _RED),
}


def has_colours(stream: TextIO | None) -> bool:
    """Whether to colour what is written to a stream: it is a terminal, and NO_COLOR
    (https://no-color.org) is not set."""
    if stream is None or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    try:
        return stream.isatty()
    except ValueError:  # it is closed
        return False


def coloured(lines: Sequence[str]) -> list[str]:
    """The lines with their verdict or action in colour."""
    return [_coloured(line) for line in lines]


@cache
def _patterns() -> tuple[re.Pattern[str], ...]:
    """Each has the text before the word, and the word."""
    word = "|".join(map(re.escape, _COLOURS))
    return (
        # The first word of an error or of a result.
        re.compile(r"(?P<before>)(?P<word>error|warning|unavailable|FAILED|passed)(?=:)"),
        # The second column of a table. That of `doctor` may have the name of a device before it.
        re.compile(rf"(?P<before>\S+ {{2,}}(?:(?:cpu|cuda) {{2,}})?)(?P<word>{word})(?=  | \(|$)"),
        # ``resnet18/cpu compiled in 44.4 s`` and ``resnet18/cpu: build``.
        re.compile(rf"(?P<before>\S+ )(?P<word>{word})(?= (?:in|after) \d)"),
        re.compile(rf"(?P<before>\S+: )(?P<word>{word})$"),
    )


def _coloured(line: str) -> str:
    for pattern in _patterns():
        match = pattern.match(line)
        if match is not None:
            word = match["word"]
            start = match.end("before")
            end = start + len(word)
            return f"{line[:start]}\x1b[{_COLOURS[word]}m{word}\x1b[0m{line[end:]}"
    return line
