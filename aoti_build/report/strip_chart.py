"""Distributions, one below the other, as values that `charts.html.j2` draws."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from aoti_build.commands.report.bench import Bin
from aoti_build.report.charts import AXIS, RowText, row_text
from aoti_build.report.scales import Scale, Tick, log_scale, tight_scale

# Pixels of a distribution below its text.
_HEIGHT = 46
_BARS = 60


@dataclass(frozen=True)
class Strip:
    """The distribution of one row: its bins, and figures to mark on it."""

    label: str
    figure: str
    bins: Sequence[Bin]
    marks: Sequence[float]
    kind: str = "plain"


@dataclass(frozen=True)
class StripBar:
    """A bar of a distribution."""

    x: float
    width: float
    y: float
    height: float


@dataclass(frozen=True)
class StripRow:
    """A distribution with its positions. `marks` are the positions of p50, p95 and p99."""

    text: RowText
    base: int
    bars: Sequence[StripBar]
    marks: Sequence[float]
    kind: str


@dataclass(frozen=True)
class StripChart:
    """Distributions, one below the other, on one scale."""

    id: str
    title: str
    description: str
    rows: Sequence[StripRow]
    ticks: Sequence[Tick]
    height: int


def strip_chart(
    identifier: str,
    title: str,
    strips: Sequence[Strip],
    spell: Callable[[float], str],
) -> StripChart:
    """A chart of distributions. Outliers beyond 1.3 times the largest p99 are counted at the end.

    Without histograms only the marks are drawn.
    """
    marks = [mark for strip in strips for mark in strip.marks]
    limit = 1.3 * max(marks, default=1.0)
    ends = [*marks]
    for strip in strips:
        ends += [part.low for part in strip.bins if 0 < part.low <= limit]
        ends += [part.high for part in strip.bins if part.high <= limit]
    positive = [end for end in ends if end > 0 and math.isfinite(end)]
    is_wide = bool(positive) and max(positive) > 8 * min(positive)
    scale = log_scale(positive) if is_wide else tight_scale(positive)
    rows = []
    top = 0
    for strip in strips:
        text = row_text(strip.label, strip.figure, top)
        top = text.base + _HEIGHT
        base = top - 6
        bars = _strip_bars(strip.bins, scale, text.base, base)
        marked = [scale.at(mark) for mark in strip.marks]
        rows.append(StripRow(text, base, bars, marked, strip.kind))
    return StripChart(
        identifier,
        title,
        "; ".join(f"{strip.label}: {strip.figure}" for strip in strips),
        rows,
        scale.ticks(spell),
        top + AXIS,
    )


def _strip_bars(bins: Sequence[Bin], scale: Scale, top: int, base: int) -> list[StripBar]:
    """The bins of several processes, counted again in equal parts of the width.

    A bin that covers several parts is shared among them.
    """
    width = (scale.right - scale.left) / _BARS
    counts = [0.0] * _BARS
    for part in bins:
        low = (scale.at(part.low) - scale.left) / width
        high = (scale.at(part.high) - scale.left) / width
        _share(counts, low, high, part.count)
    largest = max(counts)
    if largest <= 0:
        return []
    bars = []
    for number, count in enumerate(counts):
        if count <= 0:
            continue
        height = max(1.0, (base - top) * count / largest)
        bars.append(
            StripBar(
                round(scale.left + number * width, 2),
                round(width * 0.86, 2),
                round(base - height, 1),
                round(height, 1),
            )
        )
    return bars


def _share(counts: list[float], low: float, high: float, count: float) -> None:
    """Add `count` to the parts from `low` to `high`, in proportion to what each covers."""
    last = len(counts) - 1
    if high - low < 1e-9:
        counts[min(int(high), last)] += count
        return
    for number in range(min(int(low), last), min(int(high), last) + 1):
        covered = min(high, number + 1) - max(low, number)
        counts[number] += count * max(0.0, covered) / (high - low)
