"""`export`: whole or not at all, only what is fit, and what `sha256sum -c` and `load` accept."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
from packages import publish_package
from small_projects import TWO_MODELS, contents, inv, publish_fake, write_project

from aoti_build.artifact.manifest import read_manifest
from aoti_build.artifact.paths import artifact_directory
from aoti_build.commands import export as command
from aoti_build.commands.export import export
from aoti_build.errors import Interrupted, ToolchainError, UsageError
from aoti_build.models_file import Project
from aoti_build.runtime.choose import explain
from aoti_build.work import opened


@pytest.fixture
def two(tmp_path: Path) -> Project:
    """Two targets, both up to date."""
    project = write_project(tmp_path / "project", TWO_MODELS)
    for target in project.targets:
        publish_fake(project, target)
    return project


def test_sha256sum_accepts_what_was_exported(two: Project) -> None:
    answer = inv("export", "out", "--json", cwd=two.root)
    assert answer.returncode == 0, answer.stderr
    out = two.root / "out"
    summed = subprocess.run(
        ["sha256sum", "-c", "--strict", "SHA256SUMS"],
        cwd=out,
        capture_output=True,
        text=True,
        check=True,
    )
    names = {line.partition(":")[0] for line in summed.stdout.splitlines()}
    assert names == set(contents(out)) - {"SHA256SUMS"}
    assert names == {
        f"{model}/cpu/{file}"
        for model in ("first", "second")
        for file in ("model.pt2", "manifest.json", "reference.safetensors")
    }
    for row in json.loads(answer.stdout)["artifacts"]:
        assert (out / row["path"]).stat().st_size == row["size"]
        assert f"{row['sha256']}  {row['path']}\n" in (out / "SHA256SUMS").read_text()


def test_the_files_are_those_of_the_artifacts(two: Project) -> None:
    export(two, two.targets, str(two.root / "out"))
    for target in two.targets:
        published = contents(artifact_directory(two, target))
        copied = contents(two.root / "out" / target.name)
        assert copied == published


def test_only_the_chosen_artifacts(two: Project) -> None:
    answer = inv("export", "deep/out", "--target", "second", cwd=two.root)
    assert answer.returncode == 0, answer.stderr
    assert os.listdir(two.root / "deep" / "out" / "second") == ["cpu"]
    assert not (two.root / "deep" / "out" / "first").exists()


def test_the_loader_finds_what_was_exported(project: Project) -> None:
    publish_package(project)
    export(project, project.targets, str(project.root / "out"))
    choice = explain("small", artifacts=project.root / "out")
    assert choice.as_json() == explain("small", artifacts=project.artifacts).as_json()
    assert choice.as_json()


def test_others_can_read_it(two: Project) -> None:
    out = two.root / "out"
    export(two, two.targets, str(out))
    umask = os.umask(0)
    os.umask(umask)
    for path in (out, *out.rglob("*")):
        wanted = 0o777 if path.is_dir() else 0o666
        assert stat.S_IMODE(path.stat().st_mode) == wanted & ~umask, path


def test_an_empty_directory_is_used_and_another_one_is_not(two: Project) -> None:
    (two.root / "empty").mkdir()
    assert inv("export", "empty", cwd=two.root).returncode == 0
    before = contents(two.root / "empty")
    answer = inv("export", "empty", cwd=two.root)
    assert answer.returncode == 2
    assert "empty is not empty" in answer.stderr
    assert contents(two.root / "empty") == before


def test_no_link_is_followed(two: Project) -> None:
    (two.root / "elsewhere").mkdir()
    (two.root / "link").symlink_to("elsewhere")
    with pytest.raises(UsageError, match="a file or a link"):
        export(two, two.targets, str(two.root / "link"))
    package = artifact_directory(two, two.targets[0]) / "model.pt2"
    package.rename(two.root / "moved.pt2")
    package.symlink_to(two.root / "moved.pt2")
    report = export(two, two.targets, str(two.root / "out"))
    assert (report.exit_code, (two.root / "out").exists()) == (4, False)
    assert "is a link" in str(report.error)


def test_one_unfit_artifact_keeps_all_from_being_exported(two: Project) -> None:
    (artifact_directory(two, two.targets[1]) / "reference.safetensors").write_bytes(b"?")
    answer = inv("export", "out", "--json", cwd=two.root)
    first, second = json.loads(answer.stdout)["artifacts"]
    assert (answer.returncode, first["error"], first["path"]) == (4, None, None)
    assert second["error"]["kind"] == "artifact"
    assert "invoke build --target second/cpu" in answer.stderr
    assert not (two.root / "out").exists()
    assert [path.name for path in two.root.iterdir() if path.name.startswith(".out")] == []


def test_an_artifact_that_was_never_compared_is_refused(project: Project) -> None:
    tolerance = read_manifest_check(project)
    publish_fake(project, check={"passed": None, "why": "no avx512f", "tolerance": tolerance})
    report = export(project, project.targets, str(project.root / "out"))
    assert report.exit_code == 3
    assert "never compared with eager mode" in str(report.error)
    assert "verify --target small/cpu" in str(report.error)


def read_manifest_check(project: Project) -> Any:
    return publish_fake(project).check["tolerance"]


def test_a_file_that_changes_after_the_plan_is_not_exported(
    two: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is digested is what is written: the plan's digests decide nothing."""
    real = command.plan

    def plan(*words: Any, **options: Any) -> Any:
        made = real(*words, **options)
        path = artifact_directory(two, two.targets[0]) / "model.pt2"
        path.write_bytes(path.read_bytes()[::-1])
        return made

    monkeypatch.setattr(command, "plan", plan)
    report = export(two, two.targets, str(two.root / "out"))
    assert (report.exit_code, (two.root / "out").exists()) == (4, False)


