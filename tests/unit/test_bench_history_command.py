"""`bench-history`: what a user sees of the history, and the file for Apache Otava."""

from __future__ import annotations

import csv
import json
import math
import random
import re
from pathlib import Path

import pytest
from history_records import FIRST_DAY, entry, record
from small_projects import ONE_MODEL, inv, write_project

from aoti_build.commands.bench.history import bench_history
from aoti_build.errors import UsageError
from aoti_build.measurement.history import append
from aoti_build.measurement.history_csv import csv_text
from aoti_build.report.history_text import history_lines

MACHINE = "x86_64-avx2-2cpu"
SLOWER_FROM = 14


def keep(directory: Path, target: str = "net/cpu", machine_class: str = MACHINE) -> None:
    """Twenty benchmarks. The package becomes larger and 20 % slower with another torch."""
    generator = random.Random(1)  # noqa: S311 - no secret
    for day in range(20):
        is_new = day >= SLOWER_FROM
        seconds = 0.001 * math.exp(generator.gauss(0, 0.01)) * (1.2 if is_new else 1)
        append(
            directory,
            record(
                target=target,
                machine_class=machine_class,
                measured=f"2026-01-{day + 1:02}T00:00:00Z",
                p50=[seconds],
                commit=f"{day:02}" * 20 + ("+" if is_new else ""),
                size=2048 if is_new else 1024,
                facts={"torch": "2.14.1" if is_new else "2.13.0"},
            ),
        )


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    keep(tmp_path / "history")
    return tmp_path / "history"


def test_steps_are_shown_with_what_changed_on_the_machine(directory: Path) -> None:
    lines = history_lines(bench_history(directory))
    assert lines[0] == (
        f"net/cpu on {MACHINE}: 20 entries, 2026-01-01T00:00:00Z to 2026-01-20T00:00:00Z"
    )
    (size,) = [line for line in lines if line.startswith("  package, size: ")]
    assert size == (
        "  package, size: +100.0 % since 2026-01-15T00:00:00Z, commit 1414141414+"
        " (torch 2.13.0 -> 2.14.1)"
    )
    steady = [line for line in lines if line.startswith("  artifact, used cache, steady, batch=2")]
    assert len(steady) == 2
    assert re.search(r"20 +(1|0\.9\d+|1\.0\d+) ms +1\.\d+ ms +1$", steady[0])
    assert "since 2026-01-15T00:00:00Z" in steady[1]
    # Import, load, first and memory did not change.
    assert sum("since" in line for line in lines) == 2


def test_machines_are_never_compared_with_each_other(directory: Path) -> None:
    slow = record(machine_class="aarch64-8cpu", p50=[9.0])
    append(directory, slow)
    report = bench_history(directory)
    assert [history.machine_class for history in report.histories] == ["aarch64-8cpu", MACHINE]
    assert [len(history.entries) for history in report.histories] == [1, 20]


def test_only_the_chosen_targets_are_shown(directory: Path) -> None:
    keep(directory, target="other/cpu")
    assert len(bench_history(directory).histories) == 2
    (history,) = bench_history(directory, ["other/cpu"]).histories
    assert history.target == "other/cpu"


def test_a_broken_line_is_a_note_and_no_failure(directory: Path) -> None:
    path = directory / "net" / "cpu" / f"{MACHINE}.jsonl"
    path.write_text("<<<<<<< HEAD\n" + path.read_text())
    report = bench_history(directory)
    assert f"left out: {path}:1: the mark of a merge conflict" in "\n".join(history_lines(report))
    assert len(report.histories[0].entries) == 20


def test_without_a_directory_the_error_says_how_to_name_one() -> None:
    with pytest.raises(UsageError) as raised:
        bench_history(None)
    assert "--history" in str(raised.value)


def test_an_empty_history_is_no_error(tmp_path: Path) -> None:
    assert history_lines(bench_history(tmp_path / "absent")) == [
        f"0 histories in {tmp_path / 'absent'}"
    ]


# CSV


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as opened:
        return list(csv.DictReader(opened))


