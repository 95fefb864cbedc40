"""Ctrl-C and SIGTERM end every task with 130 within five seconds, whatever it does, and nothing it
started stays."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from small_projects import REAL_PYTHON, publish_fake

from aoti_build.artifact.manifest import MODEL, REFERENCE_DATA, FileRecord
from aoti_build.artifact.paths import artifact_directory, lock_path
from aoti_build.common.locks import lock
from aoti_build.models_file import Project
from aoti_build.tasks.interruption import PATIENCE_SECONDS

SECONDS = 5.0
HUGE = 200 << 30
TERM, INT = signal.SIGTERM, signal.SIGINT


@dataclass
class Task:
    """A task that runs in a process of its own, and a word that all it starts has in its command
    line."""

    process: subprocess.Popen[str]
    mark: str

    def wait_for(self, holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 40
        while not holds():
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < deadline, "it never came so far"
            time.sleep(0.05)

    def end_with(self, number: int) -> tuple[str, str]:
        """Send the signal; what the task printed. It must have ended in time, with 130, and all it
        started too."""
        began = time.monotonic()
        self.process.send_signal(number)
        try:
            out, err = self.process.communicate(timeout=3 * SECONDS)
        except subprocess.TimeoutExpired:
            pytest.fail("it goes on as if nothing had happened")
        assert self.process.returncode == 130, err
        assert time.monotonic() - began < SECONDS
        assert "Traceback" not in err
        assert "interrupted" in err
        deadline = time.monotonic() + 2
        while running(self.mark) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert running(self.mark) == []
        return out, err


Start = Callable[..., Task]


@pytest.fixture
def start(project: Project) -> Iterator[Start]:
    """Starts a task in the directory of `project`; whatever is left of it at the end is killed."""
    mark = f"37{os.getpid()}"  # seconds that nobody else sleeps
    tasks: list[Task] = []

    def begin(*words: str, **environment: str) -> Task:
        process = subprocess.Popen(
            [REAL_PYTHON, "-m", "invoke", *words],
            cwd=project.root,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        tasks.append(Task(process, mark))
        return tasks[-1]

    yield begin
    for task in tasks:
        task.process.kill()
        task.process.communicate()
    for left in running(mark):
        os.kill(left, signal.SIGKILL)


@pytest.fixture
def huge(project: Project) -> Path:
    """The directory of an artifact whose package is as large as its manifest says, and takes
    minutes to read."""
    recorded = FileRecord.of
    manifest = publish_fake(project)
    directory = artifact_directory(project, project.targets[0])
    os.truncate(directory / MODEL, HUGE)
    files = {
        MODEL: FileRecord("0" * 64, HUGE),
        REFERENCE_DATA: recorded(directory / REFERENCE_DATA),
    }
    replace(manifest, files=files).write(directory)
    return directory


@pytest.mark.parametrize(
    ("words", "number"),
    [
        ("verify", TERM),
        ("verify --json", INT),
        ("run", TERM),
        ("inspect", INT),
        ("status", TERM),
    ],
)
def test_while_a_huge_file_is_digested(start: Start, huge: Path, words: str, number: int) -> None:
    task = start(*words.split())
    task.wait_for(lambda: reads(task.process.pid, huge / MODEL))
    out, _ = task.end_with(number)
    if "--json" in words:
        assert json.loads(out)["error"]["kind"] == "interrupted"


def test_while_another_build_is_waited_for(start: Start, project: Project) -> None:
    with lock(lock_path(project, project.targets[0])):
        (project.root / "tasks.py").write_text(tasks_with(python="python"))
        task = start("build")
        assert task.process.stderr is not None
        assert "waiting for another build" in task.process.stderr.readline()
        task.end_with(INT)


@pytest.mark.parametrize("number", [TERM, INT])
def test_workers_that_ignore_it_end_with_their_children(
    start: Start, project: Project, number: int
) -> None:
    """Three of them: each is given its time at once, not one after another."""
    models = "".join(
        f"  m{index}:\n    source: model.py:build\n    inputs: [{{shape: [2, 4]}}]\n"
        for index in range(3)
    )
    (project.root / "models.yaml").write_text(f"version: 1\nmodels:\n{models}")
    mark = f"37{os.getpid()}"
    (project.root / "tasks.py").write_text(tasks_with(deaf_program(project.root, mark)))
    task = start("build", "--jobs", "3")
    task.wait_for(lambda: len(running(mark)) == 3)
    task.end_with(number)
    assert not list((project.root / "artifacts" / ".staging").iterdir())


def test_while_a_compiler_hangs(start: Start, project: Project) -> None:
    mark = f"37{os.getpid()}"
    task = start("doctor", "--quick", CXX=str(deaf_program(project.root, mark)))
    task.wait_for(lambda: len(running(mark)) > 0)
    task.end_with(TERM)


def test_while_a_report_has_no_reader(start: Start, project: Project) -> None:
    os.mkfifo(project.root / "report.xml")
    task = start("verify", "--junit", "report.xml")
    task.wait_for(lambda: waits_in_open(task.process.pid))
    task.end_with(TERM)


def test_where_python_lets_no_exception_through(start: Start, project: Project) -> None:
    """The first signal comes while an object is being removed; what is raised there is lost."""
    (project.root / "tasks.py").write_text(
        "import pathlib, time\n\n"
        "from aoti_build.tasks import ns\n"
        "from aoti_build.commands import status\n\n\n"
        "class Slow:\n"
        "    def __del__(self):\n"
        "        pathlib.Path('removing').touch()\n"
        "        time.sleep(60)\n\n\n"
        "def slow(*_, **__):\n"
        "    Slow()\n"
        "    time.sleep(60)\n\n\n"
        "status.status = slow\n"
    )
    task = start("status")
    task.wait_for((project.root / "removing").exists)
    began = time.monotonic()
    task.end_with(TERM)
    assert time.monotonic() - began < PATIENCE_SECONDS, (
        "in good order, and not because its time was over"
    )


def test_a_second_signal_does_not_disturb_the_end(start: Start, huge: Path) -> None:
    task = start("verify")
    task.wait_for(lambda: reads(task.process.pid, huge / MODEL))
    for _ in range(20):
        task.process.send_signal(INT)
        time.sleep(0.02)
    task.end_with(TERM)


def test_what_somebody_else_started_goes_on(start: Start, project: Project, tmp_path: Path) -> None:
    """A server that the project's own tasks.py has started is not the task's to end."""
    (project.root / "tasks.py").write_text(
        "import subprocess, time\n\n"
        f"words, quiet = ['sleep', '{os.getpid()}98'], subprocess.DEVNULL\n"
        "server = subprocess.Popen(words, stdout=quiet, stderr=quiet)\n"
        "time.sleep(0.05)\n"
        "from aoti_build.tasks import ns\n"
    )
    os.mkfifo(project.root / "report.xml")
    task = start("verify", "--junit", "report.xml")
    task.wait_for(lambda: waits_in_open(task.process.pid))
    task.end_with(TERM)
    (server,) = running(f"{os.getpid()}98")
    os.kill(server, signal.SIGKILL)


def tasks_with(python: Path | str) -> str:
    """A tasks.py whose workers are started with another Python, and whose builds check no
    compiler."""
    return (
        "import sys\n\n"
        "from aoti_build.tasks import ns\n"
        "from aoti_build.work import host_checks\n\n"
        f"sys.executable = {str(python)!r}\n"
        "host_checks.require_fit_toolchain = lambda *_: None\n"
    )


def deaf_program(directory: Path, mark: str) -> Path:
    """A program in place of Python or a compiler: it ignores SIGTERM, has a child, and never ends
    by itself."""
    path = directory / "deaf"
    path.write_text(f"#!/bin/sh\ntrap '' TERM INT\nsleep {mark}\nsleep {mark}\n")
    path.chmod(0o755)
    return path


def running(mark: str) -> list[int]:
    """Numbers of the processes that have `mark` as a word of their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdecimal() and mark.encode() in (entry / "cmdline").read_bytes().split(
                b"\0"
            ):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def reads(process: int, path: Path) -> bool:
    """Whether a process has the file open."""
    try:
        return any(
            os.readlink(entry) == str(path) for entry in Path(f"/proc/{process}/fd").iterdir()
        )
    except OSError:
        return False


def waits_in_open(process: int) -> bool:
    """Whether a process waits for the other end of a pipe."""
    try:
        return "wait_for_partner" in Path(f"/proc/{process}/wchan").read_text()
    except OSError:
        return False
