"""What a user sees of a build: a terminal emulator renders what the display writes."""

from __future__ import annotations

import io
import os
import re
import sys
from pathlib import Path

import pyte
import pytest
from small_projects import REAL_PYTHON, TWO_MODELS, FakeWorker, write_project
from terminals import in_terminal

from aoti_build.commands.build import build, plan
from aoti_build.models_file import Project
from aoti_build.planning.actions import Done
from aoti_build.planning.plan import Step
from aoti_build.report.live import display as display_module
from aoti_build.report.live.display import Display, Terminal, display_on
from aoti_build.work.outcome import Outcome
from aoti_build.work.watch import Progress

TIMESTAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d"


class Screen(io.StringIO):
    """A stream into a terminal emulator. `writes` are the pieces that were written."""

    def __init__(self, columns: int = 80, lines: int = 24) -> None:
        super().__init__()
        self.screen = pyte.HistoryScreen(columns, lines)
        self._stream = pyte.Stream(self.screen)
        self.writes: list[str] = []

    def write(self, text: str) -> int:
        self.writes.append(text)
        # The line discipline of a real terminal does this.
        self._stream.feed(text.replace("\n", "\r\n"))
        return len(text)

    def isatty(self) -> bool:
        return True

    def size(self) -> os.terminal_size:
        return os.terminal_size((self.screen.columns, self.screen.lines))

    @property
    def text(self) -> list[str]:
        """All lines, those that scrolled away as well."""
        past = ["".join(line[x].data for x in range(80)) for line in self.screen.history.top]
        shown = [line.rstrip() for line in [*past, *self.screen.display]]
        while shown and not shown[-1]:
            shown.pop()
        return shown


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def two(tmp_path: Path) -> tuple[Step, ...]:
    project = write_project(tmp_path, TWO_MODELS)
    return plan(project, project.targets).work


