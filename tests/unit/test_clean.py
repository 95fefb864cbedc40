"""`clean` removes artifacts and working state, and nothing of the user's."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from small_projects import TWO_MODELS, FakeWorker, action_of, contents, publish_fake, write_project

from aoti_build.artifact.manifest import MODEL, REFERENCE_DATA
from aoti_build.commands.build import build
from aoti_build.commands.clean import clean
from aoti_build.commands.status import status
from aoti_build.models_file import Project, load_project

ORPHAN = "gone/cpu"


@pytest.fixture
def full(tmp_path: Path) -> Project:
    """Two artifacts, an orphan, working state, and files of the user's in between."""
    gone = write_project(tmp_path, TWO_MODELS.replace("second:", "gone:"))
    publish_fake(gone, gone.targets[1])
    project = write_project(tmp_path, TWO_MODELS)
    for target in project.targets:
        publish_fake(project, target)
    for name in (
        ".gitignore",
        "notes.txt",
        "mine/cpu/data.bin",
        ".staging/first@cpu@x/file",
        ".logs/first@cpu@build.log",
    ):
        (project.artifacts / name).parent.mkdir(parents=True, exist_ok=True)
        (project.artifacts / name).write_text("12345")
    return project


def test_everything_goes_but_what_is_not_ours(full: Project) -> None:
    report = clean(full, None)
    assert contents(full.artifacts).keys() - locks(full) == {
        ".gitignore",
        "notes.txt",
        "mine/cpu/data.bin",
    }
    assert {"artifacts/first/cpu", "artifacts/second/cpu", "artifacts/gone/cpu"} <= {
        *report.removed
    }
    assert report.bytes > 0
    assert (full.root / "model.py").exists()


def test_a_chosen_target(full: Project) -> None:
    before = contents(full.artifacts).keys()
    report = clean(full, full.targets[:1])
    gone = before - contents(full.artifacts).keys()
    assert {name.rpartition("/")[0] for name in gone} == {
        "first/cpu",
        ".logs",
        ".staging/first@cpu@x",
    }
    assert sorted(report.removed) == [
        "artifacts/.logs/first@cpu@build.log",
        "artifacts/.staging/first@cpu@x",
        "artifacts/first/cpu",
    ]
    assert not (full.artifacts / "first").exists()


def test_artifacts_of_another_models_file_are_no_orphans_while_it_exists(full: Project) -> None:
    other = full.root / "other.yaml"
    other.write_text((full.root / "models.yaml").read_text().replace("first:", "theirs:"))
    theirs = load_project(other)
    for target in theirs.targets:
        publish_fake(theirs, target)
    names = {target.name for target in theirs.targets} - {target.name for target in full.targets}
    assert names
    assert not names & set(status(full).orphans)
    other.unlink()
    assert names <= set(status(full).orphans)


def test_only_orphans(full: Project) -> None:
    report = clean(full, None, orphans_only=True)
    assert report.removed == (f"artifacts/{ORPHAN}",)
    assert not (full.artifacts / "gone").exists()
    assert status(full).orphans == ()
    assert [step.action for step in status(full).plan.steps] == ["up-to-date", "up-to-date"]


def test_a_dry_run_tells_the_same_and_removes_nothing(full: Project) -> None:
    before = contents(full.root)
    told = clean(full, None, dry_run=True)
    assert contents(full.root) == before
    done = clean(full, None)
    assert (told.removed, told.bytes) == (done.removed, done.bytes)
    assert told.dry_run
    assert not done.dry_run


def test_nothing_there_is_fine(project: Project) -> None:
    report = clean(project, None)
    assert (report.removed, report.bytes) == ((), 0)
    assert contents(project.root).keys() == {
        "models.yaml",
        "tasks.py",
        "model.py",
        "helper.py",
        "weights.safetensors",
    }


def test_cleaned_is_not_built_yet(full: Project) -> None:
    clean(full, None)
    assert [step.action for step in status(full).plan.steps] == ["build", "build"]


def test_what_status_calls_an_orphan(full: Project) -> None:
    assert status(full).orphans == (ORPHAN,)


def test_the_report_as_json(full: Project) -> None:
    document = clean(full, None, dry_run=True).as_json()
    assert (document["format"], document["format_version"], document["ok"]) == (
        "aoti-build/clean",
        1,
        True,
    )
    assert document["dry_run"] is True
    assert f"artifacts/{ORPHAN}" in document["removed"]


def test_it_waits_for_a_build_and_takes_nothing_from_under_it(
    project: Project, fake_worker: FakeWorker
) -> None:
    staged: list[dict[str, bytes]] = []
    cleaning = threading.Thread(target=lambda: clean(project, None))

    def during(job_name: str, job: Any) -> None:
        if job_name == "check":
            cleaning.start()
            cleaning.join(0.3)
            staged.append(contents(Path(job.model).parent))

    fake_worker.during = during
    report = build(project, project.targets)
    cleaning.join(30)
    assert not cleaning.is_alive()
    assert [outcome.error for outcome in report.outcomes] == [None]
    assert staged[0].keys() >= {MODEL, REFERENCE_DATA}
    assert action_of(project) in ("restore", "up-to-date")
    assert list((project.artifacts / ".staging").iterdir()) == []


def locks(project: Project) -> set[str]:
    return {name for name in contents(project.artifacts) if name.startswith(".locks/")}
