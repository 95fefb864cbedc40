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
