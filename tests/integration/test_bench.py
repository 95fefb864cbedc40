"""`bench` of real packages in real processes: every way, and the gate with a really slower one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import run_inv
from projects import write_single

from aoti_build.measurement.record import BenchRecord, Row, read_bench

SOURCE = """\
from torch import nn

LAYERS = 8


def build():
    layers = [layer for _ in range(LAYERS) for layer in (nn.Linear(384, 384), nn.ReLU())]
    return nn.Sequential(*layers)
"""
MODEL = """\
stack:
  source: net.py:build
  inputs: [{shape: [8, 384]}]
"""


@pytest.fixture
def one_processor() -> Iterator[None]:
    """Threads that wait for each other on a busy host make the times of a small model useless."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    yield
    os.sched_setaffinity(0, before)


@pytest.fixture
def stack(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    write_single(root, SOURCE, MODEL)
    finished = run_inv(root, "build", "--quiet")
    assert finished.code == 0, finished.err
    return root


def record_in(root: Path) -> BenchRecord:
    record = read_bench(root / "artifacts" / "stack" / "cpu" / "bench.json")
    assert record is not None
    return record


def row(record: BenchRecord, way: str, cache: str | None = None) -> Row:
    return next(entry for entry in record.rows if (entry.way, entry.cache) == (way, cache))


@pytest.mark.slow  # up to 64 processes
@pytest.mark.usefixtures("one_processor")
def test_a_slower_package_is_found_and_the_same_one_is_not(stack: Path) -> None:
    exported = run_inv(stack, "export", "../v1")
    assert exported.code == 0, exported.err
    words = ("bench", "--json", "--seconds", "0.2", "--against", "../v1")
    same = run_inv(stack, *words, "--ways", "eager", "--samples", "1")
    verdicts = {entry["verdict"] for entry in gated(same.json)}
    assert "worse" not in verdicts, same.err
    assert same.code == 0
    check_rows(record_in(stack))

    source = stack / "net.py"
    source.write_text(source.read_text().replace("LAYERS = 8", "LAYERS = 16"))
    outdated = run_inv(stack, *words)
    assert (outdated.code, "out of date" in outdated.err) == (3, True)
    built = run_inv(stack, "build", "--quiet")
    assert built.code == 0, built.err
    slower = run_inv(stack, *words, "--fail-if", "steady>1.2")
    assert slower.code == 3, slower.err
    steady = [entry for entry in gated(slower.json) if entry["metric"] == "steady"]
    assert [entry["verdict"] for entry in steady] == ["worse"]
    assert "steady is worse" in slower.err
    assert "and the limit is 1.2" in slower.err


def gated(document: dict[str, Any]) -> list[dict[str, Any]]:
    (target,) = document["targets"]
    comparisons: list[dict[str, Any]] = target["bench"]["base"]["comparisons"]
    return comparisons


def check_rows(record: BenchRecord) -> None:
    """Every sample has what its way can have."""
    assert record.base is not None
    assert len(record.base.samples) >= 8
    assert record.machine.threads == len(record.machine.cpus) == 1
    for entry in record.rows:
        assert entry.error is None
        for sample in entry.samples:
            assert sample.import_seconds > 0.1, "torch was imported"
            assert 0 < sample.load_seconds < sample.first_seconds < 60
            assert 1 << 26 < sample.peak_memory < 1 << 35
    eager = row(record, "eager").samples[0]
    assert [dict(steady.sizes) for steady in eager.steady] == [{}]


@pytest.mark.slow  # torch.compile and aoti_load_package take a minute with empty caches
@pytest.mark.usefixtures("one_processor")
def test_every_way_of_a_cpu_is_measured(stack: Path) -> None:
    finished = run_inv(stack, "bench", "--samples", "1", "--seconds", "0.1", "--peers", limit=900)
    assert finished.code == 0, finished.err
    record = record_in(stack)
    assert {entry.way for entry in record.rows} >= {
        "artifact",
        "aoti_load_package",
        "eager",
        "torch.compile",
    }
    for entry in record.rows:
        assert entry.error is None, (entry.way, entry.error)
        assert len(entry.samples) == 1
    for way in ("aoti_load_package", "torch.compile"):
        cold = row(record, way, "empty").samples[0].first_seconds
        assert cold > row(record, way, "used").samples[0].first_seconds, "its cache is used"
        assert cold > row(record, "artifact", "empty").samples[0].first_seconds
