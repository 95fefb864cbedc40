"""Parts that the reports for a terminal share."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps
from typing import TextIO, TypeVar

from aoti_build.artifact.reasons import Reason, ReasonKind
from aoti_build.errors import without_colours

_REASONS_SHOWN = 3
_CONTINUATION = 4
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
        return [printable_line(line) for line in render(report)]

    return render_printable


def printable_line(text: str) -> str:
    """The text without colours, and with U+FFFD for all else that a terminal obeys, line breaks
    too. An escape sequence of another kind leaves a trace, because it may hide a name."""
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


def terminal_width(stream: TextIO) -> int | None:
    """The columns of a terminal; None if the stream is none."""
    size = terminal_size(stream)
    return size.columns if size else None


def terminal_size(stream: TextIO) -> os.terminal_size | None:
    """The size of a terminal; None if the stream is none."""
    try:
        if not stream.isatty():
            return None
        size = os.get_terminal_size(stream.fileno())
    except (OSError, ValueError):
        return None
    # A serial line has no size.
    return os.terminal_size((size.columns or 80, size.lines or 24))


def wrapped(lines: Sequence[str], width: int | None) -> list[str]:
    """The lines, broken at `width` columns. What continues a line is indented more than it.

    Without a width the lines stay whole, as a program wants them.
    """
    if width is None:
        return list(lines)
    import textwrap  # not on the no-op path

    result = []
    for line in lines:
        indentation = len(line) - len(line.lstrip()) + _CONTINUATION
        if len(line) <= width or indentation >= width // 2:
            result.append(line)
            continue
        result += textwrap.wrap(
            line,
            width,
            subsequent_indent=" " * indentation,
            break_on_hyphens=False,
            drop_whitespace=True,
        )
    return result


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


def speed_text(latency: Mapping[str, float | None] | None) -> str:
    """``1.8x (indicative)``: how many times as fast as eager mode a call is. Empty if that is not
    known."""
    if not latency:
        return ""
    artifact, eager = latency.get("artifact"), latency.get("eager")
    return f"{eager / artifact:.1f}x (indicative)" if artifact and eager else ""


def latency_text(latency: Mapping[str, float | None] | None) -> str:
    """``0.42 ms a call, eager 0.77 ms (indicative)``. Empty if nothing was timed."""
    if not latency or not latency.get("artifact"):
        return ""
    artifact, eager = latency["artifact"] or 0.0, latency.get("eager")
    compared = f", eager {milliseconds(eager)}" if eager else ""
    return f"{milliseconds(artifact)} a call{compared} (indicative)"


def milliseconds(seconds: float) -> str:
    """Three digits: ``0.0123 ms``, ``45.6 ms``."""
    return f"{float(f'{seconds * 1000:.3g}'):g} ms"


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
