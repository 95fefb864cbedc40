"""The order in which samples are taken, and what a budget, a failure and a second look do."""

from __future__ import annotations

import pytest

from aoti_build.measurement.pairs import Rounds, one_by_one
from aoti_build.measurement.statistics import MOST_PAIRS, PAIRS, Verdict


class Machine:
    """Subjects with fixed times; each sample lasts 10 seconds of a pretended clock.

    `wobble` makes every second time of a subject so much longer. `broken` subjects give no time
    from their `broken` + 1st sample on.
    """

    def __init__(
        self,
        times: dict[str, float],
        wobble: dict[str, float] | None = None,
        broken: dict[str, int] | None = None,
    ) -> None:
        self.times = times
        self.wobble = wobble or {}
        self.broken = broken or {}
        self.taken: list[str] = []
        self.now = 0.0

    def sample(self, name: str) -> float | None:
        self.now += 10.0
        earlier = self.taken.count(name)
        self.taken.append(name)
        if name in self.broken and earlier >= self.broken[name]:
            return None
        # The drift is what the opposite order of every second round removes.
        drift = 1 + self.now * 1e-6
        wobble = self.wobble.get(name, 0.0) * (earlier % 2)
        return self.times[name] * drift * (1 + wobble)

    def rounds(self, seconds: float = 1e6) -> Rounds:
        names = list(self.times)
        take_round = one_by_one(self.sample)
        return Rounds(names[0], names[1:], take_round, seconds, clock=lambda: self.now)


def test_every_second_round_goes_in_the_opposite_order() -> None:
    machine = Machine({"a": 1.0, "b": 0.5})
    machine.rounds().run()
    assert machine.taken[:8] == ["a", "b", "b", "a", "a", "b", "b", "a"]
    assert len(machine.taken) == 2 * PAIRS


def test_many_candidates_share_the_samples_of_the_baseline() -> None:
    machine = Machine({"a": 1.0, "b": 0.5, "c": 1.0, "d": 2.0})
    found = machine.rounds().run()
    assert machine.taken.count("a") == PAIRS
    verdicts = {name: comparison.verdict for name, comparison in found.items()}
    assert verdicts == {"b": Verdict.BETTER, "c": Verdict.SAME, "d": Verdict.WORSE}


def test_only_what_is_undecided_is_measured_again_and_once() -> None:
    machine = Machine({"a": 1.0, "b": 0.5, "c": 1.0}, wobble={"c": 0.06})
    rounds = machine.rounds()
    found = rounds.run()
    assert found["b"].pairs == PAIRS
    assert found["c"].pairs == MOST_PAIRS
    assert found["c"].verdict == Verdict.UNKNOWN
    assert machine.taken.count("a") == MOST_PAIRS
    assert machine.taken.count("b") == PAIRS
    assert len(rounds.times["a"]) == MOST_PAIRS


@pytest.mark.parametrize(("seconds", "pairs"), [(65.0, 3), (159.0, 7), (161.0, 8)])
def test_no_round_is_begun_that_would_exceed_the_budget(seconds: float, pairs: int) -> None:
    machine = Machine({"a": 1.0, "b": 0.5})
    found = machine.rounds(seconds).run()
    assert machine.now <= seconds
    assert found["b"].pairs == pairs
    expected = Verdict.BETTER if pairs == PAIRS else Verdict.UNKNOWN
    assert found["b"].verdict == expected


def test_a_candidate_that_fails_is_not_sampled_again_and_the_others_are() -> None:
    machine = Machine({"a": 1.0, "b": 0.5, "c": 0.6}, broken={"b": 2})
    found = machine.rounds().run()
    assert machine.taken.count("b") == 3
    assert (found["b"].pairs, found["b"].verdict) == (2, Verdict.UNKNOWN)
    assert found["c"].verdict == Verdict.BETTER


def test_without_a_baseline_there_is_no_comparison() -> None:
    machine = Machine({"a": 1.0, "b": 0.5}, broken={"a": 0})
    assert machine.rounds().run() == {}
    assert machine.taken == ["a", "b"]
