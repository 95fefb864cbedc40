"""Measures one target for `bench`: a private copy of its artifact, beside the other ways."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from aoti_build.artifact.manifest import Manifest
from aoti_build.artifact.paths import artifact_directory, stat_cache_path
from aoti_build.artifact.reasons import ReasonKind
from aoti_build.commands.bench import base as bench_base
from aoti_build.commands.bench.measure import BASE, TargetBench
from aoti_build.commands.bench.record import (
    base_record,
    points_of,
    processors_for,
    record_of,
    write_record,
)
from aoti_build.commands.bench.report import Benchmark
from aoti_build.commands.bench.ways import (
    LIBRARIES,
    default_ways,
    name_of,
    possible_ways,
    subjects_of,
)
from aoti_build.common.directories import temporary_directory
from aoti_build.common.stat_cache import StatCache
from aoti_build.errors import (
    AotiBuildError,
    BuildError,
    DirectoryError,
    Interrupted,
    OutOfDateError,
    VerificationError,
)
from aoti_build.host.machine import busy_host
from aoti_build.measurement.bench_samples import BenchSampler, Subject
from aoti_build.measurement.gate import Question, Rule
from aoti_build.measurement.record import BenchRecord, Cache, Way
from aoti_build.measurement.samples import SECONDS
from aoti_build.measurement.statistics import PAIRS
from aoti_build.measurement.turns import fit_together
from aoti_build.models_file.project import Project, Target
from aoti_build.planning.plan import out_of_date, plan_target
from aoti_build.store.selection import open_store
from aoti_build.work.opened import (
    ArchitectureMissing,
    copy_artifact,
    published_manifest,
    require_fit,
)

BUDGET = 1200.0  # seconds
OnProgress = Callable[[Target, str], None]


@dataclass(frozen=True)
class Options:
    """What is measured, and how.

    Attributes:
        ways: of ``--ways``. Empty for the usual ones.
        peers: also measure other libraries.
        cuda_graphs: compare the artifact as it is replayed from CUDA graphs.
        samples: of each way that is not slow.
        seconds: what the timed calls of one sample last, for each combination of sizes.
        threads: of torch; None for as many as there are processors.
        against: the base, as the user names it; empty for none.
        rule: what counts as worse.
        budget: seconds for everything. What does not fit is left out.
    """

    ways: tuple[Way, ...] = ()
    peers: bool = False
    cuda_graphs: bool = False
    samples: int = PAIRS
    seconds: float = SECONDS
    threads: int | None = None
    against: str = ""
    rule: Rule = field(default_factory=Rule)
    budget: float = BUDGET


@dataclass(frozen=True)
class Measured:
    """The benchmark of a target, and the questions about its base that are judged with those of
    the other targets."""

    benchmark: Benchmark
    questions: Sequence[Question] = ()


@dataclass(frozen=True)
class Bencher:
    """Measures one target after another."""

    project: Project
    options: Options
    on_progress: OnProgress

    def obstacle(self, target: Target) -> Measured | None:
        """Why a target cannot be measured, if that can be told at once; None if it may be."""
        if not target.hardware.count():
            return _unavailable(target, f"no-device: {target.device}")
        try:
            require_fit(target, published_manifest(self.project, target))
            self._require_current(target)
        except (Interrupted, DirectoryError):
            raise
        except ArchitectureMissing as error:
            return _unavailable(target, error.cause or error.message)
        except AotiBuildError as error:
            return _failed(target, error)
        return None

    def measure(self, target: Target, deadline: float) -> Measured:
        """Measure one target that has no `obstacle`, and write its bench.json."""
        try:
            temporary = tempfile.TemporaryDirectory(
                prefix="aoti_build-", dir=temporary_directory(), ignore_cleanup_errors=True
            )
            with temporary as scratch:
                return self._measure(target, Path(scratch), deadline)
        except (Interrupted, DirectoryError):
            # The user or the host is at fault, and not this artifact: the command ends.
            raise
        except AotiBuildError as error:
            return _failed(target, error)

    def _measure(self, target: Target, scratch: Path, deadline: float) -> Measured:
        busy = busy_host()
        artifacts = scratch / "artifacts"
        destination = artifact_directory(self.project, target)
        copy = artifacts / destination.relative_to(self.project.artifacts)
        copy.mkdir(parents=True)
        manifest = copy_artifact(self.project, target, copy)
        require_fit(target, manifest)
        # It may have been edited while other targets were measured.
        self._require_current(target)
        base = self._base(target, scratch)
        bench = self._target_bench(target, manifest, scratch, base, deadline)
        bench.measure(self.options.rule)
        if bench.fatal is not None:
            raise _not_measured(bench.fatal)
        _, notes = possible_ways(target, self._ways(target))
        if busy is not None:
            notes = (busy, *notes)
        questions = bench.questions(base.name) if base is not None else []
        record = self._record(target, manifest, bench, base, questions)
        # Without any figure, the record of an earlier benchmark says more than this one.
        if bench.has_figures:
            notes = (*notes, *write_record(self.project, target, record))
        error = None
        if base is not None and not any(entry.pairs for entry in questions):
            error = _out_of_budget(target, f"nothing was compared with {base.name}")
        elif not bench.has_figures:
            error = _out_of_budget(target, "nothing was measured")
        return Measured(Benchmark(target, record, notes, error=error), questions)

    def _record(
        self,
        target: Target,
        manifest: Manifest,
        bench: TargetBench,
        base: bench_base.BasePackage | None,
        questions: Sequence[Question],
    ) -> BenchRecord:
        rule = self.options.rule
        compared = None
        if base is not None:
            size = bench_base.size_of(manifest)
            compared = base_record(base, bench, questions, size, rule=rule)
        return record_of(self.project, target, manifest, bench, compared, rule=rule)

    def _require_current(self, target: Target) -> None:
        """Raise `OutOfDateError` if the artifact is not what the sources say now.

        The other ways run the model as it is now. A damaged artifact is refused by the copy.
        """
        digests = StatCache(stat_cache_path(self.project))
        store = open_store(self.project.main_artifacts)
        reasons = out_of_date(plan_target(self.project, target, digests, store))
        reasons = tuple(found for found in reasons if found.reason != ReasonKind.ARTIFACT_DAMAGED)
        if reasons:
            raise OutOfDateError(
                f"the artifact is out of date: {reasons[0]}",
                hint=f"build it first: invoke build --target {target.name}",
            )

    def _base(self, target: Target, scratch: Path) -> bench_base.BasePackage | None:
        if not self.options.against:
            return None
        directory = scratch / BASE
        return bench_base.find_base(self.project, target, self.options.against, directory)

    def _ways(self, target: Target) -> tuple[Way, ...]:
        """The ways that were asked for, with that of the artifact that is compared."""
        options = self.options
        ways = options.ways or default_ways(target, gate=bool(options.against))
        libraries = LIBRARIES if options.peers else ()
        return (self._own_way(target), *ways, *libraries)

    def _own_way(self, target: Target) -> Way:
        if self.options.cuda_graphs and target.hardware.has_graphs:
            return Way.ARTIFACT_GRAPHS
        return Way.ARTIFACT

    def _target_bench(
        self,
        target: Target,
        manifest: Manifest,
        scratch: Path,
        base: bench_base.BasePackage | None,
        deadline: float,
    ) -> TargetBench:
        ways, _ = possible_ways(target, self._ways(target))
        rows = subjects_of(ways, scratch / "artifacts")
        own = name_of(self._own_way(target), Cache.USED)
        new = next(row for row in rows if row.name == own)
        base_subject = None
        if base is not None:
            base_subject = Subject(BASE, new.way, new.cache, base.artifacts, BASE)
        cpus, threads = processors_for(self.options.threads)
        return TargetBench(
            sampler=BenchSampler(
                self.project,
                target,
                scratch,
                points=points_of(target),
                seconds=self.options.seconds,
                threads=threads,
                cpus=cpus,
            ),
            manifest=manifest,
            rows=rows,
            new=new,
            base=base_subject,
            samples=self.options.samples,
            deadline=deadline,
            on_progress=lambda phase: self.on_progress(target, phase),
            in_turns=base is not None and fit_together([bench_base.size_of(manifest), base.size]),
        )


def _not_measured(error: AotiBuildError) -> AotiBuildError:
    """The error of an artifact whose sample ended with `error`. What crashed was no build."""
    if not isinstance(error, BuildError):
        return error
    return VerificationError(
        "the artifact could not be measured",
        cause="\n".join(text for text in (error.message, error.cause) if text),
        hint="`invoke verify` compares it with eager mode, and the log has the details",
        log=error.log,
    )


def _out_of_budget(target: Target, what: str) -> AotiBuildError:
    """The error of a benchmark without any figure, and of a gate without any pair. It must not look
    as if it had passed."""
    return VerificationError(
        f"{what}: the budget ended before",
        target=target.name,
        hint="give it more time with --budget, or choose fewer targets",
    )


def _failed(target: Target, error: AotiBuildError) -> Measured:
    error.target = target.name
    return Measured(Benchmark(target, error=error))


def _unavailable(target: Target, why: str) -> Measured:
    return Measured(Benchmark(target, unavailable=why))
