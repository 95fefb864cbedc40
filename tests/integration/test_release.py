"""A release of a real model: others load it, and the scripts of `examples/release` make one."""

from __future__ import annotations

import os
import re
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from conftest import Finished, run_inv

# The registry of the unit tests.
sys.path.append(str(Path(__file__).parents[1] / "unit"))
from fake_registries import PASSWORD, USER, FakeRegistry, running_registry

EXAMPLES = Path(__file__).parents[2] / "examples" / "release"
PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "release.md"
# Installs into the environment of whoever runs the tests.
NOT_RUN = "pip install -r requirements.txt"
MODELS = """\
version: 1
models:
  linear:
    source: net.py:build
    dims: {batch: {min: 1, max: 4, example: 2}}
    inputs: [{shape: [batch, 8]}]
"""
SOURCE = """\
from torch import nn


def build():
    return nn.Sequential(nn.Linear(8, 4), nn.GELU())
"""
LOGIN = {"AOTI_BUILD_REGISTRY_USER": USER, "AOTI_BUILD_REGISTRY_PASSWORD": PASSWORD}
# Keeps what it is called with, and has no earlier release.
GH = '#!/bin/sh\necho "$@" >> gh.log\n[ "$2" != download ]\n'


def git(root: Path, *words: str) -> None:
    identity = ["-c", "user.name=A", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *identity, *words], cwd=root, check=True, capture_output=True)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project in git whose only artifact is built."""
    root = tmp_path_factory.mktemp("shop")
    (root / "models.yaml").write_text(MODELS)
    (root / "net.py").write_text(SOURCE)
    (root / "tasks.py").write_text("from aoti_build.tasks import ns\n")
    git(root, "init", "--quiet")
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message=first")
    built = run_inv(root, "build", "--quiet")
    assert built.code == 0, built.err
    return root


@pytest.fixture(scope="module")
def bundle(checkout: Path) -> Path:
    made = run_inv(checkout, "release", "--version", "1.0", "--out", "bundle", "--json")
    assert made.code == 0, made.err
    assert made.json["release"]["targets"][0]["target"] == "linear/cpu"
    return checkout / "bundle"


def shell(root: Path, script: str, **variables: str) -> Finished:
    """A step of a job: bash with the options that GitHub gives it, with `invoke` and `gh`.

    The environment that runs the tests is not always on PATH.
    """
    programs = root / ".git" / "programs"
    programs.mkdir(exist_ok=True)
    invoke = f'#!/bin/sh\nexec {sys.executable} -m invoke "$@"\n'
    for name, text in {"inv": invoke, "invoke": invoke, "gh": GH}.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
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


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeRegistry]:
    """A registry that wants a login. Nobody is logged in yet."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    with running_registry() as running:
        running.login = "basic"
        yield running


@pytest.fixture(autouse=True)
def _no_earlier_dist(checkout: Path) -> None:
    shutil.rmtree(checkout / "dist", ignore_errors=True)


