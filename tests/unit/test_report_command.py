"""`invoke report` from the command line, its files, and its Markdown."""

from __future__ import annotations

import dataclasses
import gzip
import json
import shutil
from pathlib import Path

import pytest
from msgspec.structs import replace
from report_samples import TIMES, full_project, publish_bench, row, write_trace
from small_projects import contents, edit, inv, publish_fake, write_project
from test_no_torch import run

from aoti_build.artifact.paths import artifact_directory, trace_path
from aoti_build.commands.report.bench import Bin, latencies, steady_latency
from aoti_build.commands.report.command import report
from aoti_build.measurement.history import append
from aoti_build.models_file import Project
from aoti_build.report.charts import Bar, Interval, bar_chart, interval_chart
from aoti_build.report.markdown import markdown_text
from aoti_build.report.spelling import axis_text, change_text, ratio_text, time_text
from aoti_build.report.strip_chart import Strip, strip_chart
from aoti_build.work.trace_file import read_trace

MARKDOWN = """\
## vision-models: artifacts

| target | state | verification | size | sha256 | first inference | steady p50 | against base |
| --- | --- | --- | ---: | --- | ---: | ---: | --- |
| `resnet18/cpu` | up-to-date | passed | 29 B | `b2c928af13f0` | 74.0 ms | 37.1 ms | 1 of 4 worse |
| `resnet18/cuda` | unavailable | no artifact |  |  |  |  |  |
| `encoder/cpu` | up-to-date | passed | 28 B | `cb71601008a1` | not measured | not measured |  |

- `resnet18/cuda`: There is no readable artifact: `invoke build --target resnet18/cuda` builds it.
- `encoder/cpu`: It was not measured: `invoke bench --target encoder/cpu` measures it.

### `resnet18/cpu` against release/1.4

| figure | verdict | change | ratio | interval | limit | pairs | why |
| --- | --- | ---: | ---: | ---: | ---: | ---: | --- |
| first inference | same | +0.4 % | 1.004 | 0.981 to 1.027 | 1.200 | 8 |  |
| steady latency | **worse** | +8.3 % | 1.083 | 1.061 to 1.106 | 1.050 | 8 |  |
| peak memory | **better** | −6.0 % | 0.940 | 0.931 to 0.949 |  | 8 |  |
| import | unknown | +2.0 % | 1.020 | 0.960 to 1.090 |  | 16 | this host is too noisy |

### Cold start of `resnet18/cpu`

Measured 2026-12-01 12:14:03 UTC on x86\\_64-avx512-2cpu.

| way | import | load | load and first inference | processes | error |
| --- | ---: | ---: | ---: | ---: | --- |
| artifact, used cache | 3.53 s | 44.4 ms | 74.0 ms | 4 |  |
| artifact, empty cache | 3.48 s | 253 ms | 422 ms | 4 |  |
| aoti\\_load\\_package, used cache | 3.45 s | 639 ms | 1.07 s | 4 |  |
| aoti\\_load\\_package, empty cache | 3.43 s | 5.63 s | 9.39 s | 4 |  |
| eager | 3.51 s | 151 ms | 251 ms | 4 |  |
| torch.compile, used cache | 3.52 s | 1.49 s | 2.48 s | 4 |  |
| torch.compile, empty cache | 3.52 s | 14.3 s | 23.8 s | 4 |  |
| onnxruntime |  |  |  | 0 | the operator aten::grid\\_sampler is not supported |
"""  # noqa: RUF001 - the sign of a number


@pytest.fixture
def full(tmp_path: Path) -> Project:
    return full_project(tmp_path)


def test_the_markdown_is_the_same_each_time(full: Project) -> None:
    text = markdown_text(report(full, full.targets))
    body, _, foot = text.rpartition("\n\n")
    assert body + "\n" == MARKDOWN
    assert foot.startswith("aoti\\_build ")
    assert markdown_text(report(full, full.targets)) == text


