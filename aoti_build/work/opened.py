"""An artifact opened once, for everything that a verb does with it.

A verb loads a package several times, seconds after it was checked. Whoever exchanges files
meanwhile must neither get them executed nor get the verdict of the earlier ones. So the directory
is opened once, what the manifest lists is copied from it into a private directory, and the copies
are digested. Workers are given the copies and nothing else: no path into the published directory
ever reaches a loader.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

from aoti_build.artifact.damage import (
    manifest_damage,
    open_recorded,
    read_damage,
    require_digest,
)
from aoti_build.artifact.manifest import (
    MANIFEST,
    FileRecord,
    Manifest,
    NoManifest,
    read_manifest,
)
from aoti_build.artifact.paths import artifact_directory
from aoti_build.common.extents import clone
from aoti_build.common.stat_cache import stat_key
from aoti_build.common.writing import write_at
from aoti_build.errors import ArtifactError, ToolchainError, VerificationError
from aoti_build.host import compatibility
from aoti_build.models_file.project import Project, Target
from aoti_build.work.worker import check_stopping


class ArchitectureMissing(ArtifactError):
    """The artifact is sound and for an architecture that models.yaml names, which this host is
    below."""


class OpenArtifact(NamedTuple):
    """A published artifact whose bytes cannot change any more.

    `directory` is where it was found; `place` the directory that was opened, whatever has its name
    now; `files` a private directory with copies of what the manifest lists; `seen` the stat of each
    published file when it was copied."""

    directory: Path
    place: Path
    files: Path
    manifest: Manifest
    seen: Mapping[str, list[int] | None]

    def is_still_published(self) -> bool:
        """Whether the files in its directory are the ones that were opened: what was found out is
        of what is there now. What its manifest says of its check may have been renewed."""
        found = read_manifest(self.directory)
        if isinstance(found, NoManifest) or found.files != self.manifest.files:
            return False
        return all(self._is_as_copied(name, record) for name, record in self.manifest.files.items())

    def _is_as_copied(self, name: str, record: FileRecord) -> bool:
        path = self.directory / name
        with contextlib.suppress(OSError):
            return stat_key(path) == self.seen[name] or record.matches(path)
        return False


@contextlib.contextmanager
def open_artifact(project: Project, target: Target) -> Iterator[OpenArtifact]:
    """The target's artifact, whole and private until the context ends. Whether this host can run it
    was not asked.

    Raises:
        VerificationError: there is no artifact.
        ArtifactError: it is damaged, or not what its manifest says.
        ToolchainError: there is no room for copies.
        Interrupted: on Ctrl-C, while files are copied.
    """
    directory = artifact_directory(project, target)
    with contextlib.ExitStack() as opened:
        descriptor = _open_directory(project, target, directory)
        opened.callback(os.close, descriptor)
        place = Path(f"/proc/self/fd/{descriptor}")
        manifest = _manifest(project, target, directory, place)
        with _room_needed():
            files = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="aoti_build-")))
        seen = {}
        for name, record in manifest.files.items():
            try:
                seen[name] = _copied(place / name, files / name, record)
            except OSError as error:
                where = _shown(project, directory / name)
                raise read_damage(name, error).error(target.name, where) from error
        yield OpenArtifact(directory, place, files, manifest, seen)


@contextlib.contextmanager
def fit_artifact(project: Project, target: Target) -> Iterator[OpenArtifact]:
    """As `open_artifact`, once it is certain that loading the artifact is safe on this host. Raises
    `ArtifactError` for an unfit host as well; `ArchitectureMissing` where nothing but the declared
    architecture is in the way."""
    with open_artifact(project, target) as artifact:
        manifest = artifact.manifest
        if lacks := compatibility.lacking(manifest.requires):
            declared = (
                manifest.architecture is not None
                and lacks == compatibility.lacking_architecture(manifest.requires)
            )
            raise (ArchitectureMissing if declared else ArtifactError)(
                "the artifact cannot run on this host",
                target=target.name,
                cause="\n".join(lacks),
                hint=(
                    "take it to a host that has it"
                    if declared
                    else "build it here, or for a portable architecture such as `cpu: {isa: avx2}`"
                ),
            )
        yield artifact


def _open_directory(project: Project, target: Target, directory: Path) -> int:
    try:
        return os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        raise _none_there(target) from None
    except OSError as error:
        where = _shown(project, directory)
        raise ArtifactError(
            "the artifact cannot be read",
            target=target.name,
            where=where,
            cause=error.strerror,
            hint="look at its permissions",
        ) from error


def _manifest(project: Project, target: Target, directory: Path, place: Path) -> Manifest:
    manifest = read_manifest(place)
    if isinstance(manifest, NoManifest):
        if not manifest.damaged:
            raise _none_there(target)
        # The manifest was read through the opened directory's descriptor.
        why = manifest.why.replace(str(place), _shown(project, directory))
        manifest = NoManifest(damaged=True, why=why)
    damage = manifest_damage(manifest, target.name)
    if damage is not None:
        raise damage.error(target.name, _shown(project, directory / MANIFEST))
    assert isinstance(manifest, Manifest)
    return manifest


def _none_there(target: Target) -> VerificationError:
    hint = f"build it first: invoke build --target {target.name}"
    return VerificationError("there is no artifact", target=target.name, hint=hint)


def _copied(source: Path, copy: Path, record: FileRecord) -> list[int] | None:
    """Copy a file, and compare what was copied with its record: nobody else can write to that.
    Returns the stat that the file had before. Raises OSError if it is not as recorded,
    `ToolchainError` if the copy cannot be written."""
    descriptor = open_recorded(source, record.size)
    try:
        opened = Path(f"/proc/self/fd/{descriptor}")
        seen = stat_key(opened)
        with _room_needed():
            written = os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            shared = clone(descriptor, written)
            found = record.copied(
                copy if shared else opened, partial(_write, None if shared else written)
            )
        finally:
            os.close(written)
    finally:
        os.close(descriptor)
    require_digest(found, record)
    return seen


def _write(destination: int | None, piece: memoryview, offset: int) -> None:
    check_stopping()
    if destination is not None:
        with _room_needed():
            write_at(destination, piece, offset)


@contextlib.contextmanager
def _room_needed() -> Iterator[None]:
    """Where the system refuses a copy it is the environment's fault, not the artifact's."""
    try:
        yield
    except OSError as error:
        raise ToolchainError(
            "there is no place for a private copy of the artifact, which it is loaded from",
            cause=str(error),
            hint="make room in the directory for temporary files, or let TMPDIR name another",
        ) from error


def _shown(project: Project, path: Path) -> str:
    return path.relative_to(project.root).as_posix()
