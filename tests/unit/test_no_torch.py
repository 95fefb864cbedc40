"""What has nothing to compile imports no torch and starts no worker: looked at in processes of
their own."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from packages import publish_package
from small_projects import ONE_MODEL, REAL_PYTHON, write_project

# Runs invoke in its own process and reports, as its last line, what that process imported and which
# workers it started.
RUNNER = """
import json, sys
started = []
def hook(event, args):
    if event == "subprocess.Popen" and "aoti_build._torch" in map(str, args[1]):
        started.append(list(map(str, args[1])))
sys.addaudithook(hook)
from invoke.main import program
try:
    program.run(["inv", *sys.argv[1:]])
    code = 0
except SystemExit as exit:
    code = exit.code or 0
heavy = sorted({"torch", "torchvision", "numpy", "safetensors", "msgspec"} & set(sys.modules))
own = "aoti_build.tasks" in sys.modules
print(json.dumps({"code": code, "heavy": heavy, "workers": len(started), "own": own}))
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project whose only target is up to date."""
    project = write_project(tmp_path / "project", ONE_MODEL + "    weights: weights.safetensors\n")
    publish_package(project)
    return project.root


@pytest.mark.parametrize(
    "words",
    [
        ["--list"],
        ["build"],
        ["build", "--json"],
        ["build", "--dry-run"],
        ["status"],
        ["inspect"],
        ["inspect", "--path", "artifacts/small/cpu/model.pt2", "--diff", "small"],
        ["clean", "--dry-run"],
        ["schema"],
        ["build", "--check"],
        ["status", "--check"],
        ["export", "out"],
        ["ci-cache"],
        ["version"],
    ],
    ids=" ".join,
)
def test_nothing_to_do_is_done_without_torch(root: Path, words: list[str]) -> None:
    answer = run(root, words)
    assert answer == {"code": 0, "heavy": [], "workers": 0, "own": True}


def test_planning_a_build_that_has_work_needs_no_torch(root: Path) -> None:
    (root / "model.py").write_text("changed = True\n")
    assert run(root, ["build", "--dry-run"]) == {"code": 0, "heavy": [], "workers": 0, "own": True}
    assert run(root, ["status"]) == {"code": 0, "heavy": [], "workers": 0, "own": True}


def test_a_restore_imports_nothing_that_only_workers_need() -> None:
    modules = "aoti_build.commands.build, aoti_build.work.schedule, aoti_build.work.restore"
    script = f"import sys, {modules}; print('msgspec' in sys.modules)"
    command = [REAL_PYTHON, "-c", script]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert answer.stdout == "False\n"


def run(root: Path, words: list[str]) -> dict[str, object]:
    answer = subprocess.run(
        [REAL_PYTHON, "-c", RUNNER, *words],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    result: dict[str, object] = json.loads(answer.stdout.splitlines()[-1])
    return result
