"""How small a difference this host can resolve, by comparing a package with itself.

Such a pair has no difference but noise, so its logarithm of new / old is 0 on average, and the mean
of the squares estimates the variance. The band is the smallest one at which a comparison of two
equal packages, with all its pairs, ends as "same" with the probability `SURE`:

    (t + z) * upper / sqrt(pairs)

- t * upper / sqrt(pairs) is half the width of the interval of such a comparison (`statistics`).
- z * upper / sqrt(pairs) is how far its mean lies from 0 at most, with the probability `SURE`.
- upper is the upper confidence bound of the standard deviation, by the chi-square distribution: a
  few pairs that happen to be quiet do not make a quiet host.

It does not replace the interval of a comparison. It says beforehand what cannot be decided.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

from aoti_build.measurement.statistics import ERROR_OF_A_LOOK, MOST_PAIRS, Pair, student_quantile

# The probability that a comparison of equal packages ends as "same" at the band.
SURE = 0.9
# The probability that the standard deviation is not above the bound that is used.
CONFIDENCE = 0.9
# Fewer pairs say too little about the noise.
LEAST_PAIRS = 4


def resolvable_band(pairs: Sequence[Pair], planned: int = MOST_PAIRS) -> float:
    """The smallest band that comparisons with `planned` pairs can resolve on this host.

    Args:
        pairs: seconds of two samples of the same package, taken close to each other.
        planned: the number of pairs of a comparison that was extended.

    Raises:
        ValueError: there are fewer than `LEAST_PAIRS` pairs, or a time is not above 0.
    """
    if len(pairs) < LEAST_PAIRS:
        raise ValueError(f"there are fewer than {LEAST_PAIRS} pairs")
    if any(time <= 0 for pair in pairs for time in pair):
        raise ValueError("a time is not above 0")
    squares = math.fsum(math.log(new / old) ** 2 for old, new in pairs)
    return band_of(squares, len(pairs), planned)


def band_of(squares: float, degrees: int, planned: int = MOST_PAIRS) -> float:
    """The band that belongs to a noise of this sum of squares, with so many degrees of freedom.

    The squares are those of logarithms of ratios. `planned` is as for `resolvable_band`.
    """
    upper = math.sqrt(squares / chi_square_quantile(1 - CONFIDENCE, degrees))
    within = student_quantile(ERROR_OF_A_LOOK, planned - 1)
    mean_within = NormalDist().inv_cdf((1 + SURE) / 2)
    # The upper edge of a band is nearer to 1 than the lower one, as logarithms.
    return math.expm1((within + mean_within) * upper / math.sqrt(planned))


def chi_square_below(value: float, degrees: int) -> float:
    """The probability that chi-square with so many degrees of freedom is below `value`.

    This is the series of the incomplete gamma function (Abramowitz and Stegun, 6.5.29).
    """
    if value <= 0:
        return 0.0
    half, shape = value / 2, degrees / 2
    term = total = 1 / shape
    denominator = shape
    while term > total * 1e-16:
        denominator += 1
        term *= half / denominator
        total += term
    return min(1.0, total * math.exp(shape * math.log(half) - half - math.lgamma(shape)))


def chi_square_quantile(probability: float, degrees: int) -> float:
    """The value below which chi-square lies with this probability, which is between 0 and 1."""
    low, high = 0.0, float(degrees)
    while chi_square_below(high, degrees) < probability:
        low, high = high, 2 * high
    for _ in range(80):
        middle = (low + high) / 2
        if chi_square_below(middle, degrees) < probability:
            low = middle
        else:
            high = middle
    return high
