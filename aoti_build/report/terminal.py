"""Parts that the reports for a terminal share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from typing import TypeVar

from aoti_build.artifact.reasons import Reason, ReasonKind
from aoti_build.errors import without_colours

_REASONS_SHOWN = 3
_AnyReport = TypeVar("_AnyReport")
# Ages below a limit are shown in a unit of so many seconds.
_AGE_UNITS = (
    (120, "s", 1),
    (7200, "min", 60),
    (172800, "h", 3600),
)


def for_terminal(render: Callable[[_AnyReport], list[str]]) -> Callable[[_AnyReport], list[str]]:
    """A decorator that replaces all characters which a terminal obeys or cannot encode.

    Names and values come from files that anybody may have written.
    """

    @wraps(render)
    def render_printable(report: _AnyReport) -> list[str]:
        return [_printable(line) for line in render(report)]

    return render_printable


def _printable(text: str) -> str:
    # Nearly all texts are printable, and this check is fast.
    if text.isprintable():
        return text
    characters = []
    for character in without_colours(text):
        if character == "\t" or character.isprintable():
            characters.append(character)
        else:
            characters.append("\N{REPLACEMENT CHARACTER}")
    return "".join(characters)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Left-aligned columns, two spaces apart. A column without any content is left out."""
    columns = []
    for index, title in enumerate(head):
        cells = [row[index] for row in rows]
        if any(cells):
            columns.append(_padded([title, *cells]))
    lines = []
    for number in range(len(rows) + 1):
        line = "  ".join(column[number] for column in columns)
        lines.append(line.rstrip())
    return lines


def _padded(column: Sequence[str]) -> list[str]:
    width = max(len(cell) for cell in column)
    return [cell.ljust(width) for cell in column]


def error_lines(error: object, word: str = "error") -> list[str]:
    """The error in as many lines as its text has, the first with `word`."""
    return f"{word}: {error}".splitlines()


def reasons_text(reasons: Sequence[Reason], unverified: str | None = None) -> str:
    """The first few reasons in one line, and why the artifact was never compared with eager
    mode."""
    parts = [str(reason) for reason in reasons[:_REASONS_SHOWN]]
    if len(reasons) > _REASONS_SHOWN:
        parts.append(f"and {len(reasons) - _REASONS_SHOWN} more")
    # The text of that reason is `unverified` itself.
    is_a_reason = any(reason.reason == ReasonKind.UNVERIFIED for reason in reasons)
    if unverified is not None and not is_a_reason:
        parts.append(f"unverified: {unverified}")
    return "; ".join(parts)


def count_text(words: Iterable[str], noun: str) -> str:
    """``3 targets: 2 compiled, 1 up-to-date``."""
    counts = Counter(str(word) for word in words)
    total = counts.total()
    parts = ", ".join(f"{count} {word}" for word, count in counts.items())
    plural = "" if total == 1 else "s"
    return f"{total} {noun}{plural}: {parts}"


def size_text(size: int | None) -> str:
    """Bytes in a binary unit: ``45.0 MiB``."""
    if size is None:
        return ""
    if size < 1024:
        return f"{size} B"
    value = float(size)
    for unit in ("KiB", "MiB"):
        value /= 1024
        if value < 1024:
            return f"{value:.1f} {unit}"
    return f"{value / 1024:.1f} GiB"


def age_text(seconds: float | None) -> str:
    """Seconds in whole units: ``10 min``."""
    if seconds is None:
        return ""
    for limit, unit, length in _AGE_UNITS:
        if seconds < limit:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds / 86400:.0f} d"


def number_text(value: object) -> str:
    """A figure with four digits; empty for anything but a number."""
    return f"{value:.4g}" if isinstance(value, float | int) else ""
