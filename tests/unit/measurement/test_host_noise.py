"""The band that a host can resolve follows from pairs of a package with itself."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aoti_build.measurement.host_noise import (
    LEAST_PAIRS,
    SURE,
    chi_square_quantile,
    resolvable_band,
)
from aoti_build.measurement.statistics import MOST_PAIRS, PAIRS, Pair, Verdict, compare


def repeatable(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311 - no secret


def same_pairs(count: int, noise: float, generator: random.Random) -> list[Pair]:
    """Pairs of a package with itself, whose logarithms differ with this standard deviation."""
    return [(1.0, math.exp(generator.gauss(0, noise))) for _ in range(count)]


@pytest.mark.parametrize(
    ("probability", "degrees", "quantile"),
    # Abramowitz and Stegun, table 26.8.
    [(0.1, 1, 0.0157908), (0.1, 8, 3.48954), (0.1, 16, 9.31224), (0.95, 10, 18.3070)],
)
def test_chi_square(probability: float, degrees: int, quantile: float) -> None:
    assert chi_square_quantile(probability, degrees) == pytest.approx(quantile, rel=1e-4)


def test_equal_packages_are_the_same_at_the_band_of_a_known_noise() -> None:
    """With the true standard deviation in place of its bound, the promise is `SURE`."""
    generator = repeatable(1)
    noise = 0.01
    # Pairs whose bound of the standard deviation is exactly that of the noise.
    scale = math.sqrt(chi_square_quantile(0.1, MOST_PAIRS) / MOST_PAIRS)
    band = resolvable_band([(1.0, math.exp(noise * scale))] * MOST_PAIRS)
    found = 0
    for _ in range(1000):
        pairs = same_pairs(MOST_PAIRS, noise, generator)
        found += compare(pairs, band=band).verdict == Verdict.SAME
    assert found / 1000 == pytest.approx(SURE, abs=0.05)


def test_a_comparison_at_the_measured_band_is_nearly_always_decided() -> None:
    generator = repeatable(2)
    same = worse = 0
    for _ in range(500):
        band = resolvable_band(same_pairs(MOST_PAIRS, 0.01, generator))
        verdict = compare(same_pairs(MOST_PAIRS, 0.01, generator), band=band).verdict
        same += verdict == Verdict.SAME
        worse += verdict == Verdict.WORSE
    assert same >= 0.85 * 500
    assert worse == 0


@given(
    st.lists(st.floats(0.5, 2.0), min_size=LEAST_PAIRS, max_size=20),
    st.floats(1.01, 3.0),
)
def test_more_noise_needs_a_wider_band(ratios: list[float], factor: float) -> None:
    quiet = [(1.0, ratio) for ratio in ratios]
    noisy = [(1.0, ratio**factor) for ratio in ratios]
    assert resolvable_band(noisy) >= resolvable_band(quiet)
    # Which of the two came first does not matter, and neither does the unit.
    swapped = [(1000 * new, 1000 * old) for old, new in quiet]
    assert resolvable_band(swapped) == pytest.approx(resolvable_band(quiet))


def test_more_pairs_resolve_a_smaller_band() -> None:
    pairs = [(1.0, 1.01), (1.0, 0.99)] * 4
    assert resolvable_band(pairs, planned=MOST_PAIRS) < resolvable_band(pairs, planned=PAIRS)
    # The same noise, and more certain.
    assert resolvable_band(pairs * 2) < resolvable_band(pairs)


def test_a_host_without_noise_resolves_everything() -> None:
    assert resolvable_band([(1.0, 1.0)] * PAIRS) == 0


@pytest.mark.parametrize("pairs", [[], [(1.0, 1.0)] * 3, [(1.0, 0.0)] * 8])
def test_too_few_pairs_and_impossible_times_are_refused(pairs: list[Pair]) -> None:
    with pytest.raises(ValueError, match=r"fewer than|not above 0"):
        resolvable_band(pairs)
