"""The page on CI is true: its jobs run, command by command, and what they keep is of use."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import Finished, run_inv

import aoti_build

pytestmark = pytest.mark.slow

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "continuous-integration.md"
YAML = re.findall(r"^```yaml\n(.*?)^```", PAGE.read_text(), re.M | re.S)
GITHUB, GITLAB = (yaml.safe_load(text) for text in YAML[:2])
(SHELL,) = re.findall(r"^```sh\n(.*?)^```", PAGE.read_text(), re.M | re.S)
# Installs into the environment of whoever runs the tests.
NOT_RUN = "pip install -r requirements.txt"
MODELS = """\
version: 1
models:
  linear:
    source: net.py:build
    inputs: [{shape: [4, 8]}]
"""
SOURCE = """\
from torch import nn


def build():
    return nn.Sequential(nn.Linear(8, 4), nn.GELU())
"""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("ci")
    (root / "models.yaml").write_text(MODELS)
    (root / "net.py").write_text(SOURCE)
    (root / "tasks.py").write_text("from aoti_build.tasks import ns\n")
    return root


def shell(root: Path, script: str, **variables: str) -> Finished:
    """A step of a job: bash with the options that GitHub gives it, and `inv` on the path."""
    programs = root / ".programs"
    programs.mkdir(exist_ok=True)
    program = programs / "inv"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m invoke "$@"\n')
    program.chmod(0o755)
    done = subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", script],
        cwd=root,
        env={**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    return Finished(done.returncode, done.stdout, done.stderr)


def test_the_job_for_github(checkout: Path) -> None:
    outputs = checkout / ".outputs"
    outputs.touch()
    (job,) = GITHUB["jobs"].values()
    for step in job["steps"]:
        if step.get("run", NOT_RUN) != NOT_RUN:
            done = shell(checkout, step["run"], GITHUB_OUTPUT=str(outputs))
            assert done.code == 0, step["run"] + "\n" + done.err
    said = outputs.read_text()
    assert "key=aoti-build-" in said
    path = re.findall(r"^path=(.*)$", said, re.M)[0]
    assert (checkout / path / "v1" / "objects").is_dir()
    assert (checkout / "report.xml").exists()
    assert (checkout / "dist" / "linear" / "cpu" / "model.pt2").exists()
    used = set(re.findall(r"steps\.store\.outputs\.([\w-]+)", PAGE.read_text()))
    assert used == set(re.findall(r"^([\w-]+)(?:=|<<)", said, re.M))


def test_what_was_exported_can_be_checked_and_loaded(checkout: Path) -> None:
    done = shell(checkout / "dist", "sha256sum -c SHA256SUMS")
    assert done.code == 0, done.err
    code = (
        "import torch, aoti_build\n"
        "model = aoti_build.load('linear', artifacts='dist')\n"
        "print(tuple(model(torch.zeros(4, 8)).shape))\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=checkout, capture_output=True, text=True, check=True
    )
    assert answer.stdout == "(4, 4)\n"


def test_the_next_run_restores_from_what_was_kept(checkout: Path, tmp_path: Path) -> None:
    """A fresh checkout with the cached directory, as on the next runner."""
    for name in ("models.yaml", "net.py", "tasks.py"):
        (tmp_path / name).write_text((checkout / name).read_text())
    key = run_inv(tmp_path, "ci-cache", "--json").json
    assert key["key"] == run_inv(checkout, "ci-cache", "--json").json["key"]
    (tmp_path / "artifacts").mkdir()
    (checkout / key["path"]).rename(tmp_path / key["path"])
    built = run_inv(tmp_path, "build", "--json")
    (tmp_path / key["path"]).rename(checkout / key["path"])
    assert built.target("linear/cpu")["action"] == "restored"


def test_the_job_for_gitlab(checkout: Path) -> None:
    job = GITLAB["artifacts"]
    subprocess.run(["rm", "-r", str(checkout / "dist")], check=True)
    variables = {
        name: value.replace("$CI_PROJECT_DIR", str(checkout))
        for name, value in job["variables"].items()
    }
    assert job["cache"]["paths"] == [Path(variables["AOTI_BUILD_STORE"]).name]
    for script in [*job["script"], *job["after_script"]]:
        if script != NOT_RUN:
            done = shell(checkout, script, **variables)
            assert done.code == 0, script + "\n" + done.err
    assert (checkout / "dist" / "SHA256SUMS").exists()


def test_the_other_commands_end_as_the_page_says(checkout: Path) -> None:
    lines = SHELL.splitlines()
    assert lines
    for line in lines:
        assert shell(checkout, line).code == 0, line
    (checkout / "net.py").write_text(SOURCE + "\n\nOTHER = 1\n")
    for line in lines:
        assert shell(checkout, line).code == 3, line
    assert aoti_build.__version__
