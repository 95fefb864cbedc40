"""Private copies of an artifact, for everything that a command does with it.

A command loads a package several times, seconds after it was checked. If another process exchanges
files in that time, they must not be executed, and they must not get the verdict of the old ones.

So the directory is opened once. The files that the manifest lists are copied from it into a private
directory, and the copies are digested. Workers get only the copies. No path into the published
directory reaches a loader.
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
from aoti_build.common.directories import temporary_directory
from aoti_build.common.extents import clone
from aoti_build.common.stat_cache import stat_key
from aoti_build.common.writing import write_at
from aoti_build.errors import ArtifactError, ToolchainError, VerificationError
from aoti_build.host import compatibility
from aoti_build.models_file.project import Project, Target
from aoti_build.work.processes import check_stopping


class ArchitectureMissing(ArtifactError):
    """The artifact is undamaged, but this host lacks the architecture that models.yaml names."""


class OpenArtifact(NamedTuple):
    """A published artifact with private copies of its files.

    `directory` is the path of the published artifact. `opened` leads to the directory that was
    opened, even if another one has its path now. `files` is the private directory with the copies.
    `stat_keys` tell whether a published file has changed since it was copied.
    """

    directory: Path
    opened: Path
    files: Path
    manifest: Manifest
    stat_keys: Mapping[str, list[int] | None]

    def is_still_published(self) -> bool:
        """Whether the published files are the ones that were copied.

        The record of the check may differ, because another `verify` can renew it.
        """
        current = read_manifest(self.directory)
        if isinstance(current, NoManifest) or current.files != self.manifest.files:
            return False
        files = self.manifest.files.items()
        return all(self._is_unchanged(name, record) for name, record in files)

    def _is_unchanged(self, name: str, record: FileRecord) -> bool:
        path = self.directory / name
        try:
            # An equal file may have replaced it, so the digest decides.
            return stat_key(path) == self.stat_keys[name] or record.matches(path)
        except OSError:
            return False


@contextlib.contextmanager
def open_artifact(project: Project, target: Target) -> Iterator[OpenArtifact]:
    """Copy the target's artifact. The copies are removed when the context ends.

    It is not checked whether this host can run the artifact; see `fit_artifact`.

    Raises:
        VerificationError: there is no artifact.
        ArtifactError: it is damaged, or not what its manifest says.
        ToolchainError: there is no room for copies, or the temporary directory is unfit.
        Interrupted: on Ctrl-C, while files are copied.
    """
    with contextlib.ExitStack() as resources:
        opened, manifest = resources.enter_context(_opened(project, target))
        temporary = temporary_directory()
        with _room_needed():
            copies = tempfile.TemporaryDirectory(dir=temporary, prefix="aoti_build-")
            files = Path(resources.enter_context(copies))
        directory = artifact_directory(project, target)
        stat_keys = _copy_files(manifest, opened, files, _shown(project, directory))
        yield OpenArtifact(directory, opened, files, manifest, stat_keys)


@contextlib.contextmanager
def copied_artifact(directory: Path, opened: Path, manifest: Manifest) -> Iterator[OpenArtifact]:
    """Copy an artifact whose directory is `opened` and whose manifest was read already.

    `directory` is the path that errors name. The copies are removed when the context ends. Raises
    as `open_artifact`, for all but a missing artifact.
    """
    temporary = temporary_directory()
    with contextlib.ExitStack() as resources:
        with _room_needed():
            copies = tempfile.TemporaryDirectory(dir=temporary, prefix="aoti_build-")
            files = Path(resources.enter_context(copies))
        stat_keys = _copy_files(manifest, opened, files, str(directory))
        yield OpenArtifact(directory, opened, files, manifest, stat_keys)


def copy_artifact(project: Project, target: Target, destination: Path) -> Manifest:
    """Copy the target's artifact to the empty directory `destination`, and return its manifest.

    The bytes that are written are those that were digested. Raises as `open_artifact`.
    """
    with _opened(project, target) as (opened, manifest):
        shown = _shown(project, artifact_directory(project, target))
        _copy_files(manifest, opened, destination, shown)
    with _room_needed():
        manifest.write(destination, sync=False)
    return manifest


def published_manifest(project: Project, target: Target) -> Manifest:
    """The manifest of the target's artifact, whose files are not read. Raises as
    `open_artifact`."""
    with _opened(project, target) as (_, manifest):
        return manifest


@contextlib.contextmanager
def _opened(project: Project, target: Target) -> Iterator[tuple[Path, Manifest]]:
    """The directory of a published artifact, opened, and its manifest."""
    directory = artifact_directory(project, target)
    descriptor = _open_directory(project, target, directory)
    try:
        # Paths below this one lead into the opened directory, whatever has its name now.
        opened = Path(f"/proc/self/fd/{descriptor}")
        yield opened, _manifest(project, target, directory, opened)
    finally:
        os.close(descriptor)


def _copy_files(
    manifest: Manifest, opened: Path, files: Path, shown: str
) -> dict[str, list[int] | None]:
    """Copy the files that the manifest lists to the directory `files`, and digest the copies.

    Returns the stat keys of the published files. `shown` is the directory that errors name.
    """
    stat_keys = {}
    for name, record in manifest.files.items():
        try:
            stat_keys[name] = _copy_checked(opened / name, files / name, record)
        except OSError as error:
            raise read_damage(name, error).error(manifest.target, f"{shown}/{name}") from error
    return stat_keys


@contextlib.contextmanager
def fit_artifact(project: Project, target: Target) -> Iterator[OpenArtifact]:
    """As `open_artifact`, for an artifact that this host can load safely.

    Raises `ArtifactError` if it cannot. The error is an `ArchitectureMissing` if the host lacks
    only the architecture that the target names.
    """
    with open_artifact(project, target) as artifact:
        require_fit(target, artifact.manifest)
        yield artifact


def require_fit(target: Target, manifest: Manifest) -> None:
    """Raise `ArtifactError` as `fit_artifact` does, if this host cannot run the artifact."""
    requires = manifest.requires
    host = compatibility.this_host(requires["device"])
    missing = compatibility.missing(requires, host)
    if missing:
        lacks_only_architecture = (
            manifest.architecture is not None
            and missing == compatibility.missing_for_architecture(requires, host)
        )
        raise _incompatible(target, missing, lacks_only_architecture)


def _incompatible(
    target: Target, missing: list[str], lacks_only_architecture: bool
) -> ArtifactError:
    error_type = ArtifactError
    hint = "build it here, or for a portable architecture such as `cpu: {isa: avx2}`"
    if lacks_only_architecture:
        error_type = ArchitectureMissing
        hint = "use a host that has this architecture"
    return error_type(
        "the artifact cannot run on this host",
        target=target.name,
        cause="\n".join(missing),
        hint=hint,
    )


def _open_directory(project: Project, target: Target, directory: Path) -> int:
    try:
        return os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        raise _none_there(target) from None
    except OSError as error:
        raise ArtifactError(
            "the artifact cannot be read",
            target=target.name,
            where=_shown(project, directory),
            cause=error.strerror,
            hint="check its permissions",
        ) from error


def _manifest(project: Project, target: Target, directory: Path, opened: Path) -> Manifest:
    manifest = read_manifest(opened)
    if isinstance(manifest, NoManifest):
        if not manifest.damaged:
            raise _none_there(target)
        # The manifest was read through the opened directory's descriptor.
        why = manifest.why.replace(str(opened), _shown(project, directory))
        manifest = NoManifest(damaged=True, why=why)
    damage = manifest_damage(manifest, target.name)
    if damage is not None:
        raise damage.error(target.name, _shown(project, directory / MANIFEST))
    assert isinstance(manifest, Manifest)
    return manifest


def _none_there(target: Target) -> VerificationError:
    hint = f"build it first: invoke build --target {target.name}"
    return VerificationError("there is no artifact", target=target.name, hint=hint)


def _copy_checked(source: Path, copy: Path, record: FileRecord) -> list[int] | None:
    """Copy a file and compare the copy with its record. Returns the stat key of the source.

    Only this user can write to the copy, so it cannot change after that. Raises OSError if it is
    not as recorded, and `ToolchainError` if it cannot be written.
    """
    descriptor = open_recorded(source, record.size)
    try:
        opened_source = Path(f"/proc/self/fd/{descriptor}")
        # Taken before the copy, so that a change during the copy is noticed.
        source_key = stat_key(opened_source)
        with _room_needed():
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            destination = os.open(copy, flags, 0o600)
        try:
            if clone(descriptor, destination):
                # The file system shares the blocks, so only the digest is missing.
                copied = record.copied(copy, _check_interruption)
            else:
                copied = record.copied(opened_source, partial(_write, destination))
        finally:
            os.close(destination)
    finally:
        os.close(descriptor)
    require_digest(copied, record)
    return source_key


def _check_interruption(*_: object) -> None:
    check_stopping()


def _write(destination: int, piece: memoryview, offset: int) -> None:
    check_stopping()
    with _room_needed():
        write_at(destination, piece, offset)


@contextlib.contextmanager
def _room_needed() -> Iterator[None]:
    """If a copy cannot be written, report an unfit environment and not a damaged artifact."""
    try:
        yield
    except OSError as error:
        raise ToolchainError(
            "there is no place for a copy of the artifact",
            cause=str(error),
            hint="free space there. Commands that load artifacts copy them into the temporary"
            " directory, which TMPDIR names; `invoke export` copies into the directory it is given",
        ) from error


def _shown(project: Project, path: Path) -> str:
    return project.shown(path)
