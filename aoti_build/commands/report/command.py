"""`report`: all that is known of the targets, for a page: what is published, how it was verified,
built and measured, and what changed over time.

It only reads. It imports no torch and measures nothing. What is missing is named with the command
that makes it, and is no failure.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

from aoti_build.artifact.manifest import BENCH, MODEL, FileRecord, Manifest
from aoti_build.artifact.manifest_types import ProvenanceRecord
from aoti_build.artifact.paths import artifact_directory, trace_path
from aoti_build.artifact.provenance import provenance
from aoti_build.commands.build import plan
from aoti_build.commands.conclusion import head, target_option
from aoti_build.commands.json_values import json_list
from aoti_build.commands.report.bench import (
    Bench,
    BenchState,
    bench_of,
    bench_summary,
)
from aoti_build.commands.report.history import History, HistorySeries
from aoti_build.commands.report.verification import Verification, verification_of
from aoti_build.commands.version import VersionReport, version
from aoti_build.common.json_object import JsonObject
from aoti_build.errors import with_task_names
from aoti_build.measurement.record import BenchRecord, Machine
from aoti_build.models_file.project import Project, Target
from aoti_build.planning.plan import Step
from aoti_build.work.profile import Profile, profile_of
from aoti_build.work.trace_file import read_trace

# The task that measures.
MEASURING_TASK = "bench"


@dataclass(frozen=True)
class TargetReport:
    """One target. `verification` and `bench` are None if there is no readable artifact."""

    step: Step
    verification: Verification | None
    bench: Bench | None
    history: tuple[HistorySeries, ...] = ()

    @property
    def name(self) -> str:
        return self.step.target.name

    @property
    def manifest(self) -> Manifest | None:
        return self.step.manifest

    @property
    def package(self) -> FileRecord | None:
        return self.manifest.files[MODEL] if self.manifest else None

    @property
    def record(self) -> BenchRecord | None:
        """The benchmark of the published artifact."""
        return self.bench.current if self.bench else None

    @property
    def missing(self) -> str | None:
        """What is missing and which command makes it, in a sentence. None if all is there."""
        option = target_option([self.name])
        build = with_task_names(f"`invoke build{option}`")
        measure = with_task_names(f"`invoke {MEASURING_TASK}{option}`")
        if self.bench is None:
            return f"There is no readable artifact: {build} builds it."
        if self.bench.state == BenchState.MISSING:
            return f"It was not measured: {measure} measures it."
        if self.bench.state == BenchState.UNREADABLE:
            return (
                f"{BENCH} beside the artifact cannot be read, or another release wrote it:"
                f" {measure} measures again."
            )
        if self.bench.state == BenchState.OUTDATED:
            return (
                "The benchmark is of an earlier artifact, and its figures are not those of the"
                f" published one: {measure} measures again."
            )
        return None

    def as_json(self) -> JsonObject:
        package = self.package
        return {
            "target": self.name,
            "state": self.step.action,
            "reasons": json_list(self.step.reasons),
            "sha256": package.sha256 if package else None,
            "size": package.size if package else None,
            "verification": self.verification.as_json() if self.verification else None,
            "bench": bench_summary(self.bench) if self.bench else None,
            "history": [series.name for series in self.history],
            "missing": self.missing,
        }


@dataclass(frozen=True)
class ProjectReport:
    """The whole report.

    Attributes:
        name: of the project's directory.
        models_file: relative to it.
        made: when the report was made, by which release, and from which commit.
        versions: of Python and torch, here and now.
        trace: where the time of the last build went. None if there is no trace of one.
        trace_problem: why the trace cannot be read.
        notes: sentences about the project, and about broken parts of the history.
        history_asked: whether a directory of the history was named.
        written: the files that the task wrote.
    """

    name: str
    models_file: str
    made: ProvenanceRecord
    versions: VersionReport
    targets: tuple[TargetReport, ...]
    trace: Profile | None = None
    trace_problem: str | None = None
    notes: tuple[str, ...] = ()
    history_asked: bool = False
    written: tuple[str, ...] = ()

    @property
    def machines(self) -> list[Machine]:
        """The machines on which the targets were measured, each once.

        `band` is the widest one of its benchmarks, which measure it anew each time.
        """
        machines: list[Machine] = []
        bands: list[list[float]] = []
        for target in self.targets:
            record = target.bench.record if target.bench else None
            if record is None:
                continue
            machine = replace(record.machine, band=None)
            if machine not in machines:
                machines.append(machine)
                bands.append([])
            if record.machine.band is not None:
                bands[machines.index(machine)].append(record.machine.band)
        found = zip(machines, bands, strict=True)
        return [replace(machine, band=max(seen, default=None)) for machine, seen in found]

    def as_json(self) -> JsonObject:
        return {
            **head("aoti-build/report", 1),
            "written": list(self.written),
            "targets": json_list(self.targets),
            "notes": list(self.notes),
        }


def report(
    project: Project,
    targets: tuple[Target, ...],
    *,
    history: History | None = None,
) -> ProjectReport:
    """Collect what is known of `targets`.

    Args:
        history: of the targets. None if no directory of it was named.
    """
    present = plan(project, targets, quick=False)
    series = history.series if history else {}
    broken = history.broken if history else ()
    rows = []
    for step in present.steps:
        rows.append(_target(project, step, tuple(series.get(step.target.name, ()))))
    trace, trace_problem = _trace(trace_path(project))
    return ProjectReport(
        name=project.root.resolve().name,
        models_file=project.name,
        made=provenance(project.root),
        versions=version(),
        targets=tuple(rows),
        trace=trace,
        trace_problem=trace_problem,
        notes=(*present.notes, *broken),
        history_asked=history is not None,
    )


def _target(project: Project, step: Step, series: tuple[HistorySeries, ...]) -> TargetReport:
    manifest = step.manifest
    if manifest is None:
        return TargetReport(step, None, None, series)
    directory = artifact_directory(project, step.target)
    return TargetReport(
        step,
        verification_of(manifest, directory),
        bench_of(manifest, directory),
        series,
    )


def _trace(path: Path) -> tuple[Profile | None, str | None]:
    """The profile of the last build, or why there is none. Both are None if there was no build."""
    if not path.exists():
        return None, None
    try:
        intervals = read_trace(path)
    except (OSError, ValueError) as error:
        return None, str(error)
    if not intervals:
        return None, "it has no intervals"
    return profile_of(intervals), None
