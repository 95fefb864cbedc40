"""What pairs of measured times say: is the new one better, the same, or worse than the old one?

The difference of a pair is the logarithm of new / old. Two statements must agree on a verdict: the
interval of the mean difference by Student's t, which assumes a normal distribution, and the exact
sign-flip test, which assumes only that differences are symmetrical.

The rules are fixed before anything is measured:

- There are `PAIRS` pairs. If the verdict is then unknown, there are as many again, once.
- Both looks together may err with the probability `ERROR`, each with half of it.
- With several candidates, Holm's procedure keeps that probability for all of them together.

This module imports the standard library only.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import cache
from typing import TypeAlias

PAIRS = 8
MOST_PAIRS = 2 * PAIRS
# The probability of a wrong "better" or "worse" among all candidates, over both looks.
ERROR = 0.05
_LOOKS = 2
ERROR_OF_A_LOOK = ERROR / _LOOKS
# Ratios from 1 - BAND to 1 + BAND are no difference that anyone cares about.
BAND = 0.03

# Seconds of the old one and of the new one, measured close to each other.
Pair: TypeAlias = tuple[float, float]


class Verdict(str, Enum):
    """What the interval of the ratio says: it is below the band, in it, above it, or neither."""

    BETTER = "better"
    SAME = "same"
    WORSE = "worse"
    UNKNOWN = "unknown"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class Comparison:
    """The comparison of a new time with an old one.

    Attributes:
        ratio: new / old, the geometric mean of the pairs. 0.8 means that the new one needs 80 % of
            the time.
        low: the lower end of the ratio's interval.
        high: its upper end.
        pairs: the number of pairs.
        verdict: what follows.
        p_value: how probable such a difference from the band would be without any, by Student's t
            and on both sides.
        p_signs: the same by the exact sign-flip test.
    """

    ratio: float
    low: float
    high: float
    pairs: int
    verdict: Verdict
    p_value: float
    p_signs: float


def compare(pairs: Sequence[Pair], *, band: float = BAND) -> Comparison:
    """Compare the new times of `pairs` with the old ones.

    The verdict is unknown for fewer than `PAIRS` pairs. Raises ValueError if there is no pair, or a
    time that is not above 0.
    """
    if not pairs:
        raise ValueError("there is no pair")
    if any(time <= 0 for pair in pairs for time in pair):
        raise ValueError("a time is not above 0")
    differences = [math.log(new / old) for old, new in pairs]
    mean = math.fsum(differences) / len(differences)
    error_of_mean = _error_of_mean(differences, mean)
    half_width = _half_width(error_of_mean, len(differences))
    low, high = mean - half_width, mean + half_width
    below, above = math.log1p(-band), math.log1p(band)
    p_value = _p_value(mean, error_of_mean, len(differences), below, above)
    p_signs = _p_signs(differences, below, above)
    verdict = _verdict(low, high, below, above)
    is_difference = verdict in (Verdict.BETTER, Verdict.WORSE)
    if len(pairs) < PAIRS or (is_difference and p_signs > ERROR_OF_A_LOOK):
        verdict = Verdict.UNKNOWN
    return Comparison(
        ratio=math.exp(mean),
        low=math.exp(low),
        high=math.exp(high),
        pairs=len(pairs),
        verdict=verdict,
        p_value=p_value,
        p_signs=p_signs,
    )


def holm(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The comparisons of several candidates, with "better" and "worse" only where Holm's procedure
    confirms it. The others are unknown.

    The more candidates there are, the more likely one looks better by chance.
    """
    confirmed = set()
    order = sorted(range(len(comparisons)), key=lambda index: comparisons[index].p_value)
    for rank, index in enumerate(order):
        if comparisons[index].p_value * (len(comparisons) - rank) > ERROR_OF_A_LOOK:
            break
        confirmed.add(index)
    adjusted = []
    for index, comparison in enumerate(comparisons):
        is_difference = comparison.verdict in (Verdict.BETTER, Verdict.WORSE)
        if is_difference and index not in confirmed:
            adjusted.append(replace(comparison, verdict=Verdict.UNKNOWN))
        else:
            adjusted.append(comparison)
    return adjusted


