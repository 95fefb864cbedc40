"""Finds step changes in a series of figures that were measured one after the other.

The series is split where the means of the logarithms before and after differ the most, by the
two-sample t statistic. A permutation test decides whether that is more than chance: in how many
random orders of the same figures would the best split be as good? What a split leaves on each side
is then searched in the same way (binary segmentation: A. J. Scott and M. Knott, Biometrics 30,
1974). The permutation test of the largest statistic allows for the free choice of the split, and
assumes no distribution. It assumes that without a step every order of the figures is as likely.

docs/explanation/measuring.md has what a simulation says about false and missed steps.
This module imports the standard library only.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from operator import mul

# The probability of a step in a series without one.
LEVEL = 0.01
# A step has at least so many entries on each side. One odd entry is no step.
LEAST_ENTRIES = 3
# Smaller steps are not reported: nobody acts on them.
LEAST_CHANGE = 0.01
_ORDERS = 1999
# Sums in another order differ in their last digits.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Step:
    """A step change in a series.

    Attributes:
        index: of the first figure after the step.
        ratio: the mean after the step divided by that before it, up to the next steps. 1.05 means
            5 % more. The means are geometric.
        p_value: how probable so good a split would be without a step. 0 for exact figures.
    """

    index: int
    ratio: float
    p_value: float


def find_steps(figures: Sequence[float], *, exact: bool = False) -> list[Step]:
    """The steps in `figures`, in their order.

    With `exact` the figures have no noise, and every change is a step. Raises ValueError for a
    figure that is not above 0.
    """
    if any(figure <= 0 for figure in figures):
        raise ValueError("a figure is not above 0")
    logarithms = [math.log(figure) for figure in figures]
    found = _changes(logarithms) if exact else _splits(logarithms)
    return _with_ratios(logarithms, sorted(found.items()))


def changed_facts(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """What differs between the facts of two entries: ``torch 2.13.0 -> 2.14.1``."""
    changes = []
    for name in sorted({*before, *after}):
        old, new = before.get(name, "(none)"), after.get(name, "(none)")
        if old != new:
            changes.append(f"{name} {old} -> {new}")
    return changes


def _changes(logarithms: Sequence[float]) -> dict[int, float]:
    found = {}
    for index in range(1, len(logarithms)):
        if logarithms[index] != logarithms[index - 1]:
            found[index] = 0.0
    return found


def _splits(logarithms: Sequence[float]) -> dict[int, float]:
    # The same history gives the same answer each time.
    return _search(logarithms, 0, random.Random(0))  # noqa: S311 - no secret


def _search(part: Sequence[float], start: int, generator: random.Random) -> dict[int, float]:
    """The splits of a part of the series that begins at `start`: index and probability."""
    weights = _weights(len(part))
    if not weights:
        return {}
    mean = math.fsum(part) / len(part)
    centred = [value - mean for value in part]
    statistics = _statistics(centred, weights)
    best = max(statistics)
    p_value = _p_value(centred, weights, best, generator)
    if p_value > LEVEL:
        return {}
    split = LEAST_ENTRIES + statistics.index(best)
    return {
        **_search(part[:split], start, generator),
        start + split: p_value,
        **_search(part[split:], start + split, generator),
    }


def _weights(count: int) -> list[float]:
    """The factor of the squared sum of the first k values, for each allowed k."""
    allowed = range(LEAST_ENTRIES, count - LEAST_ENTRIES + 1)
    return [count / (first * (count - first)) for first in allowed]


def _statistics(centred: Sequence[float], weights: Sequence[float]) -> list[float]:
    """For each allowed split the sum of squares between its two sides.

    The values have the mean 0. Their total sum of squares is the same in every order, so the t
    statistic grows with this sum.
    """
    sums = list(accumulate(centred))[LEAST_ENTRIES - 1 : LEAST_ENTRIES - 1 + len(weights)]
    return list(map(mul, map(mul, sums, sums), weights))


def _p_value(
    centred: Sequence[float], weights: Sequence[float], best: float, generator: random.Random
) -> float:
    """The part of random orders whose best split is as good, the real order included.

    It stops when the answer must be above `LEVEL` (J. Besag and P. Clifford, Biometrika 78, 1991),
    which saves nearly all the time for a series without a step.
    """
    most = int(LEVEL * (_ORDERS + 1))
    limit = best * (1 - _ROUNDING)
    order = list(centred)
    as_good = 1
    for _ in range(_ORDERS):
        generator.shuffle(order)
        if max(_statistics(order, weights)) >= limit:
            as_good += 1
        if as_good > most:
            return 1.0
    return as_good / (_ORDERS + 1)


def _with_ratios(logarithms: Sequence[float], splits: Sequence[tuple[int, float]]) -> list[Step]:
    """The steps between the parts that all splits leave. Small ones are left out."""
    bounds = [0, *(index for index, _ in splits), len(logarithms)]
    means = [
        math.fsum(logarithms[begin:end]) / (end - begin)
        for begin, end in pairwise(bounds)
        if end > begin
    ]
    steps = []
    for number, (index, p_value) in enumerate(splits):
        ratio = math.exp(means[number + 1] - means[number])
        if abs(ratio - 1) >= LEAST_CHANGE:
            steps.append(Step(index, ratio, p_value))
    return steps
