"""The gate: limits, verdicts by band and by limit, sizes, and what makes a task fail."""

from __future__ import annotations

import random

import pytest

from aoti_build.errors import UsageError
from aoti_build.measurement.gate import (
    Question,
    Rule,
    answers,
    noise_band,
    parse_limits,
    question,
    size_answer,
)
from aoti_build.measurement.record import ComparisonRecord, Metric, Sample
from aoti_build.measurement.statistics import Pair
from aoti_build.measurement.summary import steady_of


def pairs(ratio: float, noise: float = 0.002, count: int = 8) -> list[Pair]:
    """Pairs of new / old with this ratio, each a little off."""
    found = []
    for number in range(count):
        wobble = 1 + noise * (-1 if number % 2 else 1)
        found.append((1.0, ratio * wobble))
    return found


def verdict(
    ratio: float, fail_if: str = "", host_band: float | None = None, noise: float = 0.002
) -> ComparisonRecord:
    rule = Rule(limits=parse_limits(fail_if) if fail_if else {})
    asked = Question(Metric.STEADY, "v1", pairs(ratio, noise), host_band=host_band)
    (record,) = answers([asked], rule)
    return record


def test_limits_are_read() -> None:
    assert parse_limits("steady>1.05, first>2,size>1.05,memory > 1.1") == {
        Metric.STEADY: 1.05,
        Metric.FIRST: 2.0,
        Metric.SIZE: 1.05,
        Metric.MEMORY: 1.1,
    }


@pytest.mark.parametrize(
    "text",
    [
        "",
        "steady",
        "steady<1",
        "speed>1.05",
        "import>2",
        "steady>0",
        "steady>1,steady>2",
        "steady>x",
    ],
)
def test_a_wrong_limit_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--fail-if"):
        parse_limits(text)


@pytest.mark.parametrize(
    ("ratio", "expected"), [(0.9, "better"), (1.0, "same"), (1.02, "same"), (1.1, "worse")]
)
def test_without_a_limit_the_band_decides(ratio: float, expected: str) -> None:
    record = verdict(ratio)
    assert (record.verdict, record.limit, record.why) == (expected, None, None)
    assert record.ratio == pytest.approx(ratio, rel=1e-4)
    assert record.low is not None
    assert record.high is not None
    assert record.low < ratio < record.high


@pytest.mark.parametrize(
    ("ratio", "fail_if", "expected"),
    [
        (1.1, "steady>1.05", "worse"),
        (1.1, "steady>1.2", "same"),
        (1.9, "steady>3", "same"),
        (3.2, "steady>3", "worse"),
        (0.8, "steady>1.05", "better"),
        (0.95, "steady>0.9", "worse"),
        (0.85, "steady>0.9", "better"),
    ],
)
def test_a_limit_is_in_the_place_of_the_band(ratio: float, fail_if: str, expected: str) -> None:
    record = verdict(ratio, fail_if)
    assert record.verdict == expected
    assert record.ratio == pytest.approx(ratio, rel=1e-4)
    assert record.limit == float(fail_if.partition(">")[2])


def test_an_interval_across_the_limit_is_unknown() -> None:
    record = verdict(1.0501, "steady>1.05")
    assert record.verdict == "unknown"
    assert record.why is not None
    assert "the limit 1.05" in record.why


def test_fewer_pairs_than_planned_are_unknown() -> None:
    (record,) = answers([Question(Metric.FIRST, "v1", pairs(2.0, count=1))], Rule())
    assert (record.verdict, record.low, record.high) == ("unknown", None, None)
    assert record.why == "only 1 of 8 pairs were measured"
    assert answers([Question(Metric.FIRST, "v1", [])], Rule()) == []


def test_a_noisy_host_is_no_judge_of_a_small_difference_but_of_a_large_one() -> None:
    small = verdict(1.05, host_band=0.08, noise=0.1)
    assert small.verdict == "unknown"
    assert small.why == "this host is too noisy: it resolves 8.0%, and 3.0% is asked for"
    quiet = verdict(1.03, host_band=0.02)
    assert quiet.why == "the interval does not tell on which side of the band the ratio is"
    assert verdict(1.9, host_band=0.08, noise=0.1).verdict == "worse"


