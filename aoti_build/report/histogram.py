"""The histogram of one output's errors as rectangles, for the page to draw."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from aoti_build.report.figures import Figures
from aoti_build.report.spelling import compact

# In the units of its own viewBox.
_COLUMN, _GAP, _TOP, _BASE, _HEIGHT = 24, 10, 22, 96, 116


def histogram_of(figures: Sequence[Figures]) -> dict[str, Any] | None:
    """Rectangles of the counts of all cases together, with logarithmic heights: one value far out
    must be seen."""
    histograms = [output["histogram"] for output in figures if output.get("histogram")]
    counts: dict[int, int] = {}
    for histogram in histograms:
        for decade, count in zip(histogram["decades"], histogram["counts"], strict=True):
            counts[decade] = counts.get(decade, 0) + count
    if not counts:
        return None
    zero = sum(histogram.get("zero", 0) for histogram in histograms)
    decades = range(min(counts), max(counts) + 1)
    bars = [(0, "none", zero)]
    bars += [
        (_COLUMN * place + _GAP, str(decade), counts.get(decade, 0))
        for place, decade in enumerate(decades, 1)
    ]
    most = max(count for *_, count in bars)
    said = [
        f"{count:,} from 1e{decade} to below 1e{decade + 1}"
        for decade, count in sorted(counts.items())
        if count
    ]
    return {
        "width": _COLUMN * (len(decades) + 1) + _GAP,
        "height": _HEIGHT,
        "base": _BASE,
        "bars": [_bar(x, label, count, most) for x, label, count in bars],
        "atol": _marker(figures, decades),
        "said": (
            f"absolute errors of {len(histograms)} cases: "
            + ", ".join([f"{zero:,} values without any", *said])
        ),
    }


def _bar(x: int, label: str, count: int, most: int) -> dict[str, Any]:
    height = round((_BASE - _TOP) * math.log1p(count) / math.log1p(most), 1) if count else 0
    bar = {
        "x": x + 2,
        "width": _COLUMN - 4,
        "middle": x + _COLUMN // 2,
        "y": _BASE - height,
        "height": height,
    }
    return {
        **bar,
        "label": label.replace("-", "\N{MINUS SIGN}"),
        "count": compact(count) if count else "",
    }


def _marker(figures: Sequence[Figures], decades: range) -> float | None:
    """Where the smallest atol of the cases is on the axis; None if it is not on it."""
    values = [output["atol"] for output in figures if output.get("atol")]
    place = math.log10(min(values)) - decades[0] if values else -1.0
    return round(_GAP + _COLUMN * (1 + place), 1) if 0 <= place <= len(decades) else None
