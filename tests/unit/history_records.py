"""Benchmarks and entries of a history, for tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta, timezone

from aoti_build.measurement.history_entry import HistoryEntry, entry_of
from aoti_build.measurement.record import BenchRecord, Cache, Machine, Row, Sample, Steady, Way

FIRST_DAY = datetime(2026, 1, 1, tzinfo=timezone.utc)


def record(
    target: str = "net/cpu",
    machine_class: str = "x86_64-avx2-2cpu",
    measured: str = "2026-01-02T03:05:06Z",
    p50: Sequence[float] = (0.001,),
    commit: str | None = "abc+",
    size: int = 1234,
    sizes: Mapping[str, int] | None = None,
    facts: Mapping[str, str] | None = None,
    padding: int = 0,
) -> BenchRecord:
    """A benchmark with a row of samples and a row that failed. `padding` makes its line longer."""
    sizes = {"batch": 2} if sizes is None else sizes
    samples = [_sample(seconds, sizes) for seconds in p50]
    rows = (
        Row(way=Way.ARTIFACT, cache=Cache.USED, samples=tuple(samples)),
        Row(way=Way.OPENVINO, cache=None, error="it is not installed"),
    )
    facts = dict(facts or {"torch": "2.14.1"})
    if padding:
        facts["padding"] = "x" * padding
    return BenchRecord(
        target=target,
        key="0" * 64,
        package_sha256="1" * 64,
        size=size,
        measured=measured,
        machine=Machine(machine_class=machine_class, facts=facts, threads=1, cpus=(0,)),
        rows=rows,
        commit=commit,
    )


def entry(
    seconds: float | None,
    *,
    day: int = 0,
    target: str = "net/cpu",
    machine_class: str = "x86_64-avx2-2cpu",
    size: int = 1234,
    facts: Mapping[str, str] | None = None,
) -> HistoryEntry:
    """An entry with the steady time `seconds`; None for an entry without samples."""
    made = record(
        target=target,
        machine_class=machine_class,
        measured=(FIRST_DAY + timedelta(days=day)).isoformat(),
        p50=[] if seconds is None else [seconds],
        commit=f"commit{day}",
        size=size,
        sizes={},
        facts=facts,
    )
    return entry_of(made)


def _sample(seconds: float, sizes: Mapping[str, int]) -> Sample:
    steady = Steady(
        sizes=sizes, p50=seconds, p95=seconds, p99=seconds, calls=9, samples_per_second=1 / seconds
    )
    return Sample(
        started="2026-01-02T03:04:05Z",
        import_seconds=1.2,
        load_seconds=0.01,
        first_seconds=0.02,
        peak_memory=500_000_000,
        steady=(steady,),
    )
