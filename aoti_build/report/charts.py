"""Charts as values that `charts.html.j2` draws as SVG: bars, intervals, distributions and lines.

Horizontal positions are percentages of the width, vertical ones are pixels. Each chart has a title
and a description with its figures, for those who do not see it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from aoti_build.commands.report_bench import Bin
from aoti_build.report.scales import Scale, Tick, log_scale, tight_scale, zero_scale

# Pixels: of a line of text, of what a row has below its text, and of the axis below the rows.
LINE = 18
BAR = 16
AXIS = 20
STRIP = 46
_STRIP_BARS = 60
# Characters that fit beside each other on a phone, and at all.
_ONE_LINE = 40
_LONGEST_LABEL = 46
LINE_TOP = 12
LINE_BASE = 128
LINE_HEIGHT = 150
# The part of a line chart's width that the labels of the vertical axis take.
_LINE_LEFT = 17.0
_LINE_RIGHT = 97.0
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


def _row_text(label: str, figure: str, top: int) -> RowText:
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
        text = _row_text(bar.label, bar.figure, top)
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
        text = _row_text(interval.label, interval.figure, top)
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
        text = _row_text(strip.label, strip.figure, top)
        top = text.base + STRIP
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
    width = (scale.right - scale.left) / _STRIP_BARS
    counts = [0.0] * _STRIP_BARS
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


@dataclass(frozen=True)
class Dot:
    """A point of a line, with its text."""

    x: float
    y: float
    text: str


@dataclass(frozen=True)
class StepMark:
    """A step: its position and its text."""

    x: float
    text: str
    anchor: str
    state: str


@dataclass(frozen=True)
class LineChart:
    """A line over time. `path` has its points in percent and pixels, for a stretched image."""

    id: str
    title: str
    description: str
    path: str
    dots: Sequence[Dot]
    steps: Sequence[StepMark]
    ticks: Sequence[tuple[float, str]]
    first: str
    last: str
    height: int = LINE_HEIGHT


def line_chart(
    identifier: str,
    title: str,
    points: Sequence[tuple[float, float, str]],
    steps: Sequence[tuple[int, str, str]],
    spell: Callable[[float], str],
    *,
    first: str,
    last: str,
    description: str,
) -> LineChart:
    """A chart of `points`: time, value and text. `steps` are index, text and state."""
    across = tight_scale(
        [time for time, _, _ in points], margin=0.0, left=_LINE_LEFT, right=_LINE_RIGHT
    )
    up = tight_scale([value for _, value, _ in points], margin=0.12, left=LINE_BASE, right=LINE_TOP)
    dots = [Dot(across.at(time), up.at(value), text) for time, value, text in points]
    marks = []
    for index, text, state in steps:
        if 0 < index < len(dots):
            x = round((dots[index - 1].x + dots[index].x) / 2, 2)
            marks.append(StepMark(x, text, "end" if x > 55 else "start", state))
    ticks = [(tick.at, tick.text) for tick in up.ticks(spell)]
    return LineChart(
        identifier,
        title,
        description,
        " ".join(f"{dot.x},{dot.y}" for dot in dots),
        dots,
        marks,
        ticks,
        first,
        last,
    )
