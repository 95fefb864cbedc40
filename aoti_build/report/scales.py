"""Scales of charts: from a figure to a position on an axis, in percent of the width of the image.

Positions are percentages, so that an image is as wide as its place on the page while its texts keep
their size. A figure that is not finite, or not positive on a logarithmic scale, is at the low end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

# The part of the width that the axis takes.
_LEFT = 0.0
_RIGHT = 100.0
_MOST_TICKS = 6
_STEPS = (1.0, 2.0, 5.0)
# Figures whose decades floats can hold.
_LEAST_DECADE = -12
_MOST_DECADE = 15


@dataclass(frozen=True)
class Tick:
    """A mark on an axis: its position in percent, and its text."""

    at: float
    text: str
    anchor: str = "middle"


@dataclass(frozen=True)
class Scale:
    """A scale from `low` to `high`. With `log` its figures are logarithms to base 10."""

    low: float
    high: float
    log: bool
    left: float = _LEFT
    right: float = _RIGHT

    def at(self, value: float) -> float:
        """The position of a value in percent. Values beyond the ends are at the ends."""
        place = self._place(value)
        if not math.isfinite(place):
            return self.left
        width = self.high - self.low
        # The width of figures that are all equal, or too close for floats, is 0.
        part = (place - self.low) / width if width else 0.0
        part = min(max(part, 0.0), 1.0)
        return round(self.left + part * (self.right - self.left), 2)

    def _place(self, value: float) -> float:
        if not self.log:
            return value
        return math.log10(value) if value > 0 and math.isfinite(value) else self.low

    def ticks(self, spell: Callable[[float], str]) -> list[Tick]:
        """A few marks at round values, with their texts."""
        values = _round_decades(self) if self.log else _round_values(self.low, self.high)
        ticks = []
        for value in values:
            at = self.at(value)
            ticks.append(Tick(at, spell(value), _anchor(at)))
        return ticks


def _anchor(at: float) -> str:
    """Where the text of a tick stands, so that it does not leave the image."""
    if at < 4:
        return "start"
    return "end" if at > 96 else "middle"


def log_scale(values: Iterable[float], *, left: float = _LEFT, right: float = _RIGHT) -> Scale:
    """A logarithmic scale of whole decades that holds all positive `values`."""
    places = [math.log10(value) for value in values if value > 0 and math.isfinite(value)]
    low = math.floor(min(places, default=0.0))
    high = math.ceil(max(places, default=1.0))
    low = min(max(low, _LEAST_DECADE), _MOST_DECADE - 1)
    high = min(max(high, low + 1), _MOST_DECADE)
    return Scale(low, high, log=True, left=left, right=right)


def tight_scale(
    values: Sequence[float], *, margin: float = 0.05, left: float = _LEFT, right: float = _RIGHT
) -> Scale:
    """A linear scale around all finite `values`, with a margin at both ends."""
    finite = [value for value in values if math.isfinite(value) and abs(value) < 1e100]
    low = min(finite, default=0.0)
    high = max(finite, default=1.0)
    width = high - low
    if width <= abs(high) * 1e-9:
        width = abs(high) or 1.0
        margin = max(margin, 0.05)
    return Scale(low - width * margin, high + width * margin, log=False, left=left, right=right)


def zero_scale(values: Sequence[float], *, left: float = _LEFT, right: float = _RIGHT) -> Scale:
    """A linear scale from 0 to the largest finite value."""
    finite = [value for value in values if math.isfinite(value) and 0 < value < 1e100]
    return Scale(0.0, max(finite, default=1.0), log=False, left=left, right=right)


def _round_decades(scale: Scale) -> list[float]:
    decades = int(scale.high - scale.low)
    stride = max(1, math.ceil(decades / (_MOST_TICKS - 1)))
    return [10.0**exponent for exponent in range(int(scale.low), int(scale.high) + 1, stride)]


def _round_values(low: float, high: float) -> list[float]:
    rough = (high - low) / (_MOST_TICKS - 1)
    if rough <= 0 or not math.isfinite(rough):
        return []
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = 10 * magnitude
    for candidate in _STEPS:
        if candidate * magnitude >= rough:
            step = candidate * magnitude
            break
    first = math.ceil(low / step)
    last = math.floor(high / step)
    return [number * step for number in range(first, last + 1)][: 2 * _MOST_TICKS]
