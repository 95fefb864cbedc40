"""Charts as values that `charts.html.j2` draws as SVG: bars, and intervals of ratios.

`strip_chart` has distributions, and `line_chart` lines over time.

Horizontal positions are percentages of the width, vertical ones are pixels. Each chart has a title
and a description with its figures, for those who do not see it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from aoti_build.report.scales import Scale, Tick, log_scale, tight_scale, zero_scale

# Pixels: of a line of text, of what a row has below its text, and of the axis below the rows.
LINE = 18
BAR = 16
AXIS = 20
# Characters that fit beside each other on a phone, and at all.
_ONE_LINE = 40
_LONGEST_LABEL = 46
_LEAST_WIDTH = 0.6


@dataclass(frozen=True)
class RowText:
    """The texts above what a row shows: `label` on the left, and `figure` on the right.

    If both are too long for a phone, `figure` is on a line of its own. `top` is the upper end of
    the row, `base` that of what is below the texts.
    """

    label: str
    figure: str
    top: int
    base: int

    @property
    def label_y(self) -> int:
        return self.top + 13

    @property
    def figure_y(self) -> int:
        return self.base - 5


def row_text(label: str, figure: str, top: int) -> RowText:
    """The texts of a row whose upper end is at `top`."""
    lines = 1 if len(label) + len(figure) <= _ONE_LINE else 2
    if len(label) > _LONGEST_LABEL:
        label = label[: _LONGEST_LABEL - 1] + "\N{HORIZONTAL ELLIPSIS}"
    return RowText(label, figure, top, top + lines * LINE)


@dataclass(frozen=True)
class BarRow:
    """A bar, whose `kind` is a class of the style sheet."""

    text: RowText
    x: float
    width: float
    kind: str


@dataclass(frozen=True)
class BarChart:
    """Horizontal bars."""

    id: str
    title: str
    description: str
    rows: Sequence[BarRow]
    ticks: Sequence[Tick]
    height: int


@dataclass(frozen=True)
class Bar:
    """What a bar shows. `start` is where it begins on a linear scale."""

    label: str
    value: float
    figure: str
    kind: str = "plain"
    start: float = 0.0


def bar_chart(
    identifier: str,
    title: str,
    bars: Sequence[Bar],
    spell: Callable[[float], str],
    *,
    log: bool = False,
) -> BarChart:
    """A chart of `bars`. With `log` the scale is logarithmic and begins at a whole decade."""
    ends = [bar.start + bar.value for bar in bars]
    scale = log_scale(ends) if log else zero_scale(ends)
    rows = []
    top = 0
    for bar in bars:
        text = row_text(bar.label, bar.figure, top)
        top = text.base + BAR
        x = scale.left if log else scale.at(bar.start)
        width = max(scale.at(bar.start + bar.value) - x, _LEAST_WIDTH)
        x = min(x, scale.right - _LEAST_WIDTH)
        rows.append(BarRow(text, x, round(width, 2), bar.kind))
    parts = [f"{bar.label}: {bar.figure}" for bar in bars]
    return BarChart(
        identifier,
        title,
        "; ".join(parts),
        rows,
        scale.ticks(spell),
        top + AXIS,
    )


@dataclass(frozen=True)
class Interval:
    """A ratio with its interval and its verdict."""

    label: str
    figure: str
    ratio: float
    low: float | None
    high: float | None
    band: float
    state: str


@dataclass(frozen=True)
class IntervalRow:
    """An interval with its positions. Without an interval `low` and `high` are those of `ratio`."""

    text: RowText
    low: float
    high: float
    ratio: float
    band_low: float
    band_width: float
    state: str


@dataclass(frozen=True)
class IntervalChart:
    """Intervals of ratios. `one` is the position of no difference."""

    id: str
    title: str
    description: str
    rows: Sequence[IntervalRow]
    ticks: Sequence[Tick]
    one: float
    height: int


def interval_chart(
    identifier: str,
    title: str,
    intervals: Sequence[Interval],
    spell: Callable[[float], str],
) -> IntervalChart:
    """A chart of ratios. The scale is logarithmic if they differ by more than a factor of 5."""
    values = [1.0]
    for interval in intervals:
        values += [interval.ratio, 1 - interval.band, 1 + interval.band]
        values += [end for end in (interval.low, interval.high) if end is not None]
    scale = _ratio_scale(values)
    rows = []
    top = 0
    for interval in intervals:
        text = row_text(interval.label, interval.figure, top)
        top = text.base + BAR
        rows.append(_interval_row(interval, scale, text))
    return IntervalChart(
        identifier,
        title,
        "; ".join(f"{interval.label}: {interval.figure}" for interval in intervals),
        rows,
        scale.ticks(spell),
        scale.at(1.0),
        top + AXIS,
    )


def _ratio_scale(values: Sequence[float]) -> Scale:
    positive = [value for value in values if value > 0 and math.isfinite(value)]
    if max(positive) > 5 * min(positive):
        return log_scale(positive)
    return tight_scale(positive)


def _interval_row(interval: Interval, scale: Scale, text: RowText) -> IntervalRow:
    low = interval.ratio if interval.low is None else interval.low
    high = interval.ratio if interval.high is None else interval.high
    band_low = scale.at(1 - interval.band)
    return IntervalRow(
        text,
        scale.at(low),
        scale.at(high),
        scale.at(interval.ratio),
        band_low,
        round(scale.at(1 + interval.band) - band_low, 2),
        interval.state,
    )
