"""Percentiles of measured values."""

from __future__ import annotations

import math
from collections.abc import Sequence


def nearest_rank(ordered: Sequence[float], part: float) -> float:
    """The smallest of the ordered values that this part of all do not exceed. It was measured."""
    return ordered[math.ceil(part * len(ordered)) - 1]
