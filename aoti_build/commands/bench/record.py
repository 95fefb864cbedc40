"""Makes the record of a benchmark, and writes it beside the artifact."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

from aoti_build.artifact.manifest import BENCH, MODEL, Manifest, read_manifest
from aoti_build.artifact.paths import artifact_directory
from aoti_build.artifact.provenance import provenance
from aoti_build.commands.bench.base import BasePackage, size_of
from aoti_build.commands.bench.measure import TargetBench
from aoti_build.host.machine import machine_facts
from aoti_build.measurement.gate import Question, Rule, answers, size_answer
from aoti_build.measurement.record import Base, BenchRecord, Machine, write_bench
from aoti_build.models_file.project import Project, Target


def record_of(
    project: Project,
    target: Target,
    manifest: Manifest,
    bench: TargetBench,
    base: Base | None,
    *,
    rule: Rule,
) -> BenchRecord:
    """What was measured of one target, and where."""
    return BenchRecord(
        target=target.name,
        key=manifest.key,
        package_sha256=manifest.files[MODEL].sha256,
        size=size_of(manifest),
        measured=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        machine=Machine(
            machine_class=target.hardware.host_class() or "unknown",
            facts=machine_facts(target.device),
            threads=bench.sampler.threads,
            cpus=tuple(bench.sampler.cpus),
            band=bench.host_band(),
        ),
        rows=bench.row_records(),
        comparisons=tuple(bench.way_comparisons(rule)),
        base=base,
        commit=commit_of(project.root),
    )


def base_record(
    base: BasePackage,
    bench: TargetBench,
    questions: Sequence[Question],
    size: int,
    *,
    rule: Rule,
) -> Base:
    """The base with the verdicts on the new artifact, whose package has `size` bytes."""
    compared = answers(questions, rule)
    return Base(
        name=base.name,
        key=base.key,
        package_sha256=base.package_sha256,
        size=base.size,
        comparisons=(*compared, size_answer(base.name, base.size, size, rule)),
        samples=bench.base_samples(),
    )


def write_record(project: Project, target: Target, record: BenchRecord) -> tuple[str, ...]:
    """Write bench.json beside the artifact. Returns a sentence if that is not possible."""
    directory = artifact_directory(project, target)
    current = read_manifest(directory)
    if not isinstance(current, Manifest) or current.key != record.key:
        return (f"{BENCH} was not written: another artifact took the place of this one",)
    try:
        write_bench(directory / BENCH, record)
    # The artifacts of a serving host may be read-only.
    except OSError as error:
        return (f"{BENCH} was not written: {error.strerror or error}",)
    return ()


def points_of(target: Target) -> list[dict[str, int]]:
    """The sizes of the dims at which calls are timed: the example, the smallest and the largest.

    None occurs twice. Without dims there is one combination, which is empty.
    """
    dims = target.model.dims
    points = []
    for name in ("example", "min", "max"):
        point = {dim.name: int(getattr(dim, name)) for dim in dims}
        if point not in points:
            points.append(point)
    return points


def commit_of(root: Path) -> str | None:
    """The git revision of the project, with ``+`` if files were changed. None without git."""
    found = provenance(root)
    commit = found["git_commit"]
    if commit is None:
        return None
    return f"{commit}+" if found["git_dirty"] else commit


def processors_for(threads: int | None) -> tuple[list[int], int]:
    """The processors to pin each process to, and the number of torch's threads in it.

    By default these are all processors that this process may use, with a thread for each.
    """
    usable = sorted(os.sched_getaffinity(0))
    if threads is None:
        return usable, len(usable)
    return usable[:threads], threads
