"""Takes samples of several subjects in turn, so that all of them meet the same disturbances.

A round has one sample of the baseline and one of each candidate. Every second round goes in the
opposite order (A B C, C B A), so that a machine that slowly becomes warmer or busier favours none.
The samples of a round make pairs with the baseline. Within a round they are taken one by one, or
with calls in turns (`turns`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from aoti_build.measurement.statistics import (
    BAND,
    MOST_PAIRS,
    PAIRS,
    Comparison,
    Pair,
    compare,
    holm,
    needs_more,
)

# Takes a sample of the subject with this name. Returns seconds a call, or None if it failed; the
# subject is then not sampled again.
TakeSample = Callable[[str], float | None]
# Takes a sample of each of these subjects, in this order. Returns seconds a call of those that did
# not fail.
TakeRound = Callable[[Sequence[str]], Mapping[str, float]]


def one_by_one(take_sample: TakeSample) -> TakeRound:
    """A round whose samples do not overlap."""

    def take_round(names: Sequence[str]) -> dict[str, float]:
        times = {}
        for name in names:
            seconds = take_sample(name)
            if seconds is not None:
                times[name] = seconds
        return times

    return take_round


@dataclass
class Rounds:
    """Rounds of samples of a baseline and of candidates.

    `seconds` limits the time of all rounds by `clock`. A round that would probably exceed it is not
    begun.
    """

    baseline: str
    candidates: Sequence[str]
    take_round: TakeRound
    seconds: float
    band: float = BAND
    clock: Callable[[], float] = time.monotonic
    pairs: dict[str, list[Pair]] = field(default_factory=dict)
    # The times of each subject, also those without a partner.
    times: dict[str, list[float]] = field(default_factory=dict)
    _number: int = 0
    _longest: float = 0.0

    def run(self) -> dict[str, Comparison]:
        """Take all samples. Returns the comparison of each candidate that has a pair."""
        deadline = self.clock() + self.seconds
        self._run_rounds(list(self.candidates), PAIRS, deadline)
        undecided = [name for name, found in self.comparisons().items() if needs_more(found)]
        # A candidate that the budget cut short does not become longer than the others.
        undecided = [name for name in undecided if len(self.pairs[name]) == PAIRS]
        if undecided:
            self._run_rounds(undecided, MOST_PAIRS - PAIRS, deadline)
        return self.comparisons()

    def comparisons(self) -> dict[str, Comparison]:
        """What the pairs say so far, by candidate."""
        names = [name for name in self.candidates if self.pairs.get(name)]
        compared = [compare(self.pairs[name], band=self.band) for name in names]
        return dict(zip(names, holm(compared), strict=True))

    def _run_rounds(self, names: list[str], count: int, deadline: float) -> None:
        for _ in range(count):
            started = self.clock()
            if started + self._longest > deadline or not names:
                return
            times = self._round(names)
            old = times.get(self.baseline)
            if old is None:
                return
            names = [name for name in names if name in times]
            for name in names:
                self.pairs.setdefault(name, []).append((old, times[name]))
            self._longest = max(self._longest, self.clock() - started)

    def _round(self, names: Sequence[str]) -> Mapping[str, float]:
        """The time of each subject whose sample did not fail."""
        order = [self.baseline, *names]
        if self._number % 2:
            order.reverse()
        self._number += 1
        times = self.take_round(order)
        for name, seconds in times.items():
            self.times.setdefault(name, []).append(seconds)
        return times