def test_the_page_is_written_into_a_new_directory(full: Project) -> None:
    answer = inv("report", "--out", "public/site/report.html", cwd=full.root)
    assert answer.returncode == 0, answer.stderr
    assert "written: public/site/report.html" in answer.stdout
    assert "encoder/cpu: It was not measured: `invoke bench" in answer.stdout
    page = (full.root / "public" / "site" / "report.html").read_text()
    assert page.lstrip().startswith("<!DOCTYPE html>")
    assert len(list((full.root / "public" / "site").iterdir())) == 1


def test_without_options_the_page_has_its_usual_name(project: Project) -> None:
    assert inv("report", cwd=project.root).returncode == 0
    assert "There is no readable artifact" in (project.root / "report.html").read_text()


def test_markdown_on_stdout_stands_alone(full: Project) -> None:
    answer = inv("report", "--markdown", "-", cwd=full.root)
    assert answer.stdout.startswith(MARKDOWN)
    assert not (full.root / "report.html").exists()
    both = inv("report", "--out", "r.html", "--markdown", "notes/r.md", cwd=full.root)
    assert "written: notes/r.md" in both.stdout
    assert (full.root / "notes" / "r.md").read_text() == answer.stdout
    assert (full.root / "r.html").exists()


def test_json_names_what_was_written_and_measured(full: Project) -> None:
    document = json.loads(inv("report", "--json", "--out", "r.html", cwd=full.root).stdout)
    assert document["written"] == ["r.html"]
    measured, missing, unmeasured = document["targets"]
    assert measured["bench"]["state"] == "measured"
    assert measured["bench"]["first_seconds"] == pytest.approx(0.074, abs=0.001)
    verdicts = [entry["verdict"] for entry in measured["bench"]["comparisons"]]
    assert verdicts == ["same", "worse", "better", "unknown", "better", "better"]
    assert missing["bench"] is None
    assert unmeasured["bench"]["state"] == "missing"
    assert not (full.root / "report.md").exists()


def test_one_target_alone(full: Project) -> None:
    answer = inv("report", "--target", "encoder", "--markdown", "-", cwd=full.root)
    assert "encoder/cpu" in answer.stdout
    assert "resnet18" not in answer.stdout


