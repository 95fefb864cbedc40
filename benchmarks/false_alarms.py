"""How often comparisons of real processes are wrong on this host.

Two tiny packages are built. The second one works on 5 % more elements. Each comparison takes
samples as `tune` and `bench` do: with `Sampler`, `Rounds`, and fresh processes that take turns.
Half of them compare the first package with itself, where "worse" is a false alarm. The others
compare the second package with the first, where "worse" is right.

    python benchmarks/false_alarms.py DIRECTORY [--comparisons 100] [--cpus 0,1]
        [--kinds equal,slower]

DIRECTORY gets the project and `results.jsonl`, with a line for each comparison. A run that was
interrupted goes on where it ended. Each processor of `--cpus` makes comparisons of its own at the
same time, and its processes are pinned to it. `--comparisons` counts those of each kind, so there
are twice as many with both. `--summary` only prints what the file says.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import aoti_build
from aoti_build.measurement import samples
from aoti_build.measurement.host_noise import resolvable_band
from aoti_build.measurement.pairs import Rounds
from aoti_build.measurement.samples import Sampler
from aoti_build.measurement.statistics import BAND, Verdict, compare
from aoti_build.measurement.turns import take_in_turns
from aoti_build.messages import MeasureResult
from aoti_build.models_file import Project
from aoti_build.models_file.project import Target
from aoti_build.work.worker import OnTurn

# Seconds of timed calls in a process. Most of a sample is the start of the process and its imports.
SECONDS = 0.3
# The one of "found within 12 pairs".
LOOK = 12
KINDS = ("equal", "slower")
MODELS_YAML = """\
version: 1
models:
  first:
    source: model.py:Waves
    inputs: [{shape: [16000]}]
  slower:
    source: model.py:Waves
    inputs: [{shape: [16800]}]
"""
# Its tensors stay in the cache of a core. Larger ones are allocated in ways that differ from
# process to process, by 20 % of the time of such a small model.
MODEL = """\
from torch import nn


class Waves(nn.Module):
    def forward(self, x):
        for _ in range(25):
            x = x.sin() + x.exp().log1p()
        return x
"""


@dataclass(frozen=True)
class Comparer:
    """Makes comparisons with processes that are pinned to `cpu`."""

    project: Project
    results: Path
    cpu: int
    scratch: Path

    def run(self, numbers: Sequence[int]) -> None:
        """Make the comparisons with these numbers, each of the kind that follows from it."""
        os.sched_setaffinity(0, {self.cpu})  # workers inherit it
        for number in numbers:
            entry = self._compare(number)
            line = json.dumps(entry) + "\n"
            with self.results.open("a") as file:
                file.write(line)
            print(f"{number} {entry['kind']} on cpu {self.cpu}: {_text(entry)}", flush=True)

    def _compare(self, number: int) -> dict[str, Any]:
        kind = KINDS[number % len(KINDS)]
        targets = {target.model.name: target for target in self.project.targets}
        sampled = {"old": targets["first"], "new": targets["first"]}
        if kind == "slower":
            sampled["new"] = targets["slower"]
        sampler = Sampler(self.project, self.scratch)
        started = time.time()

        def take_round(names: Sequence[str]) -> dict[str, float]:
            takes = {}
            for name in names:
                takes[name] = partial(_sample, sampler, sampled[name])
            samples = take_in_turns(takes)
            return {name: sample.result().median for name, sample in samples.items()}

        rounds = Rounds("old", ["new"], take_round, float("inf"))
        comparison = rounds.run()["new"]
        return {
            "number": number,
            "kind": kind,
            "cpu": self.cpu,
            "started": started,
            "seconds": round(time.time() - started, 1),
            "verdict": str(comparison.verdict),
            "ratio": comparison.ratio,
            "low": comparison.low,
            "high": comparison.high,
            "pairs": rounds.pairs["new"],
        }


def _sample(sampler: Sampler, target: Target, on_turn: OnTurn) -> MeasureResult:
    return sampler.artifact(target, on_turn=on_turn)


def _text(entry: dict[str, Any]) -> str:
    interval = f"{entry['low']:.3f}..{entry['high']:.3f}"
    count = len(entry["pairs"])
    return f"{entry['verdict']}, {entry['ratio']:.4f} ({interval}, {count} pairs)"


def _prepare(directory: Path) -> Project:
    """Write the project into `directory`, and build its packages if they are not up to date."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in {"models.yaml": MODELS_YAML, "model.py": MODEL}.items():
        path = directory / name
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
    project = aoti_build.load_project(directory / "models.yaml")
    report = aoti_build.build(project, jobs=1)
    if report.error is not None:
        raise SystemExit(str(report.error))
    return project


