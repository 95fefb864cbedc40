"""--root, --artifacts and the configured models.yaml, through invoke; where artifacts are made."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from small_projects import FakeWorker, contents, inv, publish_fake, write_project

import aoti_build
from aoti_build.commands.clean import clean
from aoti_build.commands.export import export
from aoti_build.commands.inspect.command import inspect
from aoti_build.commands.status import status
from aoti_build.models_file import Project, load_project

CONFIGURED = """\
from aoti_build.tasks import ns

ns.configure({"aoti_build": {"file": "deploy/models.yaml"}})
"""


@pytest.fixture
def deployed(tmp_path: Path) -> Project:
    """A project whose models.yaml is in deploy/, with a published artifact."""
    project = write_project(tmp_path / "project")
    deploy = project.root / "deploy"
    deploy.mkdir()
    text = project.file.read_text().replace("version: 1\n", "version: 1\nroot: ..\n")
    project.file.unlink()
    (deploy / "models.yaml").write_text(text)
    (project.root / "tasks.py").write_text(CONFIGURED)
    project = load_project(deploy / "models.yaml")
    publish_fake(project)
    return project


def states(*words: str, cwd: Path) -> dict[str, str]:
    answer = inv("status", "--json", *words, cwd=cwd)
    assert answer.returncode == 0, answer.stderr
    return {row["target"]: row["state"] for row in json.loads(answer.stdout)["targets"]}


def test_the_configured_file_is_found_from_every_directory(deployed: Project) -> None:
    for directory in (deployed.root, deployed.root / "deploy"):
        assert states(cwd=directory) == {"small/cpu": "up-to-date"}


def test_an_option_comes_before_the_configuration(deployed: Project) -> None:
    (deployed.root / "tasks.py").write_text(CONFIGURED.replace("deploy/", "absent/"))
    answer = inv("status", cwd=deployed.root)
    assert answer.returncode == 2
    assert "absent/models.yaml" in answer.stderr
    assert states("--file", "deploy/models.yaml", cwd=deployed.root) == {"small/cpu": "up-to-date"}


def test_a_wrong_configuration_says_what_to_write(deployed: Project) -> None:
    text = CONFIGURED.replace('"deploy/models.yaml"', "3")
    (deployed.root / "tasks.py").write_text(text)
    answer = inv("status", cwd=deployed.root)
    assert answer.returncode == 2
    assert 'ns.configure({"aoti_build": {"file": "deploy/models.yaml"}})' in answer.stderr


def test_root_and_artifacts_can_be_given(deployed: Project) -> None:
    text = deployed.file.read_text().replace("root: ..\n", "")
    deployed.file.write_text(text)
    deployed.artifacts.rename(deployed.root / "elsewhere")
    words = ("--root", ".", "--artifacts", "elsewhere")
    assert states(*words, cwd=deployed.root) == {"small/cpu": "up-to-date"}
    assert states(*words[2:], cwd=deployed.root) == {"small/cpu": "build"}
    for wrong in (("--root", "absent"), ("--artifacts", "deploy/..")):
        answer = inv("status", *wrong, cwd=deployed.root)
        assert answer.returncode == 2
        assert wrong[0] in answer.stderr or "directory of artifacts" in answer.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("build", "--dry-run"),
        ("why",),
        ("inspect",),
        ("clean", "--dry-run"),
        ("gc", "--max-size", "1g", "--dry-run"),
        ("doctor", "--quick"),
    ],
)
def test_every_task_follows(deployed: Project, words: tuple[str, ...]) -> None:
    """A task that looked next to models.yaml would make a directory there, or find nothing."""
    deployed.artifacts.rename(deployed.root / "elsewhere")
    answer = inv(*words, "--artifacts", "elsewhere", "--json", cwd=deployed.root)
    document = json.loads(answer.stdout)
    assert "no-artifact" not in answer.stdout
    if words[0] == "doctor":
        said = [row["said"] for row in document["checks"] if row["check"] == "artifacts"]
        assert any(str(deployed.root / "elsewhere") in text for text in said), said
    if words[0] == "clean":
        assert "elsewhere/small/cpu" in document["removed"]
    assert not (deployed.root / "artifacts").exists()
    assert not (deployed.root / "deploy" / "artifacts").exists()


@pytest.mark.usefixtures("fake_worker")
def test_artifacts_outside_of_the_root_are_named_by_their_whole_paths(
    deployed: Project, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    deployed.artifacts.rename(outside)
    project = load_project(deployed.file, artifacts=outside)
    package = str(outside / "small" / "cpu" / "model.pt2")
    reports = (
        aoti_build.status(project),
        aoti_build.build(project),
        aoti_build.verify(project),
        inspect(project, project.targets),
    )
    for report in reports:
        document = report.as_json()
        (row,) = document.get("targets") or document["artifacts"]
        assert row["path"] == package
    Path(package).rename(tmp_path / "elsewhere")
    Path(package).symlink_to(tmp_path / "elsewhere")
    exported = export(project, project.targets, str(tmp_path / "release"))
    assert package in str(exported.as_json())


def test_an_artifact_of_another_models_yaml_in_the_repository_is_no_orphan(
    deployed: Project,
) -> None:
    other = deployed.root / "other" / "models.yaml"
    other.parent.mkdir()
    other.write_text(deployed.file.read_text().replace("small:", "second:"))
    assert status(load_project(other)).orphans == ()
    deployed.file.unlink()
    assert status(load_project(other)).orphans == ("small/cpu",)


@pytest.mark.usefixtures("fake_worker")
def test_git_does_not_see_what_build_makes(project: Project) -> None:
    assert not project.artifacts.exists()
    assert aoti_build.build(project).exit_code == 0
    subprocess.run(["git", "init", "-q", "."], cwd=project.root, check=True)
    listed = subprocess.run(
        ["git", "status", "--porcelain", "--untracked-files=all"],
        cwd=project.root,
        check=True,
        capture_output=True,
        text=True,
    )
    assert "artifacts" not in listed.stdout
    assert "models.yaml" in listed.stdout
    report = status(project)
    assert (report.orphans, report.plan.steps[0].action) == ((), "up-to-date")
    removed = clean(project, None)
    assert ".gitignore" not in " ".join(removed.removed)


def test_a_directory_of_artifacts_that_exists_is_left_as_it_is(
    project: Project, fake_worker: FakeWorker
) -> None:
    project.artifacts.mkdir()
    assert aoti_build.build(project).exit_code == 0
    assert fake_worker.calls
    assert ".gitignore" not in contents(project.artifacts)


def test_reading_makes_no_directory(project: Project) -> None:
    for words in (("status",), ("build", "--dry-run"), ("inspect",), ("why",)):
        inv(*words, cwd=project.root)
    assert not project.artifacts.exists()
