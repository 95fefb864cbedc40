"""The histogram of one output's errors as rectangles, for the page to draw."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from aoti_build.figures import OutputFigures
from aoti_build.report.spelling import compact

# In the units of the image's own viewBox.
_COLUMN_WIDTH = 24
_LEFT_GAP = 10
_TOP = 22
_BASE = 96
_HEIGHT = 116


@dataclass(frozen=True)
class Bar:
    """A bar with the text of its count, and the decade of its errors as the label."""

    x: int
    y: float
    width: int
    height: float
    middle: int
    label: str
    count: str


@dataclass(frozen=True)
class HistogramImage:
    """An image. `base` is the height of the axis, and `atol` the position of the bound on it."""

    width: int
    height: int
    base: int
    bars: Sequence[Bar]
    atol: float | None
    description: str


def histogram_of(outputs: Sequence[OutputFigures]) -> HistogramImage | None:
    """The histogram of an output's errors in all cases together; None without any errors.

    Heights are logarithmic, so that a single value far from the others is visible.
    """
    histograms = [output.histogram for output in outputs if output.histogram is not None]
    counts: Counter[int] = Counter()
    for histogram in histograms:
        for decade, count in zip(histogram.decades, histogram.counts, strict=True):
            counts[decade] += count
    if not counts:
        return None
    zero_count = sum(histogram.zero for histogram in histograms)
    decades = range(min(counts), max(counts) + 1)
    largest = max(zero_count, *counts.values())
    # The first bar counts values without any error, which no decade has.
    bars = [_bar(0, "none", zero_count, largest)]
    for position, decade in enumerate(decades, 1):
        x = _COLUMN_WIDTH * position + _LEFT_GAP
        bar = _bar(
            x,
            str(decade),
            counts[decade],
            largest,
        )
        bars.append(bar)
    return HistogramImage(
        width=_COLUMN_WIDTH * (len(decades) + 1) + _LEFT_GAP,
        height=_HEIGHT,
        base=_BASE,
        bars=bars,
        atol=_atol_position(outputs, decades),
        description=_description(len(histograms), zero_count, counts),
    )


def _bar(
    x: int,
    label: str,
    count: int,
    largest: int,
) -> Bar:
    """The bar in the column at `x`. The bar of the `largest` count has the full height."""
    # log1p gives a single value a visible height.
    height = 0.0
    if count:
        part = math.log1p(count) / math.log1p(largest)
        height = round((_BASE - _TOP) * part, 1)
    # Bars are narrower than their columns, so that they do not touch.
    return Bar(
        x=x + 2,
        y=_BASE - height,
        width=_COLUMN_WIDTH - 4,
        height=height,
        middle=x + _COLUMN_WIDTH // 2,
        # The same sign as in the footer of the page.
        label=label.replace("-", "\N{MINUS SIGN}"),
        count=compact(count) if count else "",
    )


def _description(cases: int, zero_count: int, counts: Counter[int]) -> str:
    """The histogram in words."""
    parts = [f"{zero_count:,} values without any"]
    for decade, count in sorted(counts.items()):
        if count:
            parts.append(f"{count:,} from 1e{decade} to below 1e{decade + 1}")
    return f"absolute errors of {cases} cases: {', '.join(parts)}"


def _atol_position(outputs: Sequence[OutputFigures], decades: range) -> float | None:
    """The position of the smallest atol of the cases on the axis; None if it is not on the axis."""
    values = [output.atol for output in outputs if output.atol]
    if not values:
        return None
    distance = math.log10(min(values)) - decades[0]
    if not 0 <= distance <= len(decades):
        return None
    return round(_LEFT_GAP + _COLUMN_WIDTH * (1 + distance), 1)