def test_the_noise_of_a_host_is_that_of_samples_that_follow_each_other() -> None:
    """A slow drift is none."""
    quiet = noise_band([[1.0, 1.001, 1.1, 1.101, 1.2, 1.201, 1.3, 1.301]])
    noisy = noise_band([[1.0, 1.1, 1.0, 1.1], [2.0, 2.2, 2.2, 2.0]])
    assert quiet is not None
    assert noisy is not None
    assert quiet < 0.003
    assert noisy > 0.05
    assert noise_band([[1.0, 1.1, 1.0, 1.1, 1.0, 1.1, 1.0]]) is None


@pytest.mark.parametrize(
    ("new", "fail_if", "expected"),
    [
        (1000, "", "same"),
        (1029, "", "same"),
        (1031, "", "worse"),
        (960, "", "better"),
        (1060, "size>1.05", "worse"),
        (1040, "size>1.05", "same"),
    ],
)
def test_sizes_are_exact(new: int, fail_if: str, expected: str) -> None:
    rule = Rule(limits=parse_limits(fail_if) if fail_if else {})
    record = size_answer("v1", 1000, new, rule)
    assert (record.verdict, record.low, record.high) == (expected, new / 1000, new / 1000)


def test_with_limits_only_the_named_metrics_fail() -> None:
    record = verdict(1.5)
    assert Rule().fails(record)
    assert not Rule(limits={Metric.FIRST: 1.2}).fails(record)
    assert not Rule(limits={Metric.FIRST: 1.2}, strict=True).fails(record)
    unknown = verdict(1.0501, "steady>1.05")
    assert not Rule().fails(unknown)
    assert Rule(strict=True).fails(unknown)


def test_many_comparisons_need_more_evidence_each() -> None:
    generator = random.Random(17)  # noqa: S311 - noise, and no secret

    def noisy() -> Question:
        found = [(1.0, 1.07 * (1 + generator.gauss(0, 0.02))) for _ in range(8)]
        return Question(Metric.STEADY, "v1", found)

    first = noisy()
    (alone,) = answers([first], Rule())
    among = answers([first, *(noisy() for _ in range(400))], Rule())
    assert alone.verdict == "worse"
    assert sum(record.verdict == "worse" for record in among) < 401


def test_pairs_are_made_of_samples_that_have_the_metric() -> None:
    def sample(seconds: float, sizes: dict[str, int]) -> Sample:
        return Sample(
            started="",
            import_seconds=1.0,
            load_seconds=0.1,
            first_seconds=0.2 * seconds,
            peak_memory=100,
            steady=(steady_of([seconds] * 3, sizes),),
        )

    old = [sample(1.0, {"batch": 1}), sample(2.0, {"batch": 2})]
    new = [sample(1.1, {"batch": 1}), sample(2.2, {"batch": 2}), sample(3.3, {"batch": 1})]
    assert question(Metric.STEADY, "v1", old, new, {"batch": 1}).pairs == [(1.0, 1.1)]
    assert question(Metric.MEMORY, "v1", old, new).pairs == [(100.0, 100.0)] * 2
    assert question(Metric.SIZE, "v1", old, new).pairs == []


# Summaries


def test_a_summary_has_what_was_measured() -> None:
    times = [0.001 * number for number in range(1, 101)]
    steady = steady_of(times[::-1], {"batch": 4})
    assert (steady.p50, steady.p95, steady.p99) == (0.05, 0.095, 0.099)
    assert steady.calls == 100
    assert steady.samples_per_second == pytest.approx(400 / sum(times))
    assert steady_of([0.5, 0.5], {"length": 9}).samples_per_second == 2.0


@pytest.mark.parametrize(
    "times",
    [
        [0.5],
        [0.5] * 9,
        [0.1, 0.2],
        [0.1] * 99 + [7.0],
        [round(0.1 + 1e-9 * i, 9) for i in range(50)],
    ],
)
def test_a_histogram_counts_every_call_once(times: list[float]) -> None:
    steady = steady_of(times, {})
    edges = steady.histogram_edges
    assert len(edges) == len(steady.histogram) <= 25
    assert list(edges) == sorted(set(edges))
    assert edges[-1] == max(times)
    assert sum(steady.histogram) == len(times)
    for index, edge in enumerate(edges):
        upto = sum(steady.histogram[: index + 1])
        assert upto == sum(time <= edge for time in times)
