"""Figures and facts as text, each kind in one way, so that a column of them lines up."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

# A build with nothing to do imports this module, and should not import msgspec.
if TYPE_CHECKING:
    from aoti_build.figures import Vacuous

# Characters that XML 1.0 cannot have, not even escaped: control characters, lone surrogates and two
# non-characters. It is compiled at its first use, because that takes milliseconds.
_NOT_XML = "[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]"


def xml_text(text: str) -> str:
    """The text with U+FFFD for every character that neither XML nor a page can have.

    Messages quote what other programs print.
    """
    return re.sub(_NOT_XML, "\ufffd", text)


def scientific(value: float | str | None) -> str:
    """A number in constant width. A text such as "nan" stays as it is."""
    if value is None:
        return "none"
    if isinstance(value, str):
        return value
    return "0" if value == 0 else f"{value:.2e}"


def infinite(value: float | str | None) -> str:
    return "infinite" if value is None else scientific(value)


def decibels(value: float | None) -> str:
    return "infinite" if value is None else f"{value:.1f}"


def part(value: float | None) -> str:
    return "none" if value is None else f"{value:.6f}"


def cosine(value: float | None) -> str:
    return "none" if value is None else f"{value:.9f}"


def exact(value: object) -> str:
    """A number with as many digits as distinguish two float32."""
    return f"{value:.9g}" if isinstance(value, float) else str(value)


def index(value: Sequence[int]) -> str:
    return f"[{', '.join(map(str, value))}]"


def compact(count: int) -> str:
    """A count in at most four characters, which fit on a bar."""
    if count < 1000:
        return str(count)
    value = float(count)
    unit = ""
    for next_unit in ("k", "M", "G", "T"):
        # From here on the value would be rounded to 1000.
        if value < 999.5:
            break
        value /= 1000
        unit = next_unit
    return f"{value:.1f}{unit}" if value < 9.95 else f"{value:.0f}{unit}"


def duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def loss(figures: Mapping[str, Any]) -> str:
    """The loss of an output against its baseline: ``output: 38.2 dB, relative RMSE 1.23e-02``."""
    name = figures["name"]
    if figures["relative_rmse"] is None:
        return f"{name}: the baseline's is zero everywhere"
    ratio = decibels(figures["sqnr_db"])
    relative = scientific(figures["relative_rmse"])
    excess = "" if figures["ok"] else ", more than `limit`"
    return f"{name}: {ratio} dB, relative RMSE {relative}{excess}"


def vacuous_text(entry: Vacuous) -> str:
    return f"{entry.output}: the comparison would pass for other {entry.of} too"


def time_text(seconds: float) -> str:
    """Seconds with three digits in a unit that suits them: ``71.3 ms``."""
    if seconds == 0:
        return "0 s"
    if abs(seconds) < 1e-3:
        return f"{_three_digits(seconds * 1e6)} µs"
    if abs(seconds) < 1:
        return f"{_three_digits(seconds * 1e3)} ms"
    if abs(seconds) < 120:
        return f"{_three_digits(seconds)} s"
    return f"{_three_digits(seconds / 60)} min"


def _three_digits(value: float) -> str:
    size = abs(value)
    if size >= 99.95:
        return f"{value:.0f}"
    return f"{value:.1f}" if size >= 9.995 else f"{value:.2f}"


def ratio_text(ratio: float) -> str:
    """``0.968``, ``0.0031`` or ``12.4``; more digits would be noise."""
    if ratio < 0.0995:
        return f"{ratio:.2g}"
    if 99.95 <= ratio < 1e6:
        return f"{ratio:.0f}"
    return f"{ratio:.3f}" if ratio < 9.9995 else f"{ratio:.3g}"


def change_text(ratio: float) -> str:
    """What a ratio of new to old means: ``+5.2 %``, ``325x less`` or ``3.1x more``."""
    if 0 < ratio < 0.5:
        return f"{1 / ratio:.3g}x less"
    if ratio > 2:
        return f"{ratio:.3g}x more"
    return f"{(ratio - 1) * 100:+.1f} %".replace("-", "\N{MINUS SIGN}")


def axis_text(text: str) -> str:
    """A figure with its unit, without zeros at its end: ``40 ms``."""
    number, space, unit = text.partition(" ")
    if "." in number:
        number = number.rstrip("0").rstrip(".")
    return number + space + unit


def moment_text(time: str) -> str:
    """A time in ISO 8601 for people: ``2026-12-01 12:14:03 UTC``. Another text stays as it is."""
    day, letter, rest = time.partition("T")
    is_utc = rest.endswith(("Z", "+00:00"))
    if not letter or not is_utc:
        return time
    return f"{day} {rest.removesuffix('Z').removesuffix('+00:00')} UTC"
