"""What methods of comparison make of noise: a simulation, in about a minute.

Old and new are equally fast, or the new one is 5 % slower. Each of the scenarios below disturbs
them in another way. Three methods judge them:

- aoti_build: `Rounds` and `compare`, as `tune` and `bench` call them, with the band of 3 %. "No
  band" is the first look alone.
- pooled calls with the Mann-Whitney U test.
- pooled calls with Welch's t test.

The pooled methods say "worse" if the new calls are slower and p < 0.05. "3 %" are those where the
median, or the mean, is also more than 3 % higher. They see the calls of eight processes of each,
taken in turns, or first all of the old one and then all of the new one.

    python benchmarks/simulate_verdicts.py [--repetitions 2000] [--json FILE]

docs/explanation/measuring.md quotes the figures.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from aoti_build.measurement.pairs import Rounds, one_by_one
from aoti_build.measurement.statistics import BAND, MOST_PAIRS, PAIRS, Verdict, compare

CALLS = 100  # of a process
POOLED_ERROR = 0.05
POWER_NOISE = (0.005, 0.01, 0.015, 0.02, 0.03)
SLOWER = 0.05


@dataclass(frozen=True)
class Scenario:
    """Disturbances, as standard deviations or sizes of the logarithm of a time.

    Attributes:
        call: of each call.
        process: of each process, from its memory layout and its placement.
        tails: degrees of freedom of Student's t for `process`. None for a normal distribution.
        drift: how much slower the machine is at the end of 16 samples than at the beginning.
        machine: of the machine's state, which changes slowly.
        memory: the correlation of that state between two samples.
        burst: the probability that something slows a whole process by 15 %.
    """

    name: str
    call: float = 0.03
    process: float = 0.0
    tails: int | None = None
    drift: float = 0.0
    machine: float = 0.0
    memory: float = 0.0
    burst: float = 0.0


SCENARIOS = (
    Scenario("independent calls"),
    Scenario("process offsets of 1 %", process=0.01),
    Scenario("drift of 5 %", process=0.01, drift=0.05),
    Scenario("slow changes of 2 %", process=0.01, machine=0.02, memory=0.8),
    Scenario("heavy tails", process=0.01, tails=2),
    Scenario("bursts", process=0.01, burst=0.1),
    Scenario(
        "all of these", process=0.01, tails=3, drift=0.05, machine=0.02, memory=0.8, burst=0.05
    ),
)


@dataclass
class Machine:
    """A pretended machine. Samples are taken one after the other."""

    scenario: Scenario
    generator: np.random.Generator
    slower: float = 0.0
    calls: dict[str, list[np.ndarray]] = field(default_factory=dict)
    _position: int = 0
    _state: float = 0.0

    def sample(self, name: str) -> float:
        """The median of the calls of one process of "old" or "new"."""
        scenario = self.scenario
        level = math.log1p(self.slower) if name == "new" else 0.0
        level += scenario.drift * self._position / (2 * PAIRS - 1)
        level += self._machine_state() + self._offset()
        if self.generator.random() < scenario.burst:
            level += math.log(1.15)
        times = np.exp(level + scenario.call * self.generator.standard_normal(CALLS))
        self.calls.setdefault(name, []).append(times)
        self._position += 1
        return float(np.median(times))

    def _machine_state(self) -> float:
        scenario = self.scenario
        fresh = scenario.machine * float(self.generator.standard_normal())
        if self._position == 0:
            self._state = fresh
        else:
            kept = math.sqrt(1 - scenario.memory**2)
            self._state = scenario.memory * self._state + kept * fresh
        return self._state

    def _offset(self) -> float:
        tails = self.scenario.tails
        if tails is None:
            return self.scenario.process * float(self.generator.standard_normal())
        return self.scenario.process * float(self.generator.standard_t(tails))


def mann_whitney_worse(old: np.ndarray, new: np.ndarray) -> bool:
    """Whether the Mann-Whitney U test says that the new calls are slower.

    With hundreds of calls U is normal.
    """
    both = np.concatenate([old, new])
    ranks = np.empty(len(both))
    ranks[np.argsort(both)] = np.arange(1, len(both) + 1)
    u = float(ranks[len(old) :].sum()) - len(new) * (len(new) + 1) / 2
    mean = len(old) * len(new) / 2
    deviation = math.sqrt(len(old) * len(new) * (len(old) + len(new) + 1) / 12)
    return _is_significant((u - mean) / deviation)


def t_test_worse(old: np.ndarray, new: np.ndarray) -> bool:
    """Whether Welch's t test says that the new calls are slower.

    With hundreds of calls t is normal.
    """
    error = math.sqrt(old.var(ddof=1) / len(old) + new.var(ddof=1) / len(new))
    return _is_significant(float(new.mean() - old.mean()) / error)


def _is_significant(score: float) -> bool:
    return score > 0 and math.erfc(score / math.sqrt(2)) < POOLED_ERROR


def judged(scenario: Scenario, generator: np.random.Generator, slower: float) -> Counter[str]:
    """Which methods say "worse", once; and the verdict of aoti_build with its pairs."""
    said: Counter[str] = Counter()
    machine = Machine(scenario, generator, slower)
    rounds = Rounds("old", ["new"], one_by_one(machine.sample), math.inf)
    comparison = rounds.run()["new"]
    said[f"aoti_build {comparison.verdict}"] += 1
    if comparison.verdict == Verdict.WORSE and comparison.pairs == PAIRS:
        said["aoti_build worse by 8 pairs"] += 1
    pairs = rounds.pairs["new"][:PAIRS]
    said["aoti_build, no band"] += compare(pairs, band=0.0).verdict == Verdict.WORSE
    said += _pooled(machine, "in turns")
    machine = Machine(scenario, generator, slower)
    for name in ["old"] * PAIRS + ["new"] * PAIRS:
        machine.sample(name)
    said += _pooled(machine, "one after the other")
    return said


def _pooled(machine: Machine, order: str) -> Counter[str]:
    """What the tests of pooled calls say about the first processes."""
    old = np.concatenate(machine.calls["old"][:PAIRS])
    new = np.concatenate(machine.calls["new"][:PAIRS])
    by_ranks, by_means = mann_whitney_worse(old, new), t_test_worse(old, new)
    higher_median = np.median(new) > (1 + BAND) * np.median(old)
    higher_mean = new.mean() > (1 + BAND) * old.mean()
    return Counter(
        {
            f"Mann-Whitney, {order}": int(by_ranks),
            f"Mann-Whitney and 3 %, {order}": int(by_ranks and higher_median),
            f"t test, {order}": int(by_means),
            f"t test and 3 %, {order}": int(by_means and higher_mean),
        }
    )


def rates(scenario: Scenario, repetitions: int, slower: float) -> dict[str, float]:
    """How often each method says "worse", as a part of 1."""
    generator = np.random.default_rng(17)
    total: Counter[str] = Counter()
    for _ in range(repetitions):
        total += judged(scenario, generator, slower)
    return {name: count / repetitions for name, count in sorted(total.items())}


def _print_false_alarms(found: dict[str, dict[str, float]]) -> None:
    columns = [
        "aoti_build worse",
        "aoti_build, no band",
        "Mann-Whitney, in turns",
        "Mann-Whitney and 3 %, in turns",
        "t test, in turns",
        "Mann-Whitney, one after the other",
        "Mann-Whitney and 3 %, one after the other",
        "t test, one after the other",
    ]
    print('False "worse", in percent')
    print(f"| scenario | {' | '.join(columns)} |\n|{' --- |' * (len(columns) + 1)}")
    for name, row in found.items():
        cells = [f"{100 * row.get(column, 0.0):.1f}" for column in columns]
        print(f"| {name} | {' | '.join(cells)} |")


def _print_power(found: dict[str, dict[str, float]]) -> None:
    print(f'\nA slowdown of {100 * SLOWER:.0f} % found as "worse", in percent')
    print(f"| noise of a ratio | by {PAIRS} pairs | by {MOST_PAIRS} pairs | better or same |")
    print("| --- | --- | --- | --- |")
    for name, row in found.items():
        wrong = row.get("aoti_build better", 0.0) + row.get("aoti_build same", 0.0)
        first = row.get("aoti_build worse by 8 pairs", 0.0)
        both = row.get("aoti_build worse", 0.0)
        print(f"| {name} | {100 * first:.1f} | {100 * both:.1f} | {100 * wrong:.1f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=2000)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    false_alarms = {
        scenario.name: rates(scenario, options.repetitions, 0.0) for scenario in SCENARIOS
    }
    _print_false_alarms(false_alarms)
    power = {}
    for noise in POWER_NOISE:
        # The difference of two processes has twice the variance of one.
        scenario = Scenario("", process=noise / math.sqrt(2), call=0.0)
        power[f"{100 * noise:.1f} %"] = rates(scenario, options.repetitions, SLOWER)
    _print_power(power)
    if options.json:
        document = {
            "repetitions": options.repetitions,
            "scenarios": [asdict(scenario) for scenario in SCENARIOS],
            "false_alarms": false_alarms,
            "slower": SLOWER,
            "power": power,
        }
        options.json.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
