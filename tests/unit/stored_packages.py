"""Artifacts whose package is a real zip of stored members, like a `.pt2`, without anything in it that could run."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

from small_projects import publish_fake, write_project

from aoti_build.digests import digest_file
from aoti_build.layout import artifact_directory
from aoti_build.manifest import GOLDEN, MODEL, FileRecord, Manifest

MEMBERS = {
    "model/data/aotinductor/model/code.wrapper.so": b"not really code" * 1000,
    "model/data/aotinductor/model/code.wrapper_weights.blob": bytes(range(256)) * 40_000,  # more than two blocks
    "model/data/aotinductor/model/empty.json": b"",
    "model/archive_format": b"pt2",
}


def publish_package(root: Path, members: dict[str, bytes] = MEMBERS, **changes: Any) -> tuple[Path, Manifest]:
    """An artifact of the project in `root` with such a package; its directory, and its manifest."""
    project = write_project(root)
    publish_fake(project)
    directory = artifact_directory(project, project.targets[0])
    write_package(directory / MODEL, members)
    files = {
        name: FileRecord(digest_file(directory / name), (directory / name).stat().st_size) for name in (MODEL, GOLDEN)
    }
    return directory, publish_fake_files(project, files, **changes)


def publish_fake_files(project: Any, files: dict[str, FileRecord], **changes: Any) -> Manifest:
    directory = artifact_directory(project, project.targets[0])
    package = (directory / MODEL).read_bytes()
    manifest = publish_fake(project, files=files, **changes)
    (directory / MODEL).write_bytes(package)
    return manifest


def write_package(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
