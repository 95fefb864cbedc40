"""What BASE of `bench --against` names: a directory, a key of the store, or a git revision."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from small_projects import TWO_MODELS, contents, publish_fake, store_of, write_project

from aoti_build.artifact.manifest import MODEL, Manifest
from aoti_build.artifact.paths import artifact_directory
from aoti_build.artifact.provenance import full_commit
from aoti_build.commands.bench.base import BasePackage, find_base
from aoti_build.commands.export import export
from aoti_build.errors import ArtifactError, UsageError
from aoti_build.models_file import Project


def git(root: Path, *words: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    answer = subprocess.run(
        ["git", *identity, *words], cwd=root, capture_output=True, text=True, check=True
    )
    return answer.stdout.strip()


def find(project: Project, base: str, directory: Path) -> BasePackage:
    directory.mkdir()
    return find_base(project, project.targets[0], base, directory)


def keep(project: Project, **changes: object) -> Manifest:
    """Publish an artifact and keep it in the store."""
    manifest = publish_fake(project, **changes)
    store_of(project).put(manifest, artifact_directory(project, project.targets[0]))
    return manifest


@pytest.mark.parametrize("place", ["artifacts", "out", "release"])
def test_a_directory(project: Project, tmp_path: Path, place: str) -> None:
    manifest = publish_fake(project)
    export(project, project.targets, str(project.root / "out"))
    export(project, project.targets, str(project.root / "release" / "models"))
    base = find(project, str(project.root / place), tmp_path / "base")
    assert base.key == manifest.key
    assert base.package_sha256 == manifest.files[MODEL].sha256
    assert base.size == manifest.files[MODEL].size
    copied = contents(base.artifacts / project.targets[0].name)
    assert copied == contents(project.root / "out" / project.targets[0].name)


def test_a_directory_without_the_target(project: Project, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="has no artifact of small/cpu"):
        find(project, str(tmp_path / "empty"), tmp_path / "base")


def test_a_damaged_package_is_not_measured(project: Project, tmp_path: Path) -> None:
    publish_fake(project)
    export(project, project.targets, str(tmp_path / "out"))
    (tmp_path / "out" / "small" / "cpu" / MODEL).write_bytes(b"exchanged")
    with pytest.raises(ArtifactError):
        find(project, str(tmp_path / "out"), tmp_path / "base")


def test_a_key_and_its_beginning(project: Project, tmp_path: Path) -> None:
    manifest = keep(project)
    for number, base in enumerate((manifest.key, manifest.key[:8])):
        found = find(project, base, tmp_path / f"base{number}")
        assert (found.name, found.key) == (base, manifest.key)
    with pytest.raises(UsageError, match="is no directory"):
        find(project, manifest.key[:7], tmp_path / "short")


def test_an_ambiguous_key(project: Project, tmp_path: Path) -> None:
    for end in "12":
        (project.root / "helper.py").write_text(end)
        keep(project, key="ab" * 31 + "0" + end)
    with pytest.raises(UsageError, match="is the beginning of 2 keys"):
        find(project, "ab" * 31, tmp_path / "base")


def test_lost_files_are_said(project: Project, tmp_path: Path) -> None:
    manifest = keep(project)
    store = store_of(project)
    store.remove(list(store.list_objects()))
    with pytest.raises((ArtifactError, UsageError)) as caught:
        find(project, manifest.key, tmp_path / "base")
    assert caught.value.hint


def test_a_revision_whose_manifest_is_committed(project: Project, tmp_path: Path) -> None:
    root = project.root
    git(root, "init", "--quiet")
    manifest = keep(project)
    git(root, "add", "--force", str(artifact_directory(project, project.targets[0])))
    git(root, "commit", "--quiet", "-m", "first")
    git(root, "tag", "v1")
    keep(project, key="c" * 64)
    assert find(project, "v1", tmp_path / "base").key == manifest.key


def test_a_revision_that_something_was_built_from(project: Project, tmp_path: Path) -> None:
    """What was built with local changes was not built from the commit."""
    root = project.root
    git(root, "init", "--quiet")
    git(root, "add", "models.yaml")
    git(root, "commit", "--quiet", "-m", "first")
    commit = full_commit(root, "HEAD")
    for key, is_dirty in (("a" * 64, True), ("b" * 64, False)):
        built = {"aoti_build": "0", "created": "2026-01-01T00:00:00+00:00"}
        keep(project, key=key, provenance={**built, "git_commit": commit, "git_dirty": is_dirty})
    assert find(project, "HEAD", tmp_path / "base").key == "b" * 64
    git(root, "commit", "--quiet", "--allow-empty", "-m", "second")
    with pytest.raises(UsageError, match="nothing is known of small/cpu at HEAD"):
        find(project, "HEAD", tmp_path / "other")


@pytest.mark.parametrize("base", ["v1", "--help", "-", "HEAD", "a" * 64, "x\0y", ""])
def test_what_is_none_of_them(project: Project, tmp_path: Path, base: str) -> None:
    publish_fake(project)
    with pytest.raises(UsageError, match="is no directory"):
        find(project, base, tmp_path / "base")


def test_other_targets_do_not_count(tmp_path: Path) -> None:
    project = write_project(tmp_path / "project", TWO_MODELS)
    second = project.targets[1]
    manifest = publish_fake(project, second)
    store_of(project).put(manifest, artifact_directory(project, second))
    with pytest.raises(UsageError, match="is no directory"):
        find(project, manifest.key, tmp_path / "base")
    only_second = replace(project, targets=(second,))
    assert find(only_second, manifest.key, tmp_path / "other").key == manifest.key