@pytest.fixture
def quiet_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests draw when they want to."""
    monkeypatch.setattr(display_module, "DRAW_SECONDS", 3600.0)


def on_screen(screen: Screen, clock: Clock, environment: dict[str, str] | None = None) -> Display:
    terminal = Terminal(screen, screen.size, environment or {})
    return Display(screen, terminal, clock)


@pytest.mark.usefixtures("quiet_thread")
def test_targets_run_and_end(two: tuple[Step, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    screen, clock = Screen(), Clock()
    display = on_screen(screen, clock)
    display.planned(two, 2, {"first/cpu": {"export": 3.0, "check": 1.0}})
    first, second = (step.target for step in two)
    display.started(first)
    display.phase(first, "export")
    clock.now += 2
    display.started(second)
    display.stage(second, Progress("kernels", 3, 12))
    display.refresh()
    assert screen.text == [
        "first/cpu   export              2 s of ~3 s  (2 s of ~4 s)",
        "second/cpu  kernels 3/12        0 s          (0 s)",
        "0 of 2 done, 2 running; 2 s, at least 2 s left",
    ]
    clock.now += 1
    display.message(first, "warning: the disk is slow")
    display.ended(Outcome(first, Done.COMPILED))
    display.refresh()
    assert screen.text == [
        "first/cpu: warning: the disk is slow",
        "first/cpu compiled in 3.0 s",
        "second/cpu  kernels 3/12        1 s  (1 s)",
        "1 of 2 done, 1 running; 3 s, time left unknown",
    ]
    display.ended(Outcome(second, Done.FAILED))
    display.close()
    assert screen.text[2:] == ["second/cpu failed after 1.0 s"]
    assert screen.screen.cursor.x == 0


@pytest.mark.usefixtures("quiet_thread")
@pytest.mark.parametrize("width", [80, 200])
def test_many_messages_scroll_and_the_frame_stays_below(
    two: tuple[Step, ...], width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    screen, clock = Screen(width, 10), Clock()
    display = on_screen(screen, clock)
    display.planned(two, 2, {})
    for step in two:
        display.started(step.target)
    for number in range(30):
        display.refresh()
        display.print([f"message {number}"])
    display.close()
    assert screen.text == [f"message {number}" for number in range(30)]


@pytest.mark.usefixtures("quiet_thread")
def test_nothing_is_written_while_nothing_changes(two: tuple[Step, ...]) -> None:
    screen, clock = Screen(), Clock()
    display = on_screen(screen, clock)
    display.planned(two, 1, {})
    display.started(two[0].target)
    display.refresh()
    count = len(screen.writes)
    clock.now += 0.3
    display.refresh()
    assert len(screen.writes) == count
    # Each second the elapsed time does.
    clock.now += 0.8
    display.refresh()
    assert len(screen.writes) == count + 1
    display.close()


@pytest.mark.usefixtures("quiet_thread")
def test_a_terminal_that_becomes_narrower(two: tuple[Step, ...]) -> None:
    """pyte cuts lines as xterm does. Others break them: then the frame covers more rows."""
    screen, clock = Screen(80), Clock()
    display = on_screen(screen, clock, {"XTERM_VERSION": "XTerm(390)"})
    display.print(["before"])
    display.planned(two, 2, {})
    for step in two:
        display.started(step.target)
    display.refresh()
    screen.screen.resize(columns=30)
    clock.now += 1
    display.refresh()
    display.close()
    assert [line.rstrip() for line in screen.screen.display if line.strip()] == ["before"]


@pytest.mark.usefixtures("quiet_thread")
def test_a_terminal_that_breaks_the_lines_of_the_frame(two: tuple[Step, ...]) -> None:
    screen, clock = Screen(80), Clock()
    display = on_screen(screen, clock)
    display.planned(two, 2, {})
    display.refresh()
    (line,) = screen.text
    screen.screen.resize(columns=20)
    clock.now += 1
    display.refresh()
    rows = -(-len(line) // 20)
    assert f"\x1b[{rows}A" in screen.writes[-1]
    display.close()


@pytest.mark.usefixtures("quiet_thread")
def test_what_others_print_to_stderr_goes_above(two: tuple[Step, ...]) -> None:
    screen = Screen()
    real = sys.stderr
    with display_on(screen) as display:
        display.planned(two, 2, {})
        display.started(two[0].target)
        display.refresh()
        sys.stderr.write("from a library\n")
        sys.stderr.write("no end")
        display.refresh()
        assert screen.text[0] == "from a library"
    assert sys.stderr is real
    assert screen.text == ["from a library", "no end"]


@pytest.mark.usefixtures("quiet_thread")
def test_without_a_terminal_lines_have_timestamps_and_a_heart_beats(
    two: tuple[Step, ...],
) -> None:
    stream, clock = io.StringIO(), Clock()
    display = Display(stream, None, clock)
    display.planned(two, 1, {})
    first = two[0].target
    display.started(first)
    display.phase(first, "export")
    display.refresh()
    assert stream.getvalue() == ""
    clock.now += 31
    display.refresh()
    display.refresh()
    clock.now += 13.4
    display.ended(Outcome(first, Done.COMPILED))
    display.close()
    beat, end = stream.getvalue().splitlines()
    assert re.fullmatch(f"{TIMESTAMP} first/cpu is in export for 31 s .*1 waiting; 31 s, .*", beat)
    assert re.fullmatch(f"{TIMESTAMP} first/cpu compiled in 44.4 s", end)
    assert "\x1b" not in stream.getvalue()


def test_a_build_without_a_terminal_prints_a_line_for_each_target(
    tmp_path: Path, fake_worker: FakeWorker
) -> None:
    project = write_project(tmp_path, TWO_MODELS)
    stream = io.StringIO()
    with display_on(stream) as display:
        build(project, project.targets, watch=lambda: display)
    lines = sorted(line.partition(" ")[2] for line in stream.getvalue().splitlines())
    assert [re.sub(r"[\d.]+ s", "N s", line) for line in lines] == [
        "first/cpu compiled in N s",
        "second/cpu compiled in N s",
    ]


def test_a_build_with_nothing_to_do_shows_nothing(published: Path, project: Project) -> None:
    def refuse() -> Display:
        raise AssertionError("there is nothing to show")

    assert build(project, project.targets, watch=refuse).exit_code == 0


PROGRAM = """
import sys, time
sys.path[:0] = {path!r}
from pathlib import Path
from small_projects import TWO_MODELS, write_project
from aoti_build.commands.build import plan
from aoti_build.report.live.display import display_on
from aoti_build.tasks.answer import contract
project = write_project(Path(sys.argv[1]), TWO_MODELS)
steps = plan(project, project.targets).work
with contract(False, False), display_on(sys.stderr) as display:
    display.planned(steps, 2, {{}})
    for step in steps:
        display.started(step.target)
        display.phase(step.target, "export")
    {body}
"""


@pytest.mark.parametrize(
    ("body", "keys", "end"),
    [
        ("time.sleep(60)", b"\x03", "error: interrupted"),
        ("time.sleep(1); raise ValueError('a defect')", b"", "ValueError: a defect"),
    ],
    ids=["Ctrl-C", "an exception"],
)
def test_a_real_terminal_is_clean_afterwards(
    tmp_path: Path, body: str, keys: bytes, end: str
) -> None:
    script = tmp_path / "program.py"
    script.write_text(PROGRAM.format(path=sys.path, body=body))
    screen, seen = in_terminal(
        [REAL_PYTHON, str(script), str(tmp_path / "project")],
        lambda shown: keys if "export" in shown else b"",
    )
    assert "first/cpu   export" in seen
    rest = "\n".join(line.rstrip() for line in screen.display)
    assert "export" not in rest
    assert "running" not in rest
    assert end in rest