@pytest.mark.parametrize(
    "words",
    [
        ["--json", "--markdown", "-"],
        ["--out", "artifacts"],
        ["--out", "models.yaml/report.html"],
        ["--history", "absent"],
        ["--target", "absent"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_refused(full: Project, words: list[str]) -> None:
    before = contents(full.root)
    answer = inv("report", *words, cwd=full.root)
    assert answer.returncode == 2, answer.stdout
    assert "error:" in answer.stderr
    assert "Traceback" not in answer.stderr
    # The stat cache is working state.
    after = {name: data for name, data in contents(full.root).items() if name in before}
    assert after == before
    assert not list(full.root.glob("*.html"))


def test_a_page_is_replaced_in_one_step_and_an_unwritable_one_is_an_error(full: Project) -> None:
    page = full.root / "report.html"
    page.write_text("old")
    shutil.rmtree(full.artifacts)
    assert inv("report", cwd=full.root).returncode == 0
    assert page.read_text() != "old"
    assert not list(full.root.glob(".report.html*"))


def test_it_imports_no_torch_and_starts_no_worker(full: Project) -> None:
    answer = run(full.root, ["report"])
    assert answer == {"code": 0, "heavy": ["msgspec"], "workers": 0, "own": True}


def test_a_damaged_artifact_has_no_figures(full: Project) -> None:
    (artifact_directory(full, full.targets[0]) / "manifest.json").write_text("{}")
    made = report(full, full.targets)
    assert made.targets[0].bench is None
    assert "| `resnet18/cpu` | build | no artifact |" in markdown_text(made)


def test_another_release_may_have_recorded_other_figures(project: Project) -> None:
    publish_fake(project)

    def change(document: dict[str, object]) -> None:
        check = document["check"]
        assert isinstance(check, dict)
        check["cases"][0]["outputs"][0]["new"] = 1

    edit(project, change)
    made = report(project, project.targets)
    assert made.targets[0].verification is not None
    assert made.targets[0].verification.verdict == "passed"


def test_a_trace_is_read_back(full: Project) -> None:
    intervals = read_trace(trace_path(full))
    names = {interval.name for interval in intervals if interval.kind == "target"}
    assert names == {"resnet18/cpu", "encoder/cpu"}
    assert sum(step.seconds for step in intervals if step.name == "compile") == pytest.approx(39.8)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"x",
        gzip.compress(b"["),
        gzip.compress(b"[]"),
        gzip.compress(b'{"traceEvents": [1]}'),
        gzip.compress(b'{"traceEvents": [{"ph": "X", "cat": "phase"}]}'),
        gzip.compress(b'{"traceEvents": []}')[:-4],
        gzip.compress(b"\0" * (65 << 20)),
    ],
    ids=["empty", "no gzip", "cut", "list", "number", "no name", "cut gzip", "too large"],
)
def test_what_is_no_trace_is_refused(project: Project, content: bytes) -> None:
    write_trace(project)
    trace_path(project).write_bytes(content)
    with pytest.raises((OSError, ValueError)):
        read_trace(trace_path(project))
    publish_fake(project)
    made = report(project, project.targets)
    assert made.trace is None
    assert made.trace_problem


def test_a_trace_without_a_target_has_no_critical_path(project: Project) -> None:
    write_trace(project)
    content = gzip.compress(b'{"traceEvents": []}')
    trace_path(project).write_bytes(content)
    assert report(project, project.targets).trace_problem == "it has no intervals"


def test_the_latency_is_of_used_caches_and_of_the_first_sizes(full: Project) -> None:
    record = report(full, full.targets).targets[0].record
    assert record is not None
    rows = latencies(record)
    assert [row.size_text for row in rows[:2]] == ["batch=2", "batch=8"]
    assert len(rows) == 2 * 4
    steady = steady_latency(record)
    assert steady is not None
    assert steady.calls == 1600
    assert steady.processes == 4


def test_a_benchmark_of_nothing_but_errors_is_shown(project: Project) -> None:
    manifest = publish_fake(project)
    publish_bench(project, project.targets[0], manifest, rows=(), base=None, comparisons=())
    text = markdown_text(report(project, project.targets))
    assert "| `small/cpu` | up-to-date | passed |" in text
    assert "not measured" in text


def test_bars_on_a_logarithmic_scale_show_ratios() -> None:
    values = [0.01, 0.1, 1.0, 10.0]
    bars = [Bar(str(value), value, "") for value in values]
    chart = bar_chart("c", "", bars, str, log=True)
    widths = [row.width for row in chart.rows]
    assert widths[1:] == pytest.approx([100 / 3, 200 / 3, 100], abs=0.1)
    assert [tick.at for tick in chart.ticks] == pytest.approx([0, 33.33, 66.67, 100])


def test_an_interval_outside_the_band_is_drawn_outside_it() -> None:
    intervals = [Interval("a", "", 1.08, 1.06, 1.1, 0.03, "bad")]
    (row,) = interval_chart("c", "", intervals, str).rows
    assert row.band_low + row.band_width < row.low < row.ratio < row.high
    alone = interval_chart("c", "", [Interval("a", "", 0.9, None, None, 0.03, "good")], str).rows
    assert alone[0].low == alone[0].ratio == alone[0].high


def test_a_distribution_keeps_its_shape() -> None:
    bins = [Bin(1.0, 1.1, 10), Bin(1.1, 1.2, 40), Bin(1.2, 1.3, 10)]
    (row,) = strip_chart("c", "", [Strip("a", "", bins, (1.15, 1.25, 1.3))], str).rows
    tallest = max(row.bars, key=lambda bar: bar.height)
    assert row.marks[0] == pytest.approx(tallest.x, abs=20)
    # The first one covers only a part of its column.
    assert row.bars[2].height == pytest.approx(tallest.height / 4, abs=0.2)
    assert row.marks == sorted(row.marks)


def test_a_label_that_is_too_long_for_a_phone_has_a_line_of_its_own() -> None:
    short, long = bar_chart("c", "", [Bar("a", 1, "1 s"), Bar("b" * 60, 1, "1 s")], str).rows
    assert short.text.label_y == short.text.figure_y
    assert long.text.figure_y > long.text.label_y
    assert len(long.text.label) == 46


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 s"),
        (3.217e-5, "32.2 µs"),
        (0.0713, "71.3 ms"),
        (0.4, "400 ms"),
        (9.3, "9.30 s"),
        (119.96, "120 s"),
        (300.0, "5.00 min"),
    ],
)
def test_times_have_three_digits(seconds: float, text: str) -> None:
    assert time_text(seconds) == text


