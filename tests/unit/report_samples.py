"""Projects as `report` finds them: benchmarks, histories and traces that look measured."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec.structs import replace
from small_projects import PASSED_CASE, publish_fake, write_project

from aoti_build.artifact.manifest import BENCH, MODEL, Manifest
from aoti_build.artifact.paths import artifact_directory, trace_path
from aoti_build.commands.report.history import (
    SECONDS,
    HistoryPoint,
    HistorySeries,
    HistoryStep,
)
from aoti_build.measurement.record import (
    Base,
    BenchRecord,
    Cache,
    ComparisonRecord,
    Machine,
    Metric,
    Row,
    Sample,
    Steady,
    Way,
    write_bench,
)
from aoti_build.models_file import Project, Target
from aoti_build.work.trace import events_of
from aoti_build.work.watch import Interval

THREE_MODELS = """\
version: 1
models:
  resnet18:
    source: model.py:build
    inputs: [{shape: [2, 4]}]
    devices: [cpu, cuda]
  encoder:
    source: model.py:build
    inputs: [{shape: [3, 4]}]
"""
MACHINE = Machine(
    machine_class="x86_64-avx512-2cpu",
    facts={
        "processor": "Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz",
        "memory": "7.8 GiB",
        "kernel": "6.1.0",
        "python": "3.11.7",
        "torch": "2.14.1",
    },
    threads=2,
    cpus=(0, 1),
    band=0.021,
)
# Seconds of a cold start and of a call, by way. A cache of None means that there is none.
TIMES: Sequence[tuple[Way, Cache | None, float, float]] = (
    (Way.ARTIFACT, Cache.USED, 0.0713, 0.0364),
    (Way.ARTIFACT, Cache.EMPTY, 0.412, 0.0364),
    (Way.AOTI_LOAD_PACKAGE, Cache.USED, 1.05, 0.0395),
    (Way.AOTI_LOAD_PACKAGE, Cache.EMPTY, 9.3, 0.0395),
    (Way.EAGER, None, 0.243, 0.0521),
    (Way.COMPILE, Cache.USED, 2.4, 0.0381),
    (Way.COMPILE, Cache.EMPTY, 23.0, 0.0381),
)


def steady(typical: float, generator: random.Random, sizes: Mapping[str, int]) -> Steady:
    """A distribution of 400 calls around `typical` seconds, with a tail."""
    times = sorted(
        typical * (1 + abs(generator.gauss(0, 0.03)) + (generator.random() < 0.03) * 0.12)
        for _ in range(400)
    )
    width = (times[395] - times[0]) / 24
    edges = [times[0] + width * number for number in range(1, 25)] + [times[-1]]
    counts = [0] * len(edges)
    for time in times:
        counts[next(index for index, edge in enumerate(edges) if time <= edge)] += 1
    return Steady(
        sizes=dict(sizes),
        p50=times[199],
        p95=times[379],
        p99=times[395],
        calls=400,
        samples_per_second=2 / typical,
        histogram=tuple(counts),
        histogram_edges=tuple(edges),
    )


def row(
    way: Way,
    cache: Cache | None,
    first: float,
    call: float,
    sizes: Sequence[Mapping[str, int]] = ({},),
) -> Row:
    generator = random.Random(f"{way}{cache}")  # noqa: S311 - no secret
    samples = []
    for _ in range(4):
        noise = 1 + abs(generator.gauss(0, 0.04))
        measured = []
        for number, at in enumerate(sizes):
            measured.append(steady(call * 4**number, generator, at))
        samples.append(
            Sample(
                started="2026-12-01T12:00:00+00:00",
                import_seconds=3.4 * noise,
                load_seconds=first * noise * 0.6,
                first_seconds=first * noise,
                peak_memory=767 << 20,
                steady=tuple(measured),
            )
        )
    return Row(way, cache, tuple(samples))


COMPARISONS = (
    ComparisonRecord(
        metric=Metric.FIRST,
        base="torch.compile, empty cache",
        ratio=0.0031,
        low=0.0029,
        high=0.0033,
        pairs=8,
        band=0.03,
        verdict="better",
    ),
    ComparisonRecord(
        metric=Metric.STEADY,
        base="eager",
        ratio=0.699,
        low=0.687,
        high=0.711,
        pairs=8,
        band=0.03,
        verdict="better",
    ),
)
BASE = Base(
    name="release/1.4",
    key="d" * 64,
    package_sha256="e" * 64,
    size=48_000_000,
    comparisons=(
        ComparisonRecord(
            metric=Metric.FIRST,
            base="release/1.4",
            ratio=1.004,
            low=0.981,
            high=1.027,
            pairs=8,
            band=0.03,
            verdict="same",
            limit=1.2,
        ),
        ComparisonRecord(
            metric=Metric.STEADY,
            base="release/1.4",
            ratio=1.083,
            low=1.061,
            high=1.106,
            pairs=8,
            band=0.03,
            verdict="worse",
            limit=1.05,
        ),
        ComparisonRecord(
            metric=Metric.MEMORY,
            base="release/1.4",
            ratio=0.94,
            low=0.931,
            high=0.949,
            pairs=8,
            band=0.03,
            verdict="better",
        ),
        ComparisonRecord(
            metric=Metric.IMPORT,
            base="release/1.4",
            ratio=1.02,
            low=0.96,
            high=1.09,
            pairs=16,
            band=0.03,
            verdict="unknown",
            why="this host is too noisy",
        ),
    ),
)


def record_of(manifest: Manifest, **changes: Any) -> BenchRecord:
    """A benchmark of the artifact with this manifest."""
    record = BenchRecord(
        target=manifest.target,
        key=manifest.key,
        package_sha256=manifest.files[MODEL].sha256,
        size=48_858_435,
        measured="2026-12-01T12:14:03+00:00",
        machine=MACHINE,
        rows=tuple(row(*times) for times in TIMES),
        comparisons=COMPARISONS,
        base=BASE,
        commit="0123456789abcdef",
    )
    return replace(record, **changes)


def publish_bench(project: Project, target: Target, manifest: Manifest, **changes: Any) -> Path:
    """Put a benchmark beside an artifact."""
    path = artifact_directory(project, target) / BENCH
    write_bench(path, record_of(manifest, **changes))
    return path


def history(count: int = 24, step: int = 15) -> tuple[HistorySeries, ...]:
    """The latency of `count` benchmarks, one a day, with a step."""
    generator = random.Random(0)  # noqa: S311 - no secret
    points = []
    for day in range(count):
        value = 0.0364 * (1.083 if day >= step else 1) * (1 + generator.gauss(0, 0.006))
        time = f"2026-11-{day + 1:02}T12:00:00+00:00"
        points.append(HistoryPoint(time, value, f"{day:02}23456789abcdef", f"{day:02}" * 32))
    steps = (HistoryStep(step, 1.083, ("torch 2.13.0 -> 2.14.1",)),)
    name = "artifact, used cache, steady"
    return (HistorySeries(name, SECONDS, MACHINE.machine_class, tuple(points), steps),)


def write_trace(project: Project) -> None:
    """The trace of a build of two targets, one after the other."""
    intervals = []
    start = 100.0
    for name in ("resnet18/cpu", "encoder/cpu"):
        begin = start
        for phase, seconds in (("start", 2.9), ("export", 4.2), ("compile", 19.9), ("check", 3.1)):
            intervals.append(Interval(name, 7, "phase", phase, start, seconds))
            if phase == "compile":
                intervals.append(Interval(name, 8, "program", "g++ model.cpp", start + 2, 12.5))
            start += seconds
        intervals.append(Interval(name, 7, "target", name, begin, start - begin))
    text = json.dumps({"traceEvents": list(events_of(intervals))})
    path = trace_path(project)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode()))


FIGURES = {
    **PASSED_CASE["outputs"][0],  # type: ignore[index]
    "by": "allclose",
    "max_abs": 2.0265e-06,
    "rmse": 5.786e-07,
    "atol": 1.6222e-06,
    "needed_atol": 1.4012e-06,
    "rtol": 1.3e-06,
}
CHECK = {
    "passed": True,
    "tolerance": {"atol": None, "rtol": None, "outputs": {}},
    "cases": [{"name": "example", "sizes": {}, "seed": 0, "outputs": [FIGURES]}],
}


def full_project(root: Path) -> Project:
    """One target that is measured, one for a device that is not here, one that was not measured."""
    project = write_project(root / "vision-models", THREE_MODELS)
    measured, _, other = project.targets
    seconds = {"model": 0.8, "export": 4.2, "reference": 2.0, "compile": 20.0, "check": 0.7}
    reason = {"reason": "source-changed", "what": "model.py", "old": "a" * 64, "new": "b" * 64}
    provenance = {
        "aoti_build": "0.1.0",
        "created": "2026-12-01T12:10:54+00:00",
        "git_commit": "0123456789abcdef",
        "git_dirty": False,
    }
    changes: dict[str, Any] = {
        "check": CHECK,
        "seconds": {**seconds, "total": 31.3},
        "reasons": (reason,),
        "provenance": provenance,
    }
    manifest = publish_fake(project, measured, **changes)
    sizes = ({"batch": 2}, {"batch": 8})
    rows = tuple(row(*times, sizes) for times in TIMES)
    failed = Row(Way.ONNXRUNTIME, None, error="the operator aten::grid_sampler is not supported")
    publish_bench(project, measured, manifest, rows=(*rows, failed))
    publish_fake(project, other)
    write_trace(project)
    return project