def _read(results: Path) -> list[dict[str, Any]]:
    """The comparisons that were made. A line that was not finished is left out."""
    entries = []
    lines = results.read_text().splitlines() if results.exists() else []
    for line in lines:
        try:
            entries.append(json.loads(line))
        except ValueError:
            continue
    return entries


def _waiting(results: Path, comparisons: int, kinds: Sequence[str]) -> list[int]:
    """The numbers of the comparisons that were not made yet."""
    made = {entry["number"] for entry in _read(results)}
    numbers = range(len(KINDS) * comparisons)
    wanted = [number for number in numbers if KINDS[number % len(KINDS)] in kinds]
    return [number for number in wanted if number not in made]


def _measure(project: Project, results: Path, cpus: Sequence[int], waiting: Sequence[int]) -> None:
    """Make the comparisons with the numbers `waiting`."""
    samples.SECONDS = SECONDS
    with tempfile.TemporaryDirectory(prefix="aoti_build-") as scratch:
        processes = []
        for index, cpu in enumerate(cpus):
            # Neighbours are of one kind, so each processor gets pairs of numbers.
            share = [number for number in waiting if number // len(KINDS) % len(cpus) == index]
            own = Path(scratch, str(cpu))
            own.mkdir()
            comparer = Comparer(project, results, cpu, own)
            processes.append(multiprocessing.Process(target=comparer.run, args=(share,)))
        for process in processes:
            process.start()
        for process in processes:
            process.join()


def _within(pairs: Sequence[Sequence[float]]) -> bool:
    """Whether the verdict is "worse" after 8 pairs, or after those of `LOOK`."""
    looks = [pairs[:8], pairs[:LOOK]]
    typed = [[(old, new) for old, new in look] for look in looks]
    return any(compare(look).verdict == Verdict.WORSE for look in typed)


def _print_summary(entries: Sequence[dict[str, Any]]) -> None:
    print(f"band: {100 * BAND:g} %")
    for kind in KINDS:
        chosen = [entry for entry in entries if entry["kind"] == kind]
        if not chosen:
            continue
        counts = {
            str(verdict): sum(entry["verdict"] == verdict for entry in chosen)
            for verdict in Verdict
        }
        found = sum(_within(entry["pairs"]) for entry in chosen)
        ratios = sorted(entry["ratio"] for entry in chosen)
        pairs = sum(len(entry["pairs"]) for entry in chosen) / len(chosen)
        print(f"{kind}: {len(chosen)} comparisons, {counts}, worse within {LOOK} pairs: {found}")
        print(
            f"  ratios {ratios[0]:.4f}..{ratios[-1]:.4f}, median {ratios[len(ratios) // 2]:.4f};"
            f" {pairs:.1f} pairs and {sum(e['seconds'] for e in chosen) / len(chosen):.0f} s each"
        )
    equal = [
        tuple(pair) for entry in entries if entry["kind"] == "equal" for pair in entry["pairs"]
    ]
    if len(equal) > 1:
        print(f"band that this host can resolve: {100 * resolvable_band(equal):.2f} %")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--comparisons", type=int, default=100)
    parser.add_argument("--cpus", default="0", help="processors, separated by commas")
    parser.add_argument("--kinds", default=",".join(KINDS), help="separated by commas")
    parser.add_argument("--summary", action="store_true")
    options = parser.parse_args()
    directory = options.directory.absolute()
    results = directory / "results.jsonl"
    if not options.summary:
        cpus = [int(word) for word in options.cpus.split(",")]
        project = _prepare(directory)
        waiting = _waiting(results, options.comparisons, options.kinds.split(","))
        _measure(project, results, cpus, waiting)
    _print_summary(_read(results))


if __name__ == "__main__":
    sys.exit(main())
