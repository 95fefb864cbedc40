"""Builds and measures the candidates of one target for `tune`."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from statistics import median

from aoti_build.artifact.manifest import MODEL, Manifest, read_manifest
from aoti_build.artifact.paths import artifact_directory, inductor_cache_root
from aoti_build.commands.build import build
from aoti_build.commands.tune.candidates import Candidate, baseline_of, candidates
from aoti_build.commands.tune.report import Outcome, Row
from aoti_build.common.locks import lock
from aoti_build.errors import AotiBuildError, BuildError, DirectoryError, Interrupted
from aoti_build.host import distributions
from aoti_build.measurement.pairs import Rounds, one_by_one
from aoti_build.measurement.samples import PEERS, Sampler
from aoti_build.measurement.statistics import PAIRS, Comparison
from aoti_build.measurement.turns import fit_together, take_in_turns
from aoti_build.messages import MeasureResult
from aoti_build.models_file.project import Project, Target
from aoti_build.work.processes import check_stopping
from aoti_build.work.schedule import default_jobs
from aoti_build.work.worker import OnTurn

# The part of the budget after which no further build is started. The rest is for samples.
_BUILD_SHARE = 0.6
# Samples need not take exactly as long as the first one.
_MARGIN = 1.15


@dataclass(frozen=True)
class Settings:
    """The options of a run that concern every target."""

    allowed: tuple[str, ...]
    peers: bool
    band: float
    on_progress: Callable[[Target, str], None]


@dataclass(frozen=True)
class Measured:
    """The candidates of one target with their times, the baseline first.

    `error` is that of the baseline. Then nothing could be compared.
    """

    rows: tuple[Row, ...]
    peers: tuple[Row, ...] = ()
    notes: tuple[str, ...] = ()
    error: AotiBuildError | None = None


@dataclass
class TargetTuner:
    """Builds and measures the candidates of `target`.

    `project` has the private directory of artifacts, and `sampler` samples from it.
    """

    project: Project
    sampler: Sampler
    settings: Settings
    target: Target
    # Why a candidate or a peer was not measured.
    errors: dict[str, AotiBuildError] = field(default_factory=dict)
    untried: list[str] = field(default_factory=list)
    results: dict[str, list[MeasureResult]] = field(default_factory=dict)
    _built: dict[str, Candidate] = field(default_factory=dict)

    def measure(self, seconds: float) -> Measured:
        """Build what fits into the budget of `seconds`, then measure it."""
        deadline = time.monotonic() + seconds
        baseline = baseline_of(self.project, self.target)
        tried = candidates(self.project, self.target, self.settings.allowed)
        self._build(baseline, tried, seconds)
        names = [candidate.name for candidate in tried if candidate.name in self._built]
        peers, notes = self._peers()
        comparisons: dict[str, Comparison] = {}
        if baseline.name in self._built:
            with self._alone():
                comparisons = self._compare(baseline.name, names, peers, deadline)
        rows = [self._row(candidate, comparisons) for candidate in (baseline, *tried)]
        peer_rows = [self._peer_row(name, comparisons) for name in peers]
        error = self.errors.get(baseline.name)
        return Measured(tuple(rows), tuple(peer_rows), notes, error)

    # Builds

    def _build(self, baseline: Candidate, tried: list[Candidate], seconds: float) -> None:
        """Build the baseline and, as long as the budget lasts, the other candidates in order."""
        started = time.monotonic()
        waiting = [baseline, *tried]
        at_once = default_jobs(len(waiting))
        longest = 0.0
        while waiting:
            elapsed = time.monotonic() - started
            is_first = waiting[0] is baseline
            if not is_first and elapsed + longest > _BUILD_SHARE * seconds:
                self.untried += [candidate.name for candidate in waiting]
                return
            batch, waiting = waiting[:at_once], waiting[at_once:]
            self._build_batch(batch)
            longest = max(longest, time.monotonic() - started - elapsed)
            if baseline.name not in self._built:
                self.untried += [candidate.name for candidate in waiting]
                return

    def _build_batch(self, batch: Sequence[Candidate]) -> None:
        names = {candidate.target.name: candidate.name for candidate in batch}

        def on_progress(target: Target, phase: str) -> None:
            self._say(f"{names[target.name]}: {phase}")

        report = build(
            self.project,
            tuple(candidate.target for candidate in batch),
            keep_going=True,
            on_progress=on_progress,
        )
        for candidate, outcome in zip(batch, report.outcomes, strict=True):
            if outcome.error is not None:
                outcome.error.target = self.target.name
                self.errors[candidate.name] = outcome.error
            elif outcome.unverified is not None:
                message = f"it was not compared with eager mode: {outcome.unverified}"
                self.errors[candidate.name] = BuildError(message)
            else:
                self._built[candidate.name] = candidate

    # Samples

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Let no build autotune on the GPU while samples are taken."""
        if not self.target.hardware.builds_alone:
            yield
            return
        with lock(inductor_cache_root() / "gpu.lock", check_stopping):
            yield

    def _compare(
        self, baseline: str, names: list[str], peers: list[str], deadline: float
    ) -> dict[str, Comparison]:
        """Take samples in rounds. What does not fit into the budget is left untried."""
        started = time.monotonic()
        # This sample does not count. It reads all files into memory, and tells how long one takes.
        if self._take(baseline) is None:
            return {}
        self.results.clear()
        one_sample = (time.monotonic() - started) * _MARGIN
        # A peer converts the model once. A conversion that fails ends it.
        converted = [name for name in peers if self._take(name) is not None]
        for name in converted:
            self.results.pop(name)
        subjects = [*names, *converted]
        remaining = deadline - time.monotonic()
        affordable = int(remaining / (one_sample * PAIRS)) - 1
        self.untried += subjects[max(0, affordable) :]
        rounds = Rounds(
            baseline,
            subjects[: max(0, affordable)],
            self._take_in_turns if self._fit_together() else one_by_one(self._take),
            remaining,
            band=self.settings.band,
        )
        return rounds.run() if affordable > 0 else {}

    def _take(self, name: str) -> float | None:
        """The median seconds of a call in one fresh process; None if it failed."""
        self._say(f"sample of {name}")
        return self._kept(name, partial(self._sample, name))

    def _take_in_turns(self, names: Sequence[str]) -> dict[str, float]:
        """The same of several subjects, with calls in turns."""
        self._say(f"samples of {len(names)} candidates in turns")
        samples = take_in_turns({name: partial(self._sample, name) for name in names})
        times = {}
        for name, sample in samples.items():
            seconds = self._kept(name, sample.result)
            if seconds is not None:
                times[name] = seconds
        return times

    def _fit_together(self) -> bool:
        """Whether the packages of all candidates can be loaded at the same time."""
        sizes = []
        for candidate in self._built.values():
            package = artifact_directory(self.project, candidate.target) / MODEL
            sizes.append(package.stat().st_size)
        return fit_together(sizes)

    def _sample(self, name: str, on_turn: OnTurn | None = None) -> MeasureResult:
        candidate = self._built.get(name)
        if candidate is None:
            return self.sampler.peer(self.target, name, on_turn=on_turn)
        # A choice must pay for itself without a change of the service.
        is_converted = candidate.choice.memory_format is not None
        return self.sampler.artifact(
            candidate.target, contiguous_inputs=is_converted, on_turn=on_turn
        )

    def _kept(self, name: str, sample: Callable[[], MeasureResult]) -> float | None:
        """The median of a sample, which is kept; None if it failed."""
        try:
            result = sample()
        except (Interrupted, DirectoryError):
            # The user or the host is at fault, and not this candidate.
            raise
        except AotiBuildError as error:
            self.errors[name] = error
            return None
        self.results.setdefault(name, []).append(result)
        return result.median

    def _peers(self) -> tuple[list[str], tuple[str, ...]]:
        """The libraries to compare with, and a sentence for each that cannot be."""
        if not self.settings.peers:
            return [], ()
        if self.target.device != "cpu":
            return [], ("other libraries are compared on the CPU only",)
        names, notes = [], []
        for name in PEERS:
            if distributions.version_of(name) is None:
                notes.append(f"{name} is not installed, so it was not compared")
            else:
                names.append(name)
        return names, tuple(notes)

    # Rows

    def _row(self, candidate: Candidate, comparisons: dict[str, Comparison]) -> Row:
        name = candidate.name
        if name in self.errors:
            return Row(name, Outcome.FAILED, candidate.choice, why=_why(self.errors[name]))
        if name in self.untried or name not in self.results:
            return Row(name, Outcome.UNTRIED, candidate.choice, why="the budget ended before")
        row = self._measured(name, comparisons)
        return replace(row, choice=candidate.choice, loss=self._loss(candidate))

    def _peer_row(self, name: str, comparisons: dict[str, Comparison]) -> Row:
        if name in self.errors:
            return Row(name, Outcome.FAILED, why=_why(self.errors[name]))
        if name not in self.results:
            return Row(name, Outcome.UNTRIED, why="the budget ended before")
        return self._measured(name, comparisons)

    def _measured(self, name: str, comparisons: dict[str, Comparison]) -> Row:
        samples = self.results[name]
        return Row(
            name,
            Outcome.MEASURED,
            seconds=median([sample.median for sample in samples]),
            samples=len(samples),
            peak_memory=max(sample.peak_memory for sample in samples),
            comparison=comparisons.get(name),
        )

    def _loss(self, candidate: Candidate) -> float | None:
        """The relative RMSE of the worst output, for a candidate that lowers the precision."""
        if not candidate.lowers_precision:
            return None
        manifest = read_manifest(artifact_directory(self.project, candidate.target))
        if not isinstance(manifest, Manifest):
            return None
        return relative_rmse(manifest)

    def _say(self, text: str) -> None:
        self.settings.on_progress(self.target, text)


def relative_rmse(manifest: Manifest) -> float | None:
    """The largest error of an output in the check, relative to the output's root mean square.

    The error is that against eager mode in float64 where there is one. None without figures.
    """
    losses = []
    for case in manifest.check["cases"]:
        for output in case["outputs"]:
            error = output.get("fp64", {}).get("candidate_rmse", output.get("rmse"))
            size = output.get("reference_rms")
            if error is not None and size:
                losses.append(error / size)
    return max(losses, default=None)


def _why(error: AotiBuildError) -> str:
    """The error in one line."""
    first_of_cause = (error.cause or "").strip().splitlines()[:1]
    return ": ".join([error.message, *first_of_cause])