def test_an_artifact_that_was_replaced_after_the_plan_is_not_exported(
    two: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = command.plan

    def plan(*words: Any, **options: Any) -> Any:
        made = real(*words, **options)
        publish_fake(two, two.targets[0], key="f" * 64)
        return made

    monkeypatch.setattr(command, "plan", plan)
    report = export(two, two.targets, str(two.root / "out"))
    assert (report.exit_code, (two.root / "out").exists()) == (3, False)
    assert "another artifact took its place" in str(report.error)


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (OSError(28, "No space left on device"), ToolchainError),
        (Interrupted("interrupted"), Interrupted),
    ],
    ids=["full", "interrupted"],
)
def test_nothing_is_left_of_an_export_that_failed(
    two: Project, monkeypatch: pytest.MonkeyPatch, raised: Exception, expected: type[Exception]
) -> None:
    calls = []

    def write(*_: Any) -> None:
        calls.append(1)
        if len(calls) > 2:  # in the second artifact
            raise raised

    before = set(os.listdir(two.root))
    monkeypatch.setattr(opened, "clone", lambda *_: False)
    monkeypatch.setattr(opened, "write_at", write)
    with pytest.raises(expected):
        export(two, two.targets, str(two.root / "out"))
    assert set(os.listdir(two.root)) == before


def test_a_directory_that_appears_during_the_export_stays(
    two: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = command.copy_artifact
    out = two.root / "out"

    def copy(*words: Any) -> Any:
        out.mkdir(exist_ok=True)
        (out / "theirs").write_text("")
        return real(*words)

    monkeypatch.setattr(command, "copy_artifact", copy)
    with pytest.raises(UsageError, match="cannot be written"):
        export(two, two.targets, str(out))
    assert contents(out) == {"theirs": b""}


def test_the_manifest_is_that_of_the_artifact(two: Project) -> None:
    export(two, two.targets, str(two.root / "out"))
    target = two.targets[0]
    assert read_manifest(two.root / "out" / target.name) == read_manifest(
        artifact_directory(two, target)
    )
