"""Reports on a terminal: broken at its width, with colours; and neither in a pipe."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from packages import publish_package
from small_projects import ONE_MODEL, RAN, REAL_PYTHON, TWO_MODELS, inv, publish_fake, write_project
from terminals import in_terminal

from aoti_build.commands.build import BuildReport
from aoti_build.commands.run.command import Run, RunReport, TargetRuns
from aoti_build.figures import RunFigures, typed
from aoti_build.models_file import Project
from aoti_build.planning.actions import Done
from aoti_build.planning.index import Published
from aoti_build.report import text
from aoti_build.report.colour import coloured, has_colours
from aoti_build.report.run_text import run_lines
from aoti_build.report.terminal import latency_text, milliseconds, speed_text, wrapped
from aoti_build.work.outcome import Outcome
from aoti_build.work.trace import Trace

FIGURES = "min 1.000, median 6.000, p90 3.000, p99 4.000, max 5.000"
RED, GREEN, YELLOW, END = "\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[0m"


class TerminalStream(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_lines_are_broken_and_indented() -> None:
    lines = ["short", "  source-changed: a b c d e f g h", "    " + "x" * 50]
    assert wrapped(lines, None) == lines
    broken = wrapped(lines, 20)
    assert broken[0] == "short"
    assert broken[1:3] == ["  source-changed: a", "      b c d e f g h"]
    assert all(len(line) <= 20 for line in broken)
    assert "".join(line.strip() for line in broken[3:]) == "x" * 50


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("a/cpu  compiled  1 s", f"a/cpu  {GREEN}compiled{END}  1 s"),
        ("a/cpu  mismatch (out of date)  3", f"a/cpu  {RED}mismatch{END} (out of date)  3"),
        ("a/cpu  unavailable", f"a/cpu  {YELLOW}unavailable{END}"),
        ("compiler    cpu     fail     no", f"compiler    cpu     {RED}fail{END}     no"),
        ("a/cpu compiled in 3.1 s", f"a/cpu {GREEN}compiled{END} in 3.1 s"),
        ("a/cpu: build", f"a/cpu: {YELLOW}build{END}"),
        ("error: a/cpu: no", f"{RED}error{END}: a/cpu: no"),
        # Names and sentences with the same words stay as they are.
        ("failed/cpu  up-to-date", f"failed/cpu  {GREEN}up-to-date{END}"),
        ("note: build it again", "note: build it again"),
        ("2 targets: 1 compiled, 1 failed", "2 targets: 1 compiled, 1 failed"),
        ("  cause: error", "  cause: error"),
    ],
)
def test_verdicts_actions_and_errors_are_in_colour(line: str, shown: str) -> None:
    assert coloured([line]) == [shown]


def test_colours_are_for_terminals_that_want_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert has_colours(TerminalStream())
    assert not has_colours(io.StringIO())
    monkeypatch.setenv("NO_COLOR", "1")
    assert not has_colours(TerminalStream())
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert not has_colours(TerminalStream())


def test_a_terminal_gets_broken_lines_and_a_pipe_whole_ones(tmp_path: Path) -> None:
    project = write_project(tmp_path / "project")
    publish_fake(project)
    write_project(tmp_path / "project", ONE_MODEL.replace("width: 4", "width: 123"))
    command = [REAL_PYTHON, "-m", "invoke", "why"]
    screen, _ = in_terminal(command, columns=30, directory=project.root)
    rows = [row.rstrip() for row in screen.display]
    assert rows[0] == "small/cpu: build"
    # A whole word at the end of each row, and the rest of a sentence further to the right.
    assert any(row.startswith("      ") for row in rows)
    piped = inv("why", cwd=project.root).stdout
    assert "\x1b" not in piped
    assert max(map(len, piped.splitlines())) > 30


def test_inspect_fits_and_all_shows_the_rest(project: Project) -> None:
    publish_package(project)
    screen, seen = in_terminal(
        [REAL_PYTHON, "-m", "invoke", "inspect"], columns=60, directory=project.root
    )
    assert screen.display[0].startswith("small/cpu")
    assert "--all shows everything" in seen
    # `invoke inspect | grep` searches everything.
    piped = inv("inspect", cwd=project.root).stdout
    assert piped == inv("inspect", "--all", cwd=project.root).stdout
    assert len(piped.splitlines()) > 24


def outcomes(project: Project) -> tuple[Outcome, ...]:
    first, second = project.targets
    published = Published("a" * 64, "b" * 64, 45 << 20)
    latency = {"artifact": 0.00042, "eager": 0.00077}
    return (
        Outcome(first, Done.COMPILED, (), published, {"total": 12.3}, latency=latency),
        Outcome(second, Done.FAILED, (), published, latency=latency),
    )


def test_a_build_with_nothing_to_do_always_looks_the_same(tmp_path: Path) -> None:
    """The index may answer for a target, and has no latency."""
    project = write_project(tmp_path, TWO_MODELS)
    first, _ = outcomes(project)
    from_manifest = replace(first, action=Done.UP_TO_DATE)
    from_index = replace(from_manifest, latency=None)
    assert text.build_lines(BuildReport(project, (from_manifest,))) == text.build_lines(
        BuildReport(project, (from_index,))
    )


def test_a_build_says_where_packages_are_and_what_they_are_worth(tmp_path: Path) -> None:
    project = write_project(tmp_path, TWO_MODELS)
    lines = text.build_lines(BuildReport(project, outcomes(project), Trace()))
    assert "against eager" in lines[0]
    assert "1.8x (indicative)" in lines[1]
    # The package of a failed build is an earlier one.
    assert "indicative" not in lines[2]
    assert lines[4] == (
        "first/cpu: artifacts/first/cpu/model.pt2, 0.42 ms a call, eager 0.77 ms (indicative)"
    )
    assert not any("second/cpu/model.pt2" in line for line in lines)


def test_what_was_not_timed_is_not_claimed() -> None:
    assert speed_text(None) == latency_text(None) == ""
    alone = {"artifact": 0.0123, "eager": None}
    assert (speed_text(alone), latency_text(alone)) == ("", "12.3 ms a call (indicative)")
    assert milliseconds(1.23456) == "1230 ms"
    assert milliseconds(0.0000123) == "0.0123 ms"


@pytest.mark.parametrize(
    ("figures", "recorded", "line"),
    [
        (
            RAN,
            0.004,
            "eager: 4 ms when the artifact was built (indicative); the artifact is 2.00x as fast",
        ),
        (RAN, None, "eager: n/a"),
        # The recorded time is of other sizes.
        ({**RAN, "check": "none"}, 0.004, "eager: n/a"),
        (
            {**RAN, "check": "eager", "eager_timing": {**RAN["timing"], "median": 0.006}},
            0.004,
            f"eager: 10 of its calls now, in ms: {FIGURES}; the artifact is 3.00x as fast",
        ),
    ],
    ids=["from the build", "unknown", "of other inputs", "measured"],
)
def test_a_run_has_the_time_of_eager_mode_beside_it(
    project: Project, figures: dict[str, object], recorded: float | None, line: str
) -> None:
    run = Run(("reference_data",), None, typed(figures, RunFigures))
    target = TargetRuns(project.targets[0], (run,), eager_seconds=recorded)
    assert run_lines(RunReport((target,)))[-1] == line
