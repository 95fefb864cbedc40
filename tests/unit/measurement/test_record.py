"""bench.json is read as it was written, and nothing else is taken for one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from aoti_build.measurement.record import (
    BenchRecord,
    Cache,
    ComparisonRecord,
    Machine,
    Metric,
    Row,
    Sample,
    Steady,
    Way,
    read_bench,
    write_bench,
)

STEADY = Steady(
    sizes={"batch": 2}, p50=0.001, p95=0.0012, p99=0.002, calls=900, samples_per_second=1900.0
)
SAMPLE = Sample(
    started="2026-01-02T03:04:05Z",
    import_seconds=1.2,
    load_seconds=0.01,
    first_seconds=0.02,
    peak_memory=500_000_000,
    steady=(STEADY,),
)
RECORD = BenchRecord(
    target="net/cpu",
    key="0" * 64,
    package_sha256="1" * 64,
    size=1234,
    measured="2026-01-02T03:05:06Z",
    machine=Machine(
        machine_class="x86_64-avx2-2cpu", facts={"python": "3.12"}, threads=1, cpus=(0,)
    ),
    rows=(
        Row(way=Way.ARTIFACT, cache=Cache.USED, samples=(SAMPLE,)),
        Row(way=Way.OPENVINO, cache=None, error="it is not installed"),
    ),
    comparisons=(
        ComparisonRecord(
            metric=Metric.FIRST,
            base=Way.EAGER,
            ratio=0.5,
            low=0.4,
            high=0.6,
            pairs=8,
            band=0.03,
            verdict="better",
        ),
    ),
)


def test_round_trip(tmp_path: Path) -> None:
    write_bench(tmp_path / "bench.json", RECORD)
    assert read_bench(tmp_path / "bench.json") == RECORD


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{", '{"format": "aoti-build/bench"}', '{"format": "other", "format_version": 1}'],
)
def test_other_files_are_no_record(tmp_path: Path, content: str) -> None:
    (tmp_path / "bench.json").write_text(content)
    assert read_bench(tmp_path / "bench.json") is None


@pytest.mark.parametrize(
    "change", [{"format_version": 2}, {"unheard_of": 1}, {"size": "large"}, {"machine": None}]
)
def test_a_changed_record_is_not_read(tmp_path: Path, change: dict[str, object]) -> None:
    path = tmp_path / "bench.json"
    write_bench(path, RECORD)
    document = {**json.loads(path.read_text()), **change}
    path.write_text(json.dumps(document))
    assert read_bench(path) is None


def test_no_file_is_no_record(tmp_path: Path) -> None:
    assert read_bench(tmp_path / "bench.json") is None
