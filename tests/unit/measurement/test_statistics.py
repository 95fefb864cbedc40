"""What pairs of times say: known quantiles, known p-values, properties, and how often noise alone
is called a difference."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aoti_build.measurement.statistics import (
    ERROR,
    MOST_PAIRS,
    PAIRS,
    Comparison,
    Pair,
    Verdict,
    compare,
    holm,
    needs_more,
    sign_flip_p,
    student_quantile,
    student_within,
)

TIMES = st.floats(1e-6, 1e3)
PAIR_LISTS = st.lists(st.tuples(TIMES, TIMES), min_size=2, max_size=12)


def scaled(ratio: float, count: int = PAIRS, spread: float = 0.005) -> list[Pair]:
    """Pairs whose ratios are close to `ratio`, the same distance above and below."""
    pairs = []
    for index in range(count):
        sign = 1 if index % 2 else -1
        pairs.append((1.0, ratio * math.exp(sign * spread)))
    return pairs


# From tables of Student's t, two-sided.
@pytest.mark.parametrize(
    ("degrees", "error", "quantile"),
    [
        (1, 0.05, 12.7062),
        (2, 0.05, 4.30265),
        (3, 0.01, 5.84091),
        (7, 0.05, 2.36462),
        (7, 0.02, 2.99795),
        (8, 0.1, 1.85955),
        (15, 0.05, 2.13145),
        (15, 0.01, 2.94671),
        (30, 0.05, 2.04227),
    ],
)
def test_the_quantiles_are_those_of_the_tables(degrees: int, error: float, quantile: float) -> None:
    assert student_quantile(error, degrees) == pytest.approx(quantile, rel=1e-5)


def test_many_degrees_are_the_normal_distribution() -> None:
    assert student_within(1.959964, 100_000) == pytest.approx(0.95, abs=1e-4)


def test_the_sign_flip_test_counts_every_choice_of_signs() -> None:
    assert sign_flip_p([-1.0] * 8) == 1 / 256
    assert sign_flip_p([1.0] * 8) == 1.0
    # Of the four sums 3, 1, -1 and -3, two are at most -1.
    assert sign_flip_p([1.0, -2.0]) == 0.5
    assert sign_flip_p([0.0, 0.0]) == 1.0


@pytest.mark.parametrize(
    ("ratio", "verdict"),
    [
        (0.8, Verdict.BETTER),
        (0.96, Verdict.BETTER),
        (0.98, Verdict.SAME),
        (1.0, Verdict.SAME),
        (1.02, Verdict.SAME),
        (1.04, Verdict.WORSE),
        (1.5, Verdict.WORSE),
    ],
)
def test_steady_times_have_the_verdict_of_their_ratio(ratio: float, verdict: Verdict) -> None:
    comparison = compare(scaled(ratio))
    assert comparison.verdict == verdict
    assert comparison.ratio == pytest.approx(ratio)
    assert comparison.low < ratio < comparison.high
    assert comparison.pairs == PAIRS


def test_the_interval_is_that_of_student() -> None:
    differences = [0.10, 0.20, 0.15, 0.05, 0.12, 0.18, 0.09, 0.11]
    comparison = compare([(1.0, math.exp(difference)) for difference in differences])
    # Mean 0.125, standard deviation 0.0492805; t for 7 degrees and 2.5 % is 2.84124.
    half_width = 2.84124 * 0.0492805 / math.sqrt(8)
    assert math.log(comparison.low) == pytest.approx(0.125 - half_width, rel=1e-4)
    assert math.log(comparison.high) == pytest.approx(0.125 + half_width, rel=1e-4)


def test_scattered_times_say_nothing() -> None:
    comparison = compare(scaled(0.95, spread=0.3))
    assert comparison.verdict == Verdict.UNKNOWN
    assert needs_more(comparison)
    assert not needs_more(compare(scaled(0.95, count=MOST_PAIRS, spread=0.3)))


def test_few_pairs_say_nothing_however_clear_they_are() -> None:
    assert compare(scaled(0.5, count=PAIRS - 1)).verdict == Verdict.UNKNOWN
    alone = compare([(1.0, 0.5)])
    assert (alone.ratio, alone.low, alone.high) == (0.5, 0.0, math.inf)


def test_a_wider_band_is_an_option() -> None:
    assert compare(scaled(0.9), band=0.2).verdict == Verdict.SAME


@pytest.mark.parametrize("pairs", [[], [(1.0, 0.0)], [(-1.0, 1.0)]])
def test_what_is_no_time_is_refused(pairs: list[Pair]) -> None:
    with pytest.raises(ValueError, match=r"no pair|above 0"):
        compare(pairs)


def test_both_tests_must_agree() -> None:
    # Six of eight are far below the band, two a little above its edge.
    edge = math.log(0.97)
    differences = [edge - 0.1] * 6 + [edge + 0.02] * 2
    comparison = compare([(1.0, math.exp(difference)) for difference in differences])
    assert comparison.high < 0.97, "by Student's t it is better"
    assert comparison.p_signs == pytest.approx(8 / 256), "by the sign-flip test it may be chance"
    assert comparison.verdict == Verdict.UNKNOWN


def test_holm_asks_more_of_each_of_many() -> None:
    barely = compare(scaled(0.955, spread=0.012))
    assert barely.verdict == Verdict.BETTER
    assert holm([barely])[0].verdict == Verdict.BETTER
    nothing = compare(scaled(1.0))
    many = holm([barely, *[nothing] * 9])
    assert many[0].verdict == Verdict.UNKNOWN
    assert {found.verdict for found in many[1:]} == {Verdict.SAME}


def test_holm_keeps_what_is_clear_and_the_order() -> None:
    found = holm([compare(scaled(ratio)) for ratio in (1.0, 0.5, 2.0, 0.7)])
    expected = [Verdict.SAME, Verdict.BETTER, Verdict.WORSE, Verdict.BETTER]
    assert [comparison.verdict for comparison in found] == expected


def test_the_median_of_an_even_number_is_between_the_middle_two() -> None:
    assert median([3.0, 1.0, 2.0]) == 2.0
    assert median([4.0, 1.0, 2.0, 3.0]) == 2.5


@given(PAIR_LISTS)
def test_the_ratio_is_inside_its_interval_and_p_values_are_probabilities(
    pairs: list[Pair],
) -> None:
    comparison = compare(pairs)
    assert comparison.low <= comparison.ratio * (1 + 1e-9)
    assert comparison.ratio <= comparison.high * (1 + 1e-9)
    assert 0 <= comparison.p_value <= 1
    assert 0 < comparison.p_signs <= 1


@given(PAIR_LISTS, st.floats(0.01, 100))
def test_a_faster_clock_changes_nothing(pairs: list[Pair], factor: float) -> None:
    scaled_pairs = [(old * factor, new * factor) for old, new in pairs]
    assert close(compare(pairs), compare(scaled_pairs))


@given(PAIR_LISTS)
def test_old_and_new_exchanged_give_the_inverse(pairs: list[Pair]) -> None:
    forward = compare(pairs)
    backward = compare([(new, old) for old, new in pairs])
    assert backward.ratio == pytest.approx(1 / forward.ratio)
    if forward.high < 1e300:
        assert backward.low == pytest.approx(1 / forward.high)


@given(PAIR_LISTS, st.randoms())
def test_the_order_of_pairs_does_not_count(pairs: list[Pair], generator: random.Random) -> None:
    shuffled = list(pairs)
    generator.shuffle(shuffled)
    assert close(compare(pairs), compare(shuffled))


def close(first: Comparison, second: Comparison) -> bool:
    return (
        math.isclose(first.ratio, second.ratio, rel_tol=1e-9)
        and math.isclose(first.low, second.low, rel_tol=1e-6)
        and first.pairs == second.pairs
    )


# Noise as machines have it: small, with a disturbed process now and then.
def noisy(generator: random.Random, ratio: float) -> Pair:
    times = []
    for time in (1.0, ratio):
        disturbed = generator.random() < 0.1
        slower = generator.uniform(1.0, 1.3) if disturbed else 1.0
        times.append(time * slower * math.exp(generator.gauss(0, 0.02)))
    return times[0], times[1]


def decided(generator: random.Random, ratios: Sequence[float]) -> list[Verdict]:
    """The verdicts of the whole procedure, with its second look."""
    rows = [[noisy(generator, ratio) for _ in range(PAIRS)] for ratio in ratios]
    for row, found in zip(rows, holm([compare(row) for row in rows]), strict=True):
        if needs_more(found):
            ratio = ratios[rows.index(row)]
            row += [noisy(generator, ratio) for _ in range(MOST_PAIRS - PAIRS)]
    return [found.verdict for found in holm([compare(row) for row in rows])]


def test_noise_is_seldom_called_a_difference() -> None:
    generator = random.Random(1)  # noqa: S311 - repeatable noise
    runs = 200
    for ratios in ([1.0], [0.97], [1.0] * 6):
        wrong = 0
        for _ in range(runs):
            verdicts = decided(generator, ratios)
            wrong += Verdict.BETTER in verdicts
        assert wrong / runs <= ERROR, ratios


def test_a_difference_is_mostly_found() -> None:
    generator = random.Random(2)  # noqa: S311 - repeatable noise
    found = [decided(generator, [0.8, 1.0, 1.0, 1.0])[0] for _ in range(100)]
    assert found.count(Verdict.BETTER) >= 95
