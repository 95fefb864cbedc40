"""The history keeps every benchmark, whatever happened to other lines of its files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from history_records import entry, record
from hypothesis import given, settings
from hypothesis import strategies as st

from aoti_build.errors import UsageError
from aoti_build.measurement.history import append, by_machine, points_by_series, read
from aoti_build.measurement.history_entry import HistoryEntry, entry_of
from aoti_build.measurement.record import BenchRecord, Cache, Metric, Way

NAMES = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,10}[A-Za-z0-9_-])?", fullmatch=True)
TIMES = st.datetimes().map(lambda time: time.isoformat() + "Z")


def test_an_appended_benchmark_is_read_back(tmp_path: Path) -> None:
    path = append(tmp_path, record())
    assert path == tmp_path / "net" / "cpu" / "x86_64-avx2-2cpu.jsonl"
    history = read(tmp_path)
    assert history.broken == ()
    (found,) = history.entries
    assert found == entry_of(record())
    assert (found.target, found.commit, found.size) == ("net/cpu", "abc+", 1234)
    assert found.facts == {"torch": "2.14.1", "threads": "1"}
    names = [series.name for series in found.series]
    assert names == [
        "package, size",
        "artifact, used cache, import",
        "artifact, used cache, load",
        "artifact, used cache, first",
        "artifact, used cache, memory",
        "artifact, used cache, steady, batch=2",
    ]


def test_a_series_has_the_median_of_its_processes() -> None:
    series = entry_of(record(p50=[0.003, 0.001, 0.002])).series
    (steady,) = [one for one in series if one.metric == Metric.STEADY]
    assert (steady.median, steady.samples) == (0.002, 3)
    assert (steady.way, steady.cache, steady.sizes) == (Way.ARTIFACT, Cache.USED, {"batch": 2})


def test_a_row_without_samples_has_no_series() -> None:
    series = entry_of(record()).series
    assert all(one.way != Way.OPENVINO for one in series)


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.tuples(NAMES, NAMES, NAMES, TIMES, st.floats(1e-9, 1e9)), max_size=8),
)
def test_everything_comes_back_in_the_order_of_its_times(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, str, str, float]]
) -> None:
    directory = tmp_path_factory.mktemp("history")
    wanted = []
    for model, variant, machine, measured, seconds in rows:
        made = record(
            target=f"{model}/{variant}", machine_class=machine, measured=measured, p50=[seconds]
        )
        append(directory, made)
        wanted.append(entry_of(made))
    history = read(directory)
    assert history.broken == ()
    # A line that is repeated is one entry.
    assert sorted(map(repr, history.entries)) == sorted(set(map(repr, wanted)))
    for entries in by_machine(history.entries).values():
        times = [one.time for one in entries]
        assert times == sorted(times)


def test_only_the_target_that_is_asked_for_is_read(tmp_path: Path) -> None:
    append(tmp_path, record())
    append(tmp_path, record(target="other/cpu"))
    (found,) = read(tmp_path, "other/cpu").entries
    assert found.target == "other/cpu"
    assert read(tmp_path, "absent/cpu").entries == ()
    assert read(tmp_path / "absent").entries == ()


@dataclass(frozen=True)
class Broken:
    text: str
    why: str


def line_with(**changes: object) -> str:
    document = json.loads(line_of(record()))
    return json.dumps({**document, **changes})


def line_of(made: BenchRecord) -> str:
    import msgspec

    return msgspec.json.encode(entry_of(made)).decode()


@pytest.mark.parametrize(
    "broken",
    [
        Broken("{", "no entry"),
        Broken("[]", "no entry"),
        Broken("\xff", "no entry"),
        Broken("[" * 5000, "no entry"),
        Broken(line_of(record())[:-40], "no entry"),
        Broken(line_with(format_version=2), "version 2 of the format"),
        Broken(line_with(format="other"), "the format is 'other'"),
        Broken(line_with(target="other/cpu"), "of other/cpu on"),
        Broken(line_with(target="../../etc"), "of ../../etc on"),
        Broken(line_with(measured="yesterday"), "yesterday"),
        Broken(line_with(series=[{"metric": "size", "median": 0, "samples": 1}]), "no entry"),
        Broken(line_with(series=[{"metric": "size", "median": -1, "samples": 1}]), "no entry"),
        Broken(line_with(surprise=1), "surprise"),
        Broken("<<<<<<< HEAD", "merge conflict"),
        Broken("=======", "merge conflict"),
    ],
    ids=lambda broken: broken.text[:20].replace("/", ""),
)
def test_a_broken_line_is_reported_with_its_place_and_costs_no_other(
    tmp_path: Path, broken: Broken
) -> None:
    path = append(tmp_path, record(measured="2026-01-01T00:00:00Z"))
    with path.open("ab") as file:
        file.write(broken.text.encode("latin-1") + b"\n")
    append(tmp_path, record(measured="2026-01-02T00:00:00Z"))
    history = read(tmp_path)
    assert [one.measured[:10] for one in history.entries] == ["2026-01-01", "2026-01-02"]
    (problem,) = history.broken
    assert str(problem).startswith(f"{path}:2: ")
    assert broken.why in problem.why


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=200))
def test_no_bytes_stop_the_reader(tmp_path_factory: pytest.TempPathFactory, junk: bytes) -> None:
    directory = tmp_path_factory.mktemp("history")
    path = append(directory, record())
    path.write_bytes(junk + b"\n" + path.read_bytes())
    assert len(read(directory).entries) == 1


def test_a_line_after_one_without_an_end_is_whole(tmp_path: Path) -> None:
    path = append(tmp_path, record(measured="2026-01-01T00:00:00Z"))
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    append(tmp_path, record(measured="2026-01-02T00:00:00Z"))
    assert len(read(tmp_path).entries) == 2


def test_entries_of_merged_branches_are_sorted_and_not_doubled(tmp_path: Path) -> None:
    """As git's driver `union` puts them: in any order, and a line of both branches maybe twice."""
    path = append(tmp_path, record(measured="2026-01-03T00:00:00Z"))
    append(tmp_path, record(measured="2026-01-01T00:00:00+00:00"))
    append(tmp_path, record(measured="2026-01-02T01:00:00+02:00"))
    path.write_bytes(path.read_bytes() * 2)
    days = [one.measured[:10] for one in read(tmp_path).entries]
    assert days == ["2026-01-01", "2026-01-02", "2026-01-03"]