def test_ratios_have_as_many_digits_as_they_are_worth() -> None:
    assert [ratio_text(value) for value in (0.00312, 0.699, 1.0831, 12.34, 1000.0)] == [
        "0.0031",
        "0.699",
        "1.083",
        "12.3",
        "1000",
    ]
    assert change_text(1.083) == "+8.3 %"
    assert change_text(0.0031) == "323x less"
    assert change_text(3.14159) == "3.14x more"
    assert [axis_text(text) for text in ("10.0 ms", "100 s", "5")] == ["10 ms", "100 s", "5"]


def test_the_report_lies_where_a_task_in_a_collection_names_it(tmp_path: Path) -> None:
    (tmp_path / "tasks.py").write_text(
        "from invoke import Collection\n"
        "import aoti_build.tasks\n"
        "ns = Collection()\n"
        'ns.add_collection(aoti_build.tasks.ns, name="aoti")\n'
    )
    project = write_project(tmp_path)
    answer = inv("aoti.report", "--markdown", "-", cwd=project.root)
    assert "`invoke aoti.build --target small/cpu` builds it" in answer.stdout


def test_the_history_of_the_artifact_is_shown_with_its_steps(full: Project) -> None:
    record = report(full, full.targets).targets[0].record
    assert record is not None
    slower = tuple(row(way, cache, first, call * 1.2) for way, cache, first, call in TIMES)
    faster = tuple(row(*times) for times in TIMES)
    for day in range(1, 13):
        rows = faster if day <= 6 else slower
        measured = f"2026-11-{day:02}T12:00:00+00:00"
        append(full.root / "history", replace(record, rows=rows, measured=measured))
    answer = inv("report", "--history", "history", "--out", "r.html", cwd=full.root)
    assert answer.returncode == 0, answer.stderr
    page = (full.root / "r.html").read_text()
    assert "artifact, used cache, steady on x86_64-avx512-2cpu" in page
    assert "2026-11-07 12:00:00 UTC (0123456789ab): +20.0 %" in page
    assert "eager, steady on" not in page
    assert "torch.compile, used cache, first on" not in page


def test_a_broken_line_of_the_history_is_named(full: Project) -> None:
    file = full.root / "history" / "resnet18" / "cpu" / "any.jsonl"
    file.parent.mkdir(parents=True)
    file.write_text("{\n")
    answer = inv("report", "--history", "history", "--markdown", "r.md", cwd=full.root)
    assert answer.returncode == 0, answer.stderr
    assert "note: history: resnet18/cpu/any.jsonl:1: no entry" in answer.stdout


def test_a_revision_keeps_its_characters_in_markdown(full: Project) -> None:
    found = report(full, full.targets)
    (measured,) = (target for target in found.targets if target.record is not None)
    assert measured.bench is not None
    assert measured.record is not None
    assert measured.record.base is not None
    base = replace(measured.record.base, name="main@{1} <b> https://a.b")
    bench = dataclasses.replace(measured.bench, record=replace(measured.record, base=base))
    changed = dataclasses.replace(measured, bench=bench)
    text = markdown_text(dataclasses.replace(found, targets=(changed,)))
    # As GitHub renders it: main@{1} <b> https://a.b, without a mention, a tag and a link.
    assert r" against main&#64;\{1\} &lt;b&gt; https&#58;//a.b" in text


def test_a_machine_is_named_once_with_the_widest_band_of_its_benchmarks(full: Project) -> None:
    found = report(full, full.targets)
    measured = next(target for target in found.targets if target.record is not None)
    assert measured.bench is not None
    assert measured.record is not None
    changed = []
    for band in (0.01, 0.04, None):
        machine = replace(measured.record.machine, band=band)
        record = replace(measured.record, machine=machine)
        changed.append(
            dataclasses.replace(measured, bench=dataclasses.replace(measured.bench, record=record))
        )
    (machine,) = dataclasses.replace(found, targets=tuple(changed)).machines
    assert machine.band == 0.04
