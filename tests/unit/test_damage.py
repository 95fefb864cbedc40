"""Damage of an artifact's files is found and described in one way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from aoti_build.artifact.damage import compare_file, manifest_damage
from aoti_build.artifact.manifest import FileRecord, NoManifest


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


def test_an_error_says_what_where_why_and_what_next() -> None:
    damage = manifest_damage(NoManifest(damaged=True, why="no manifest.json"), "small/cpu")
    assert damage is not None
    error = damage.error("small/cpu", "artifacts/small/cpu")
    assert error.message == "the artifact is damaged: no manifest.json"
    assert (error.target, error.where) == ("small/cpu", "artifacts/small/cpu")
    assert "invoke build --target small/cpu" in str(error.hint)
