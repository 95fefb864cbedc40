"""Damage of an artifact: how it is found, and how it is reported.

An artifact is damaged if its manifest cannot be used, or if a file that the manifest lists is
missing, has another size or has another digest. The functions here differ in how much they read;
all of them describe what they find as `Damage`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from aoti_build.artifact.manifest import FileRecord, Manifest, NoManifest
from aoti_build.artifact.reasons import Reason, ReasonKind
from aoti_build.common.reading import open_regular
from aoti_build.common.stat_cache import StatCache, file_size
from aoti_build.errors import ArtifactError

_OTHER_DIGEST = "its digest is not the one in the manifest"


class DamagedFile(OSError):
    """A file was read and does not match its record. The text is a clause that says how."""


class Damage(NamedTuple):
    """One thing that is wrong with an artifact.

    `message` and `cause` are those of an error. `subject` is what a reason names, with the
    `recorded` and the `actual` value if there are such.
    """

    message: str
    cause: str | None
    subject: str
    recorded: str | None = None
    actual: str | None = None

    def reason(self) -> Reason:
        """The reason why a build replaces the artifact."""
        return Reason(ReasonKind.ARTIFACT_DAMAGED, self.subject, self.recorded, self.actual)

    def error(self, target: str, where: str) -> ArtifactError:
        """The error for an artifact of `target`; `where` is the path of the damaged file."""
        return ArtifactError(
            self.message,
            target=target,
            where=where,
            cause=self.cause,
            hint=f"restore the file, or build the artifact again: invoke build --target {target}",
        )


def manifest_damage(manifest: Manifest | NoManifest, target: str) -> Damage | None:
    """Why a manifest is not a usable one of `target`, or None if it is."""
    if isinstance(manifest, NoManifest):
        cause = manifest.why
    elif manifest.target != target:
        cause = f"manifest.json is that of {manifest.target}"
    else:
        return None
    return Damage(f"the artifact is damaged: {cause}", None, subject=cause)


def files_damage(directory: Path, manifest: Manifest, digests: StatCache) -> Iterator[Damage]:
    """The files of an artifact that do not match the manifest, by the digests of the stat cache.

    A file of another size is not read.
    """
    for name, record in manifest.files.items():
        path = directory / name
        digest = digests.digest(path, record.size)
        if digest == record.sha256:
            continue
        if digest is not None:
            yield _file_damage(name, _OTHER_DIGEST, record.sha256, digest)
            continue
        size = file_size(path)
        if size is None or size == record.size:
            yield _file_damage(name, "it is missing or cannot be read", record.sha256)
        else:
            cause = _other_size(size, record.size)
            yield _file_damage(name, cause, record.sha256, f"{size} bytes")


def compare_file(path: Path, record: FileRecord) -> Damage | None:
    """Read all of a file and compare it with its record. None if it matches."""
    try:
        os.close(open_recorded(path, record.size))
        if not record.matches(path):
            raise DamagedFile(_OTHER_DIGEST)
    except OSError as error:
        return read_damage(path.name, error)
    return None


def open_recorded(path: Path, size: int) -> int:
    """A descriptor of the regular file at `path`.

    Raises:
        OSError: there is no such file, or it cannot be opened.
        DamagedFile: it does not have `size` bytes.
    """
    descriptor = open_regular(path)
    actual = os.fstat(descriptor).st_size
    if actual != size:
        os.close(descriptor)
        raise DamagedFile(_other_size(actual, size))
    return descriptor


def require_digest(actual: str | FileRecord | None, recorded: str | FileRecord) -> None:
    """Raises `DamagedFile` if the bytes that were read do not have the recorded digest."""
    if actual != recorded:
        raise DamagedFile(_OTHER_DIGEST)


def read_damage(name: str, error: OSError) -> Damage:
    """The damage of the file `name`, whose comparison with its record raised `error`."""
    if isinstance(error, DamagedFile):
        return _file_damage(name, str(error))
    return _file_damage(name, f"it cannot be read: {error.strerror or error}")


def _other_size(actual: int, recorded: int) -> str:
    return f"it has {actual} bytes, and the manifest lists {recorded}"


def _file_damage(
    name: str, cause: str, recorded: str | None = None, actual: str | None = None
) -> Damage:
    return Damage(f"{name} does not match the manifest", cause, name, recorded, actual)
