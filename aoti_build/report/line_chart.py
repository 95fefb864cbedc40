"""A line over time with its steps, as values that `charts.html.j2` draws."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from aoti_build.report.scales import tight_scale

# Pixels.
_TOP = 12
_BASE = 128
_HEIGHT = 150
# The labels of the vertical axis take the part of the width up to `_LEFT`.
_LEFT = 17.0
_RIGHT = 97.0


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
    height: int = _HEIGHT


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
    across = tight_scale([time for time, _, _ in points], margin=0.0, left=_LEFT, right=_RIGHT)
    up = tight_scale([value for _, value, _ in points], margin=0.12, left=_BASE, right=_TOP)
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
