"""`bench`: measures what an artifact costs from its load on, beside other ways to run its model.

Each sample is a fresh process. What was measured is written beside the artifact, as ``bench.json``.
With a base, its package is measured again in pairs with the new one, and a verdict says for each
metric whether the new one is worse.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

from msgspec.structs import replace as replaced

from aoti_build.artifact.paths import inductor_cache_root, tuning_lock_path
from aoti_build.commands.bench.record import write_record
from aoti_build.commands.bench.report import Benchmark, BenchReport
from aoti_build.commands.bench.target import BUDGET, Bencher, Measured, OnProgress, Options
from aoti_build.common.directories import temporary_directory
from aoti_build.common.locks import lock
from aoti_build.errors import UsageError
from aoti_build.measurement.gate import answers
from aoti_build.measurement.history import append, prepare
from aoti_build.measurement.record import ComparisonRecord, Metric
from aoti_build.models_file.project import Project, Target
from aoti_build.work.processes import allow_starts, check_stopping

__all__ = ["BUDGET", "Options", "bench", "judged_together"]


def bench(
    project: Project,
    targets: tuple[Target, ...],
    options: Options,
    *,
    on_progress: OnProgress = lambda target, phase: None,
) -> BenchReport:
    """Measure the artifacts of `targets`, one after another. One that cannot be measured does not
    stop the others.

    Raises:
        UsageError: there are limits without a base, or the history cannot be written.
        DirectoryError: the temporary directory is unfit.
        Interrupted: Ctrl-C was pressed. What is written then is whole.
    """
    if options.rule.limits and not options.against:
        raise UsageError(
            "--fail-if compares with a base, and there is none",
            hint="name one with --against, such as a directory of `invoke export`",
        )
    # An interrupted command in the same process has forbidden new workers.
    allow_starts()
    temporary_directory()
    if project.history is not None:
        prepare(project.history)
    started = time.monotonic()
    bencher = Bencher(project, options, on_progress)
    with _alone(project, targets):
        measured = _measured(bencher, targets, started + options.budget)
    benchmarks = judged_together(project, options, measured)
    return BenchReport(tuple(benchmarks), options.rule, time.monotonic() - started)


def _measured(bencher: Bencher, targets: Sequence[Target], end: float) -> list[Measured]:
    """The measurements in the order of `targets`, which share the time until `end`.

    What cannot be measured is found first, so that it takes no share.
    """
    obstacles = {target.name: bencher.obstacle(target) for target in targets}
    waiting = sum(obstacle is None for obstacle in obstacles.values())
    measured = []
    for target in targets:
        found = obstacles[target.name]
        if found is None:
            now = time.monotonic()
            share = max(0.0, end - now) / waiting
            waiting -= 1
            found = _kept(bencher.project, bencher.measure(target, now + share))
        measured.append(found)
    return measured


def _kept(project: Project, measured: Measured) -> Measured:
    """Add a benchmark to the history, if the project keeps one.

    A file that cannot be written is the error of the target: its figures are shown all the same.
    """
    benchmark = measured.benchmark
    if project.history is None or benchmark.record is None or not benchmark.has_figures:
        return measured
    try:
        append(project.history, benchmark.record)
    except UsageError as error:
        error.target = benchmark.target.name
        return replace(measured, benchmark=replace(benchmark, error=benchmark.error or error))
    return measured


@contextlib.contextmanager
def _alone(project: Project, targets: Sequence[Target]) -> Iterator[None]:
    """Let no other measurement of the project run, and no build autotune on the GPU."""
    with contextlib.ExitStack() as locks:
        # The artifacts of a serving host may be read-only. Nothing else measures there then.
        with contextlib.suppress(OSError):
            if project.main_artifacts.is_dir():
                locks.enter_context(lock(tuning_lock_path(project), check_stopping))
        devices = [target.hardware for target in targets]
        if any(device.builds_alone and device.count() for device in devices):
            locks.enter_context(lock(inductor_cache_root() / "gpu.lock", check_stopping))
        yield


def judged_together(
    project: Project, options: Options, measured: Sequence[Measured]
) -> list[Benchmark]:
    """The benchmarks, with verdicts for which the metrics of all targets count together.

    The more comparisons there are, the more likely one looks worse by chance.
    """
    gated = [found for found in measured if found.questions]
    if len(gated) < 2:
        return [found.benchmark for found in measured]
    every = [entry for found in gated for entry in found.questions]
    records = iter(answers(every, options.rule))
    judged = []
    for found in measured:
        answered = [next(records) for entry in found.questions if entry.pairs]
        judged.append(_with_verdicts(project, found.benchmark, answered))
    return judged


def _with_verdicts(
    project: Project, benchmark: Benchmark, answered: Sequence[ComparisonRecord]
) -> Benchmark:
    """The benchmark with these comparisons with its base, and that of the sizes."""
    record = benchmark.record
    if record is None or record.base is None:
        return benchmark
    exact = [entry for entry in record.base.comparisons if entry.metric == Metric.SIZE]
    comparisons = (*answered, *exact)
    if comparisons == record.base.comparisons:
        return benchmark
    changed = replaced(record, base=replaced(record.base, comparisons=comparisons))
    write_record(project, benchmark.target, changed)
    return replace(benchmark, record=changed)