def test_the_models_of_a_bundle_are_loaded(bundle: Path, tmp_path: Path) -> None:
    """Elsewhere, and without the project."""
    shutil.copytree(bundle, tmp_path / "received")
    code = (
        "import torch, aoti_build\n"
        "model = aoti_build.load('linear', artifacts='received/models')\n"
        "print(tuple(model(torch.zeros(4, 8)).shape))\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert answer.stdout == "(4, 4)\n"


def test_a_second_release_has_the_same_bytes_and_modes(checkout: Path, bundle: Path) -> None:
    again = shell(checkout, "umask 077; inv release --version 1.0 --out dist/again --quiet")
    assert again.code == 0, again.err
    for path in (checkout / "dist" / "again", *(checkout / "dist" / "again").rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o755 if path.is_dir() else 0o644), path
    compared = subprocess.run(["diff", "-r", str(bundle), "dist/again"], cwd=checkout, check=False)
    assert compared.returncode == 0


@pytest.mark.parametrize("step", ["_write_sums", "notes", "add_findings"])
def test_a_release_that_is_killed_leaves_nothing_of_its_name(checkout: Path, step: str) -> None:
    code = (
        "import os, signal\n"
        "from aoti_build.commands.release import bundle, command\n"
        "from aoti_build.models_file import load_project\n"
        "from pathlib import Path\n"
        "def end(*_): os.kill(os.getpid(), signal.SIGKILL)\n"
        f"bundle.{step} = command.{step} = end\n"
        "project = load_project(Path('models.yaml').absolute())\n"
        "options = command.ReleaseOptions('1', 'dist/killed', archive='dist/killed.tar.gz')\n"
        "command.release(project, project.targets, options)\n"
    )
    answer = subprocess.run([sys.executable, "-c", code], cwd=checkout, check=False)
    assert answer.returncode == -signal.SIGKILL
    left = os.listdir(checkout / "dist")
    assert [name for name in left if not name.startswith(".killed.")] == []


def test_the_script(checkout: Path, registry: FakeRegistry) -> None:
    script = EXAMPLES / "release.sh"
    first = shell(checkout, f"{script} 1.1")
    assert first.code == 0, first.err
    assert not registry.calls
    options = {"PREVIOUS": "dist/1.1", "TARGETS": "linear", "REGISTRY": registry.address("")}
    second = shell(checkout, f"{script} 1.2", **options, **LOGIN)
    assert second.code == 0, second.err
    assert "1.2" in registry.manifests
    notes = (checkout / "dist" / "1.2" / "NOTES.md").read_text()
    assert "1 target is the same, byte by byte" in notes
    assert (checkout / "dist" / "1.2.tar.gz").exists()
    assert shell(checkout, f"{script} 1.2").code == 2, "a release replaces nothing"


def test_the_workflow_for_github(checkout: Path, registry: FakeRegistry) -> None:
    """As if the repository had the variable REGISTRY."""
    workflow = yaml.safe_load((EXAMPLES / "github-workflow.yml").read_text())
    (job,) = workflow["jobs"].values()
    values = {
        "${{ vars.REGISTRY }}": registry.address(""),
        "${{ github.actor }}": USER,
        "${{ github.token }}": PASSWORD,
    }
    for step in job["steps"]:
        if step.get("run", NOT_RUN) != NOT_RUN:
            variables = {name: values[value] for name, value in step.get("env", {}).items()}
            done = shell(checkout, step["run"], GITHUB_REF_NAME="v1.4.0", **variables)
            assert done.code == 0, step["run"] + "\n" + done.err
    (push,) = [step for step in job["steps"] if "release-push" in step.get("run", "")]
    assert push["if"] == "vars.REGISTRY != ''"
    assert "1.4.0" in registry.manifests
    calls = (checkout / "gh.log").read_text().splitlines()
    assert calls[-1].startswith("release create v1.4.0 --notes-file dist/bundle/NOTES.md")
    for file in re.findall(r"dist/\S+", calls[-1]):
        assert (checkout / file).is_file()


def test_the_workflow_for_github_with_an_earlier_release(checkout: Path, bundle: Path) -> None:
    workflow = yaml.safe_load((EXAMPLES / "github-workflow.yml").read_text())
    steps = [step.get("run", "") for step in workflow["jobs"]["release"]["steps"]]
    (step,) = [script for script in steps if "inv release --version" in script]
    shutil.copy(bundle / "release.json", checkout / "previous.json")
    done = shell(checkout, step, GITHUB_REF_NAME="v1.4.0")
    (checkout / "previous.json").unlink()
    assert done.code == 0, done.err
    assert "## Changes since 1.0" in (checkout / "dist" / "bundle" / "NOTES.md").read_text()


def test_the_job_for_gitlab(checkout: Path, registry: FakeRegistry) -> None:
    """Without the variable REGISTRY first."""
    job = yaml.safe_load((EXAMPLES / "gitlab-ci.yml").read_text())["release"]
    assert job["before_script"] == [NOT_RUN]
    for script in job["script"]:
        done = shell(checkout, script, CI_COMMIT_TAG="v1.4.0")
        assert done.code == 0, script + "\n" + done.err
    assert not registry.calls
    login = {"CI_REGISTRY_USER": USER, "CI_REGISTRY_PASSWORD": PASSWORD}
    variables = {"CI_COMMIT_TAG": "v1.4.0", "REGISTRY": registry.address(""), **login}
    done = shell(checkout, job["script"][-1], **variables)
    assert done.code == 0, done.err
    assert "1.4.0" in registry.manifests
    for path in job["artifacts"]["paths"]:
        assert (checkout / path).is_file()


def test_the_makefile(checkout: Path, registry: FakeRegistry) -> None:
    if shutil.which("make") is None:
        pytest.skip("there is no program make")
    words = f"VERSION=1.5 REGISTRY={registry.address('')}"
    done = shell(checkout, f"make -f {EXAMPLES / 'Makefile'} release {words}", **LOGIN)
    assert done.code == 0, done.err
    assert "1.5" in registry.manifests
    assert (checkout / "dist" / "1.5" / "release.json").exists()


def test_the_script_of_the_page(checkout: Path) -> None:
    (script,) = re.findall(
        r"^```sh\n(set -e\n.*?)^```", PAGE.read_text().replace("--sign key.pem ", ""), re.M | re.S
    )
    done = shell(checkout, script)
    assert done.code == 0, done.err