WRITER = """
import sys
from pathlib import Path
from history_records import record
from aoti_build.measurement.history import append
for number in range(int(sys.argv[3])):
    append(Path(sys.argv[1]), record(commit=f"{sys.argv[2]}-{number}", padding=20_000))
"""


def test_processes_that_append_at_once_lose_nothing(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), str(name), "25"], env=environment
        )
        for name in range(4)
    ]
    assert [writer.wait(60) for writer in writers] == [0] * 4
    history = read(tmp_path)
    assert history.broken == ()
    found = {one.commit for one in history.entries}
    assert found == {f"{name}-{number}" for name in range(4) for number in range(25)}


@pytest.mark.parametrize(
    ("target", "machine_class"),
    [
        ("../net/cpu", "m"),
        ("net/..", "m"),
        ("net", "m"),
        ("net/a/b", "m"),
        ("/net/cpu", "m"),
        ("net/cpu", "../m"),
        ("net/cpu", "a/b"),
        ("net/cpu", ""),
        (".git/cpu", "m"),
        ("net/c\0pu", "m"),
    ],
)
def test_no_name_leads_out_of_the_directory(
    tmp_path: Path, target: str, machine_class: str
) -> None:
    directory = tmp_path / "history"
    with pytest.raises(UsageError, match="cannot be the name of a file"):
        append(directory, record(target=target, machine_class=machine_class))
    assert list(tmp_path.iterdir()) == []


def test_no_link_leads_out_of_the_directory(tmp_path: Path) -> None:
    path = append(tmp_path / "history", record())
    path.unlink()
    outside = tmp_path / "outside"
    outside.write_text("precious")
    path.symlink_to(outside)
    with pytest.raises(UsageError, match="cannot be written"):
        append(tmp_path / "history", record())
    assert outside.read_text() == "precious"


def test_what_is_no_file_is_reported(tmp_path: Path) -> None:
    path = append(tmp_path, record())
    os.mkfifo(path.with_name("pipe.jsonl"))
    history = read(tmp_path)
    assert len(history.entries) == 1
    (problem,) = history.broken
    assert "a pipe, not a regular file" in str(problem)
    with pytest.raises(UsageError, match="no directory"):
        read(path)


def test_a_full_disk_leaves_no_part_of_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = append(tmp_path, record(measured="2026-01-01T00:00:00Z"))
    before = path.read_bytes()
    real = os.write

    def half(descriptor: int, data: memoryview) -> int:
        if len(data) < 100:
            raise OSError(28, "No space left on device")
        return real(descriptor, data[: len(data) // 2])

    monkeypatch.setattr("aoti_build.measurement.history.os.write", half)
    with pytest.raises(UsageError, match="cannot be written"):
        append(tmp_path, record(measured="2026-01-02T00:00:00Z"))
    assert path.read_bytes() == before


def test_a_series_that_an_entry_lacks_has_no_point_there() -> None:
    points = points_by_series([entry(seconds=1.0), entry(seconds=None), entry(seconds=2.0)])
    found: dict[str, list[HistoryEntry]] = {}
    for name, pairs in points.items():
        found[name] = [one for one, _ in pairs]
    assert len(found["package, size"]) == 3
    assert len(found["artifact, used cache, steady"]) == 2
