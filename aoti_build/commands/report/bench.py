"""What a report says about the benchmark of an artifact: `bench.json` and figures made of it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from aoti_build.artifact.manifest import BENCH, MODEL, Manifest
from aoti_build.common.json_object import JsonObject
from aoti_build.common.text_enum import TextEnum
from aoti_build.measurement.record import (
    BenchRecord,
    Cache,
    ComparisonRecord,
    Row,
    Sample,
    Steady,
    Way,
    read_bench,
)

# The fields of a summary that only a record has.
_SUMMARY_FIELDS = ("measured", "machine_class", "first_seconds", "steady_seconds", "base")


class BenchState(TextEnum):
    """Whether there are figures of the published artifact."""

    MEASURED = "measured"
    MISSING = "missing"
    UNREADABLE = "unreadable"
    OUTDATED = "outdated"


@dataclass(frozen=True)
class Bench:
    """The benchmark of a target. `record` is None if it is missing or unreadable."""

    state: BenchState
    record: BenchRecord | None = None

    @property
    def current(self) -> BenchRecord | None:
        """The record, if it is of the published artifact."""
        return self.record if self.state == BenchState.MEASURED else None


@dataclass(frozen=True)
class ColdStart:
    """The start of a process by one way: medians of its samples, in seconds.

    `shortest` and `longest` are of the first inference. `error` says why there are no samples, or
    no more of them; without samples all figures are 0.
    """

    way: Way
    cache: Cache | None
    samples: int
    import_seconds: float = 0.0
    load_seconds: float = 0.0
    first_seconds: float = 0.0
    shortest: float = 0.0
    longest: float = 0.0
    peak_memory: float = 0.0
    error: str | None = None

    @property
    def name(self) -> str:
        return str(self.way) if self.cache is None else f"{self.way}, {self.cache} cache"


@dataclass(frozen=True)
class Bin:
    """How many calls took more than `low` and up to `high` seconds."""

    low: float
    high: float
    count: float


@dataclass(frozen=True)
class Latency:
    """Calls of one way after the warm-up, at one combination of sizes: medians of the processes.

    `calls` counts those of all processes, and `bins` has their distribution.
    """

    way: Way
    sizes: Mapping[str, int]
    p50: float
    p95: float
    p99: float
    samples_per_second: float
    calls: int
    processes: int
    bins: tuple[Bin, ...]

    @property
    def size_text(self) -> str:
        """``batch=2, length=16``; empty if the shapes are static."""
        return ", ".join(f"{name}={size}" for name, size in sorted(self.sizes.items()))


def bench_of(manifest: Manifest, directory: Path) -> Bench:
    """The benchmark beside the artifact in `directory`."""
    path = directory / BENCH
    if not os.path.lexists(path):
        return Bench(BenchState.MISSING)
    record = read_bench(path)
    if record is None:
        return Bench(BenchState.UNREADABLE)
    package = manifest.files[MODEL].sha256
    if (record.key, record.package_sha256) != (manifest.key, package):
        return Bench(BenchState.OUTDATED, record)
    return Bench(BenchState.MEASURED, record)


def cold_starts(record: BenchRecord) -> list[ColdStart]:
    """The start of each row, in the order of the record."""
    return [_cold_start(row) for row in record.rows]


def _cold_start(row: Row) -> ColdStart:
    samples = row.samples
    if not samples:
        return ColdStart(row.way, row.cache, 0, error=row.error or "it has no sample")
    first = [sample.first_seconds for sample in samples]
    return ColdStart(
        row.way,
        row.cache,
        len(samples),
        import_seconds=median(sample.import_seconds for sample in samples),
        load_seconds=median(sample.load_seconds for sample in samples),
        first_seconds=median(first),
        shortest=min(first),
        longest=max(first),
        peak_memory=median(sample.peak_memory for sample in samples),
        error=row.error,
    )


def first_inference(record: BenchRecord) -> ColdStart | None:
    """That of the artifact: with used caches, as a service has it after its first start."""
    own = [start for start in cold_starts(record) if start.way == Way.ARTIFACT and start.samples]
    for start in own:
        if start.cache == Cache.USED:
            return start
    return own[0] if own else None


def latencies(record: BenchRecord) -> list[Latency]:
    """Those of each way and each combination of sizes; ways in the order of the record.

    A way with several states of caches has those of the used ones. The caches make no difference
    to later calls.
    """
    rows: dict[Way, Row] = {}
    for row in record.rows:
        if not any(sample.steady for sample in row.samples):
            continue
        if row.way not in rows or row.cache == Cache.USED:
            rows[row.way] = row
    result = []
    for row in rows.values():
        for parts in _by_sizes(row.samples):
            result.append(_latency(row.way, parts))
    return result


def steady_latency(record: BenchRecord) -> Latency | None:
    """That of the artifact, at the first combination of sizes."""
    for latency in latencies(record):
        if latency.way == Way.ARTIFACT:
            return latency
    return None


def _by_sizes(samples: Sequence[Sample]) -> list[list[Steady]]:
    """The measurements of all processes, grouped by their sizes."""
    groups: dict[tuple[tuple[str, int], ...], list[Steady]] = {}
    for sample in samples:
        for steady in sample.steady:
            groups.setdefault(tuple(sorted(steady.sizes.items())), []).append(steady)
    return list(groups.values())


def _latency(way: Way, parts: Sequence[Steady]) -> Latency:
    bins: list[Bin] = []
    for steady in parts:
        bins += _bins(steady)
    return Latency(
        way,
        parts[0].sizes,
        p50=median(steady.p50 for steady in parts),
        p95=median(steady.p95 for steady in parts),
        p99=median(steady.p99 for steady in parts),
        samples_per_second=median(steady.samples_per_second for steady in parts),
        calls=sum(steady.calls for steady in parts),
        processes=len(parts),
        bins=tuple(bins),
    )


def _bins(steady: Steady) -> list[Bin]:
    """The bars of a histogram. The first one has no lower edge, so it is as wide as the second."""
    edges = steady.histogram_edges
    bins = []
    for index, (count, high) in enumerate(zip(steady.histogram, edges, strict=False)):
        if index:
            low = edges[index - 1]
        elif len(edges) > 1:
            low = max(0.0, 2 * edges[0] - edges[1])
        else:
            low = high
        bins.append(Bin(low, high, count))
    return bins


def bench_summary(bench: Bench) -> JsonObject:
    """The benchmark in the JSON of a report."""
    record = bench.record
    if record is None:
        return {**dict.fromkeys(_SUMMARY_FIELDS), "state": bench.state, "comparisons": []}
    first = first_inference(record)
    steady = steady_latency(record)
    return {
        "state": bench.state,
        "measured": record.measured,
        "machine_class": record.machine.machine_class,
        "first_seconds": first.first_seconds if first else None,
        "steady_seconds": steady.p50 if steady else None,
        "base": record.base.name if record.base else None,
        "comparisons": [_comparison_json(entry) for entry in _all_comparisons(record)],
    }


def _all_comparisons(record: BenchRecord) -> list[ComparisonRecord]:
    """Those with the base, then those with other ways."""
    with_base = record.base.comparisons if record.base else ()
    return [*with_base, *record.comparisons]


def _comparison_json(comparison: ComparisonRecord) -> JsonObject:
    return {
        "metric": comparison.metric,
        "base": comparison.base,
        "sizes": dict(comparison.sizes),
        "ratio": comparison.ratio,
        "low": comparison.low,
        "high": comparison.high,
        "verdict": comparison.verdict,
    }
