"""Damage of an artifact's files is found and described in one way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from aoti_build.artifact.damage import compare_file, files_damage, manifest_damage
from aoti_build.artifact.manifest import MODEL, FileRecord, Manifest, NoManifest, read_manifest
from aoti_build.artifact.reasons import Reason, ReasonKind
from aoti_build.common.digests import digest_bytes
from aoti_build.common.stat_cache import StatCache
from aoti_build.models_file import Project


@pytest.mark.parametrize(
    ("spoil", "cause"),
    [
        (lambda path: None, None),
        (lambda path: path.unlink(), "it cannot be read: No such file or directory"),
        (lambda path: path.write_bytes(b"abcd"), "it has 4 bytes, and the manifest lists 3"),
        (lambda path: path.write_bytes(b"abd"), "its digest is not the one in the manifest"),
    ],
)
def test_a_file_is_compared_with_its_record(
    tmp_path: Path, spoil: Callable[[Path], object], cause: str | None
) -> None:
    path = tmp_path / "model.pt2"
    path.write_bytes(b"abc")
    record = FileRecord.of(path)
    spoil(path)
    damage = compare_file(path, record)
    assert (damage and damage.cause) == cause


@pytest.mark.parametrize(
    ("spoil", "cause", "actual"),
    [
        (
            lambda path, size: path.write_bytes(b"?" * size),
            "its digest is not the one in the manifest",
            lambda size: digest_bytes(b"?" * size),
        ),
        (
            lambda path, size: path.write_bytes(b"?" * (size + 1)),
            "it has {more} bytes, and the manifest lists {size}",
            lambda size: f"{size + 1} bytes",
        ),
        (lambda path, size: path.unlink(), "it is missing or cannot be read", lambda size: None),
    ],
    ids=["digest", "size", "missing"],
)
def test_the_reason_of_a_rebuild_has_what_was_recorded_and_what_is_there(
    project: Project,
    published: Path,
    spoil: Callable[[Path, int], object],
    cause: str,
    actual: Callable[[int], str | None],
) -> None:
    manifest = read_manifest(published)
    assert isinstance(manifest, Manifest)
    record = manifest.files[MODEL]
    spoil(published / MODEL, record.size)
    (damage,) = files_damage(published, manifest, StatCache(published / "digests.json"))
    assert damage.message == f"{MODEL} does not match the manifest"
    assert damage.cause == cause.format(size=record.size, more=record.size + 1)
    assert damage.reason() == Reason(
        ReasonKind.ARTIFACT_DAMAGED, MODEL, record.sha256, actual(record.size)
    )


def test_a_file_that_cannot_be_read_has_no_size_to_blame(
    project: Project, published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = read_manifest(published)
    assert isinstance(manifest, Manifest)
    digests = StatCache(published / "digests.json")
    monkeypatch.setattr(digests, "digest", lambda path, size=None: None)
    for damage in files_damage(published, manifest, digests):
        assert damage.cause == "it is missing or cannot be read"
        assert damage.reason().new is None


def test_an_error_says_what_where_why_and_what_next() -> None:
    damage = manifest_damage(NoManifest(damaged=True, why="no manifest.json"), "small/cpu")
    assert damage is not None
    error = damage.error("small/cpu", "artifacts/small/cpu")
    assert error.message == "the artifact is damaged: no manifest.json"
    assert (error.target, error.where) == ("small/cpu", "artifacts/small/cpu")
    assert "invoke build --target small/cpu" in str(error.hint)
