"""The reports that tasks write to what a person named: pipes, links and /dev/stdout."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest
from small_projects import REAL_PYTHON, contents, inv

from aoti_build.models_file import Project

# Words of a task, and what its report begins with.
WRITERS = [("schema --output", "{"), ("verify --junit", "<?xml"), ("verify --html", "<!doctype")]


@pytest.mark.parametrize(("words", "beginning"), WRITERS)
def test_stdout_can_be_named(project: Project, words: str, beginning: str) -> None:
    """As a pipe, and as a file that the table goes into as well. The link is what /dev/stdout
    is."""
    (project.root / "stdout").symlink_to("/proc/self/fd/1")
    piped = inv(*words.split(), "stdout", cwd=project.root)
    assert beginning in piped.stdout.lower()
    command = [REAL_PYTHON, "-m", "invoke", *words.split(), "stdout"]
    with (project.root / "out").open("wb") as out:
        subprocess.run(command, cwd=project.root, stdout=out, check=False, timeout=60)
    printed = (project.root / "out").read_text()
    assert beginning in printed.lower()
    assert ("1 artifact: " in printed) == words.startswith("verify")
    assert (project.root / "stdout").is_symlink()


@pytest.mark.parametrize(("words", "beginning"), WRITERS)
def test_links_and_pipes_of_each_task_stay(project: Project, words: str, beginning: str) -> None:
    (project.root / "link").symlink_to("target")
    os.mkfifo(project.root / "pipe")
    reader = os.open(project.root / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    for name in ("link", "pipe"):
        assert inv(*words.split(), name, cwd=project.root).returncode in (0, 3)
    assert os.read(reader, 20).decode().lower().startswith(beginning)
    os.close(reader)
    assert (project.root / "link").is_symlink()
    assert (project.root / "target").read_text().lower().startswith(beginning)
    assert stat.S_ISFIFO((project.root / "pipe").lstat().st_mode)


@pytest.mark.parametrize(("words", "_beginning"), WRITERS)
def test_what_cannot_be_written_is_wrong_usage(
    project: Project, full_device: Path, words: str, _beginning: str
) -> None:
    for name, said in ((".", "is a directory"), (str(full_device), "No space left on device")):
        answer = inv(*words.split(), name, cwd=project.root)
        assert answer.returncode == 2
        assert said in answer.stderr
        assert "Traceback" not in answer.stderr


def test_a_directory_is_told_before_anything_is_verified(project: Project) -> None:
    before = contents(project.root)
    answer = inv("verify", "--json", "--junit", ".", cwd=project.root, PYTHONDONTWRITEBYTECODE="1")
    assert json.loads(answer.stdout)["error"]["kind"] == "usage"
    assert contents(project.root) == before


def test_a_report_into_a_process(project: Project) -> None:
    """As `--junit >(cat)` of a shell does it."""
    shell = (
        f"{REAL_PYTHON} -m invoke verify --junit >(cat >report) 2>/dev/null >/dev/null; wait;"
        " sleep 1"
    )
    subprocess.run(["bash", "-c", shell], cwd=project.root, check=True, timeout=60)
    assert ElementTree.parse(project.root / "report").getroot().tag == "testsuites"  # noqa: S314