def needs_more(comparison: Comparison) -> bool:
    """Whether the second half of the pairs is to be measured: the rule that was fixed before."""
    return comparison.verdict == Verdict.UNKNOWN and comparison.pairs < MOST_PAIRS


def student_within(t: float, degrees: int) -> float:
    """The probability that Student's t with so many degrees of freedom is between -t and t.

    These are the finite series for whole degrees (Abramowitz and Stegun, 26.7.3 and 26.7.4).
    """
    angle = math.atan2(t, math.sqrt(degrees))
    sine, cosine = math.sin(angle), math.cos(angle)
    is_odd = degrees % 2 == 1
    term = cosine if is_odd else 1.0
    total = 0.0
    for denominator in range(3 if is_odd else 2, degrees + 1, 2):
        total += term
        term *= cosine * cosine * (denominator - 1) / denominator
    if is_odd:
        return (angle + sine * total) * 2 / math.pi
    return sine * total


@cache
def student_quantile(error: float, degrees: int) -> float:
    """The t that Student's t exceeds, up or down, with the probability `error`."""
    low, high = 0.0, 1.0
    while student_within(high, degrees) < 1 - error:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        if student_within(middle, degrees) < 1 - error:
            low = middle
        else:
            high = middle
    return high


def sign_flip_p(differences: Sequence[float]) -> float:
    """How often the sum is as low as this one, if each difference is as likely up as down.

    All 2**n choices of signs are counted, so the probability is exact.
    """
    # Sums in another order differ in their last digits.
    limit = math.fsum(differences) + 1e-12 * math.fsum(map(abs, differences))
    # Each sum is one of the first half and one of the second: 2 * 2**(n/2) sums instead of 2**n.
    middle = len(differences) // 2
    first = _sums_of_signs(differences[:middle])
    second = sorted(_sums_of_signs(differences[middle:]))
    as_low = sum(bisect_right(second, limit - total) for total in first)
    return as_low / (len(first) * len(second))


def _sums_of_signs(differences: Sequence[float]) -> list[float]:
    """The sums of the differences with every choice of signs."""
    sums = [0.0]
    for difference in differences:
        sums = [total + difference for total in sums] + [total - difference for total in sums]
    return sums


def _error_of_mean(differences: Sequence[float], mean: float) -> float:
    count = len(differences)
    if count < 2:
        return math.inf
    squares = math.fsum((difference - mean) ** 2 for difference in differences)
    return math.sqrt(squares / (count - 1) / count)


def _half_width(error_of_mean: float, count: int) -> float:
    if math.isinf(error_of_mean):
        return math.inf
    return student_quantile(ERROR_OF_A_LOOK, count - 1) * error_of_mean


def _p_value(mean: float, error_of_mean: float, count: int, below: float, above: float) -> float:
    """Of the distance between the mean and the nearer edge of the band; 1 inside the band."""
    distance = max(below - mean, mean - above)
    if distance <= 0 or math.isinf(error_of_mean):
        return 1.0
    if error_of_mean == 0:
        return 0.0
    return 1 - student_within(distance / error_of_mean, count - 1)


def _p_signs(differences: Sequence[float], below: float, above: float) -> float:
    """The sign-flip test against both edges of the band; twice the smaller probability."""
    under = sign_flip_p([difference - below for difference in differences])
    over = sign_flip_p([above - difference for difference in differences])
    return min(1.0, 2 * min(under, over))


def _verdict(low: float, high: float, below: float, above: float) -> Verdict:
    if high < below:
        return Verdict.BETTER
    if low > above:
        return Verdict.WORSE
    if below <= low and high <= above:
        return Verdict.SAME
    return Verdict.UNKNOWN
