"""Step changes are found where they are, and hardly ever where there is only noise."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aoti_build.measurement.steps import LEAST_ENTRIES, Step, changed_facts, find_steps

FIGURES = st.lists(st.floats(1e-6, 1e6), max_size=30)


def repeatable(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311 - no secret


def noisy(count: int, generator: random.Random, noise: float = 0.02) -> list[float]:
    return [math.exp(generator.gauss(0, noise)) for _ in range(count)]


def with_step(before: int, after: int, ratio: float, generator: random.Random) -> list[float]:
    series = noisy(before + after, generator)
    return [figure * (ratio if index >= before else 1) for index, figure in enumerate(series)]


def test_pure_noise_has_a_step_in_about_one_of_a_hundred_series() -> None:
    generator = repeatable(1)
    found = sum(bool(find_steps(noisy(25, generator))) for _ in range(400))
    # 4 are expected. More than 12 have a probability of 1 in 4000.
    assert found <= 12


def test_heavy_tails_are_no_steps_either() -> None:
    generator = repeatable(2)
    found = 0
    for _ in range(300):
        series = [math.exp(0.02 * math.tan(generator.uniform(-1.5, 1.5))) for _ in range(25)]
        found += bool(find_steps(series))
    assert found <= 10


def test_a_step_of_five_percent_is_found_after_five_entries() -> None:
    generator = repeatable(3)
    found = 0
    for _ in range(200):
        steps = find_steps(with_step(40, 5, 1.05, generator))
        found += any(abs(step.index - 40) <= 2 for step in steps)
    # About 90 % are expected.
    assert found >= 0.8 * 200


def test_a_clear_step_has_its_place_and_its_ratio() -> None:
    generator = repeatable(4)
    (step,) = find_steps(with_step(12, 8, 1.25, generator))
    assert step.index == 12
    assert step.ratio == pytest.approx(1.25, rel=0.03)
    assert 0 < step.p_value <= 0.01


def test_several_steps_are_found_with_the_levels_between_them() -> None:
    levels = [1.0] * 10 + [1.3] * 10 + [1.04] * 10
    series = [
        level * figure for level, figure in zip(levels, noisy(30, repeatable(5)), strict=True)
    ]
    first, second = find_steps(series)
    assert (first.index, second.index) == (10, 20)
    assert first.ratio == pytest.approx(1.3, rel=0.03)
    assert second.ratio == pytest.approx(0.8, rel=0.03)


def test_one_odd_entry_is_no_step() -> None:
    series = noisy(30, repeatable(6))
    series[20] *= 3
    assert find_steps(series) == []


def test_a_step_that_nobody_acts_on_is_not_reported() -> None:
    series = [1.0, 1.0001] * 10 + [1.005, 1.0051] * 10
    assert find_steps(series) == []


@pytest.mark.parametrize("figures", [[], [1.0], [1.0] * 50])
def test_where_nothing_changes_there_is_no_step(figures: list[float]) -> None:
    assert find_steps(figures) == []
    assert find_steps(figures, exact=True) == []


def test_each_change_of_an_exact_figure_is_a_step_at_once() -> None:
    steps = find_steps([100, 100, 150, 150, 150.5, 75], exact=True)
    # 150 to 150.5 is less than 1 %.
    assert [step.index for step in steps] == [2, 5]
    assert steps[0] == Step(2, pytest.approx(1.5), 0.0)


def test_a_figure_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="not above 0"):
        find_steps([1.0, 0.0])


@settings(deadline=None, max_examples=60)
@given(FIGURES, st.booleans())
def test_steps_are_in_order_and_the_same_each_time(figures: list[float], exact: bool) -> None:
    steps = find_steps(figures, exact=exact)
    assert steps == find_steps(figures, exact=exact)
    indices = [step.index for step in steps]
    assert indices == sorted(set(indices))
    if not exact:
        bounds = [0, *indices, len(figures)]
        if indices:
            assert bounds[1] >= LEAST_ENTRIES
            assert bounds[-1] - bounds[-2] >= LEAST_ENTRIES


@settings(deadline=None, max_examples=30)
@given(FIGURES, st.sampled_from([1e-3, 2.0, 1024.0]))
def test_the_unit_does_not_matter(figures: list[float], unit: float) -> None:
    scaled = find_steps([figure * unit for figure in figures])
    assert [step.index for step in scaled] == [step.index for step in find_steps(figures)]


def test_changed_facts_are_named() -> None:
    before = {"torch": "2.13", "driver": "570", "gone": "x"}
    after = {"torch": "2.14", "driver": "570", "new": "y"}
    assert changed_facts(before, after) == [
        "gone x -> (none)",
        "new (none) -> y",
        "torch 2.13 -> 2.14",
    ]