def test_the_csv_has_a_time_attributes_and_a_number_in_every_column(directory: Path) -> None:
    file = directory.parent / "net.csv"
    report = bench_history(directory, csv=str(file))
    assert report.csv == (file,)
    rows = rows_of(file)
    assert len(rows) == 20
    assert rows[0]["time"] == "2026-01-01T00:00:00+00:00"
    assert rows[-1]["commit"] == "19" * 20 + "+"
    assert rows[-1]["fact.torch"] == "2.14.1"
    assert float(rows[-1]["package.size.bytes"]) == 2048
    steady = [float(row["artifact.used.steady.batch=2.seconds"]) for row in rows]
    assert steady[-1] == pytest.approx(0.0012, rel=0.05)
    for row in rows:
        for name, text in row.items():
            if name.endswith((".seconds", ".bytes")):
                assert math.isfinite(float(text))


def test_gaps_are_filled_as_otava_fills_those_of_other_sources() -> None:
    entries = [entry(None, day=0), entry(1.0, day=1), entry(None, day=2), entry(2.0, day=3)]
    lines = csv_text(entries).splitlines()
    column = lines[0].split(",").index("artifact.used.steady.seconds")
    assert [line.split(",")[column] for line in lines[1:]] == ["1.0", "1.0", "1.0", "2.0"]


def test_rows_are_in_the_order_of_time_in_utc() -> None:
    entries = [entry(1.0, day=5), entry(2.0, day=1)]
    times = [line.split(",")[0] for line in csv_text(entries).splitlines()[1:]]
    assert times == ["2026-01-02T00:00:00+00:00", "2026-01-06T00:00:00+00:00"]
    assert FIRST_DAY.isoformat() == "2026-01-01T00:00:00+00:00"


def test_one_file_holds_one_target_on_one_class_of_machines(directory: Path) -> None:
    keep(directory, target="other/cpu")
    keep(directory, machine_class="aarch64-8cpu")
    single = directory.parent / "all.csv"
    with pytest.raises(UsageError, match="one CSV file cannot hold"):
        bench_history(directory, csv=str(single))
    assert not single.exists()
    pattern = directory.parent / "out" / "{target}" / "{machine}.csv"
    report = bench_history(directory, csv=str(pattern))
    assert [file.relative_to(directory.parent).as_posix() for file in report.csv] == [
        "out/net/cpu/aarch64-8cpu.csv",
        f"out/net/cpu/{MACHINE}.csv",
        f"out/other/cpu/{MACHINE}.csv",
    ]
    with pytest.raises(UsageError, match="no entry"):
        bench_history(directory.parent / "absent", csv=str(single))


# The task


def test_the_task_finds_the_history_that_models_yaml_names(tmp_path: Path) -> None:
    text = ONE_MODEL.replace("version: 1\n", "version: 1\nhistory: past\n")
    project = write_project(tmp_path / "project", text)
    keep(project.root / "past", target="small/cpu")
    keep(project.root / "past", target="gone/cpu")
    answer = inv("bench-history", "--json", cwd=project.root)
    assert answer.returncode == 0, answer.stderr
    document = json.loads(answer.stdout)
    assert document["format"] == "aoti-build/bench-history"
    # Also one that models.yaml no longer lists.
    assert [row["target"] for row in document["targets"]] == ["gone/cpu", "small/cpu"]
    answer = inv("bench-history", "--target", "small", "--csv", "x.csv", cwd=project.root)
    assert answer.returncode == 0, answer.stderr
    assert "gone/cpu" not in answer.stdout
    assert f"written: {project.root / 'x.csv'}" in answer.stdout
    assert len(rows_of(project.root / "x.csv")) == 20


def test_the_task_without_a_history_ends_with_2(tmp_path: Path) -> None:
    project = write_project(tmp_path / "project")
    answer = inv("bench-history", cwd=project.root)
    assert answer.returncode == 2
    assert "no history is kept for this project" in answer.stderr
    keep(tmp_path / "past", target="small/cpu")
    answer = inv("bench-history", "--history", "../past", cwd=project.root)
    assert answer.returncode == 0, answer.stderr
    assert "small/cpu on" in answer.stdout
