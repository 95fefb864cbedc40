"""The Python API: reports instead of output, errors of one hierarchy, and a light import."""

from __future__ import annotations

import inspect
import re
import subprocess
from pathlib import Path

import pytest
from signers import write_private
from small_projects import REAL_PYTHON, TWO_MODELS, FakeWorker, publish_fake, write_project

import aoti_build
from aoti_build import api
from aoti_build.errors import AotiBuildError, SpecError, UsageError
from aoti_build.models_file import Project

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "python-api.md"


def test_the_functions_are_those_of_the_package() -> None:
    for name in api.__all__:
        assert getattr(aoti_build, name) is getattr(api, name)
        assert name in dir(aoti_build)
        assert inspect.getdoc(getattr(aoti_build, name))
    with pytest.raises(AttributeError, match="biuld"):
        _ = aoti_build.biuld


def test_the_package_imports_neither_of_its_two_sides() -> None:
    script = (
        "import sys, aoti_build;"
        "assert not [name for name in sys.modules if name.startswith('aoti_build.')];"
        "aoti_build.load_project;"
        "assert 'aoti_build.runtime' not in sys.modules and 'yaml' not in sys.modules;"
        "assert 'aoti_build.commands' not in sys.modules and 'torch' not in sys.modules"
    )
    subprocess.run([REAL_PYTHON, "-c", script], check=True, timeout=60)


def test_a_service_does_not_import_the_side_for_scripts() -> None:
    script = "import sys, aoti_build; aoti_build.load; assert 'aoti_build.api' not in sys.modules"
    subprocess.run([REAL_PYTHON, "-c", script], check=True, timeout=60)


def test_build_returns_a_report_and_prints_nothing(
    tmp_path: Path, fake_worker: FakeWorker, capfd: pytest.CaptureFixture[str]
) -> None:
    project = write_project(tmp_path, TWO_MODELS)
    phases: list[str] = []
    report = aoti_build.build(
        project.file, "first", on_progress=lambda target, phase: phases.append(target.name)
    )
    assert report.exit_code == 0
    assert [row["target"] for row in report.as_json()["targets"]] == ["first/cpu"]
    assert set(phases) == {"first/cpu"}
    assert aoti_build.verify(project, ["first/cpu"]).exit_code == 0
    assert aoti_build.run(project, ["first/*"]).exit_code == 0
    states = {
        row["target"]: row["state"] for row in aoti_build.status(project).as_json()["targets"]
    }
    assert states == {"first/cpu": "up-to-date", "second/cpu": "build"}
    assert fake_worker.calls
    assert capfd.readouterr() == ("", "")


def test_a_build_that_fails_is_a_report_and_a_mistake_is_an_error(
    project: Project, fake_worker: FakeWorker
) -> None:
    fake_worker.answers["build"] = UsageError("the factory raised")
    report = aoti_build.build(project)
    assert (report.exit_code, report.outcomes[0].error is None) == (2, False)
    for call in (
        lambda: aoti_build.build(project, "absent"),
        lambda: aoti_build.build(project, []),
        lambda: aoti_build.verify(project, runtime="java"),
        lambda: aoti_build.status(project.root / "absent.yaml"),
        lambda: aoti_build.run(project, inputs=["absent.npz"]),
    ):
        with pytest.raises(UsageError):
            call()
    (project.root / "model.py").unlink()
    with pytest.raises(AotiBuildError, match=r"models\.yaml:4"):
        aoti_build.build(project)
    project.file.write_text("version: 1\n")
    with pytest.raises(SpecError):
        aoti_build.load_project(project.file)


def test_the_current_directory_has_the_default_models_yaml(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_fake(project)
    monkeypatch.chdir(project.root)
    assert aoti_build.load_project().root == project.root
    assert aoti_build.load_project(artifacts="out").main_artifacts == project.root / "out"
    assert aoti_build.status().plan.steps[0].action == "up-to-date"


def test_the_examples_of_the_documentation_run(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    assert len(blocks) >= 3
    text = TWO_MODELS.replace("first", "encoder").replace("second", "ranker")
    project = write_project(tmp_path / "project", text)
    for target in project.targets:
        publish_fake(project, target)
    write_private(project.root / "key.pem")
    # The fakes cannot be run, so commands that run them report a failure and go on.
    for number, block in enumerate(blocks):
        script = tmp_path / f"example{number}.py"
        script.write_text(block)
        answer = subprocess.run(
            [REAL_PYTHON, str(script)],
            cwd=project.root,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert "Traceback" not in answer.stderr, block + answer.stderr
