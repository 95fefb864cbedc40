"""Reports for people: every fact that decides something is on the screen."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_projects import (
    FAILED_CASE,
    PASSED_CASE,
    TWO_MODELS,
    publish_fake,
    write_project,
)

from aoti_build.artifact.reasons import Reason
from aoti_build.commands.build import BuildReport, plan
from aoti_build.commands.clean import CleanReport
from aoti_build.commands.status import StatusReport, status
from aoti_build.commands.verify.command import Verdict, VerifyReport
from aoti_build.errors import BuildError
from aoti_build.figures import CallFigures, Refusal, Vacuous, typed
from aoti_build.models_file import Project
from aoti_build.planning.index import Published
from aoti_build.report import text
from aoti_build.report.terminal import age_text, reasons_text, size_text, table
from aoti_build.report.verify_text import verify_lines
from aoti_build.work.outcome import Outcome

PASSED, FAILED = (typed(case, CallFigures) for case in (PASSED_CASE, FAILED_CASE))


@pytest.fixture
def two(tmp_path: Path) -> Project:
    """Two targets; the first is built."""
    project = write_project(tmp_path, TWO_MODELS)
    publish_fake(project, project.targets[0])
    return project


def test_a_build(two: Project) -> None:
    published = Published("a" * 64, "b" * 64, 45 << 20)
    failure = BuildError(
        "it broke", target="second/cpu", cause="because", hint="mend it", log=Path("build.log")
    )
    report = BuildReport(
        two,
        (
            Outcome(
                two.targets[0],
                "compiled",
                (Reason("source-changed", "model.py"),),
                published,
                {"total": 12.34},
            ),
            Outcome(two.targets[1], "failed", (Reason("no-artifact"),), error=failure),
        ),
    )
    lines = text.build_lines(report)
    assert line_of(lines, "first/cpu").split()[:6] == [
        "first/cpu",
        "compiled",
        "12.3",
        "s",
        "45.0",
        "MiB",
    ]
    assert "source-changed: model.py" in line_of(lines, "first/cpu")
    assert "failed" in line_of(lines, "second/cpu")
    assert {
        "error: second/cpu: it broke",
        "cause: because",
        "next:  mend it",
        "log:   build.log",
    } <= all_lines(lines)
    assert lines[-1] == "2 targets: 1 compiled, 1 failed"


def test_a_plan(two: Project) -> None:
    lines = text.plan_lines(plan(two, two.targets))
    assert line_of(lines, "first/cpu").split() == ["first/cpu", "up-to-date"]
    assert line_of(lines, "second/cpu").split() == ["second/cpu", "build", "no-artifact"]
    assert lines[-1] == "2 targets: 1 up-to-date, 1 build"


def test_a_status(two: Project) -> None:
    lines = text.status_lines(status(two))
    row = line_of(lines, "first/cpu")
    key = status(two).as_json()["targets"][0]["key"]
    assert key[:12] in row
    assert "up-to-date" in row
    assert " d " in row
    assert "no-artifact" in line_of(lines, "second/cpu")


def test_orphans_are_named_with_what_to_do(two: Project) -> None:
    report = StatusReport(two, plan(two, two.targets), ("gone/cpu",))
    assert "gone/cpu" in text.status_lines(report)[-1]
    assert "clean --orphans" in text.status_lines(report)[-1]


def test_a_verification(two: Project) -> None:
    error = BuildError("there is no artifact", target="second/cpu", hint="build it first")
    report = VerifyReport(
        (
            Verdict(
                two.targets[0],
                "passed",
                (Reason("source-changed", "model.py"),),
                (PASSED,),
                seconds=0.5,
            ),
            Verdict(two.targets[1], "missing", error=error),
        )
    )
    lines = verify_lines(report)
    assert "passed (out of date)" in line_of(lines, "first/cpu")
    assert "source-changed: model.py" in line_of(lines, "first/cpu")
    assert {"1e-07", "1e-08"} <= set(line_of(lines, "first/cpu").split())
    assert "error: second/cpu: there is no artifact" in all_lines(lines)
    assert lines[-1] == "2 artifacts: 1 passed (out of date), 1 missing"


@pytest.mark.parametrize(
    ("words", "runtime", "last"),
    [
        (["passed"], "python", "1 artifact: 1 passed"),
        (["mismatch", "passed", "mismatch"], "python", "3 artifacts: 2 mismatch, 1 passed"),
        (["passed", "passed"], "cpp", "2 artifacts: 2 passed, called from C++"),
    ],
)
def test_a_verification_ends_with_the_number_of_each_verdict(
    two: Project, words: list[str], runtime: str, last: str
) -> None:
    verdicts = tuple(Verdict(two.targets[0], word) for word in words)
    lines = verify_lines(VerifyReport(verdicts, runtime=runtime))
    assert lines[-2:] == ["", last]


def test_what_the_figures_do_not_say(two: Project) -> None:
    verdict = Verdict(
        two.targets[0],
        "mismatch",
        cases=(PASSED, CallFigures(name="max", sizes={}, seed=0, outputs=(), skipped="no room")),
        refusals=(
            Refusal(name="batch 9", ok=False, said="was answered"),
            Refusal(name="rank 3", ok=True, said="no"),
        ),
        vacuous=(Vacuous(output="output", of="inputs"),),
        no_fp64="the model does not run in float64",
    )
    lines = verify_lines(VerifyReport((verdict,)))
    assert "1/2" in line_of(lines, "first/cpu  mismatch")
    for said in (
        "not refused: batch 9: was answered",
        "max was skipped: no room",
        "vacuous: output",
        "does not run in",
    ):
        assert any(said in line for line in lines)
    assert not any("rank 3" in line for line in lines)


def test_a_failed_verification_shows_the_figures_of_each_output(two: Project) -> None:
    lines = verify_lines(VerifyReport((Verdict(two.targets[0], "mismatch", (), (PASSED, FAILED)),)))
    row = line_of(lines, "example: output")
    assert {"0.5", "0.25"} <= set(row.split())
    assert "7 of 8 values differ" in row
    assert "0.5" in line_of(lines, "first/cpu  mismatch")
    assert sum("example: output" in line for line in lines) == 1


def test_a_cleaning() -> None:
    assert text.clean_lines(CleanReport(("artifacts/a/cpu",), 2048, dry_run=False)) == [
        "removed artifacts/a/cpu",
        "removed 1 paths, 2.0 KiB",
    ]
    assert text.clean_lines(CleanReport((), 0, dry_run=True)) == ["would remove 0 paths, 0 B"]


def test_a_table_is_aligned_and_has_no_empty_columns() -> None:
    lines = table(["name", "nothing", "value"], [["a", "", "long value"], ["longer", "", "b"]])
    assert lines == ["name    value", "a       long value", "longer  b"]


def test_many_reasons_are_cut_and_counted() -> None:
    shown = reasons_text([Reason("source-changed", f"{number}.py") for number in range(5)])
    assert "0.py" in shown
    assert "4.py" not in shown
    assert shown.endswith("and 2 more")


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        (None, ""),
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (45 << 20, "45.0 MiB"),
        (3 << 40, "3072.0 GiB"),
    ],
)
def test_sizes(size: int | None, shown: str) -> None:
    assert size_text(size) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(None, ""), (5.0, "5 s"), (600.0, "10 min"), (36000.0, "10 h"), (864000.0, "10 d")],
)
def test_ages(seconds: float | None, shown: str) -> None:
    assert age_text(seconds) == shown


def line_of(lines: list[str], start: str) -> str:
    (found,) = (line for line in lines if line.startswith(start))
    return found


def all_lines(lines: list[str]) -> set[str]:
    return {part.strip() for line in lines for part in line.splitlines()}
