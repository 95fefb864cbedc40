"""The files of a release against its `release.json`, for pushes and pulls."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

from aoti_build.artifact.bundle import layout
from aoti_build.artifact.bundle.record import ReleaseRecord, read_release
from aoti_build.artifact.signing.refusals import some
from aoti_build.errors import ArtifactError
from aoti_build.registry.oci_manifest import ReleaseLayer

_MODE = re.compile("[0-7]{3}")
_OWNER_READS = 0o400
_OTHERS_WRITE = 0o022


def read_record(directory: Path, where: str) -> ReleaseRecord:
    """The record of the release in a directory.

    Raises `ArtifactError` with `where` as its place if there is none, or none that can be read.
    """
    try:
        record, _ = read_release(directory, where)
    except OSError as error:
        raise ArtifactError(
            f"the release has no {layout.RELEASE} that can be read",
            where=where,
            cause=error.strerror or str(error),
            hint="get the release again from where it was published",
        ) from error
    return record


def require_recorded(record: ReleaseRecord, files: Collection[ReleaseLayer], where: str) -> None:
    """Raise `ArtifactError` unless the files are those of the record, with its sizes and digests.

    The record cannot list itself, the checksums and the signature.
    """
    present = {file.path: file for file in files if file.path not in layout.UNLISTED}
    missing = sorted(record.files.keys() - present.keys())
    if missing:
        raise _differs(f"missing: {some(missing)}", where)
    extra = sorted(present.keys() - record.files.keys())
    if extra:
        raise _differs(f"not listed: {some(extra)}", where)
    changed = []
    for path, file in sorted(present.items()):
        recorded = record.files[path]
        if (file.sha256, file.size) != (recorded.sha256, recorded.size):
            changed.append(path)
    if changed:
        raise _differs(f"changed: {some(changed)}", where)


def recorded_modes(record: ReleaseRecord, where: str) -> dict[str, int]:
    """The permission bits of each file, such as 0o644.

    Raises `ArtifactError` for bits that let others write, or not even the owner read.
    """
    modes = {}
    for path, file in record.files.items():
        mode = int(file.mode, 8) if _MODE.fullmatch(file.mode) else 0
        if not mode & _OWNER_READS or mode & _OTHERS_WRITE:
            raise _differs(f"{path} has the mode {file.mode[:10]!r}", where)
        modes[path] = mode
    return modes


def _differs(cause: str, where: str) -> ArtifactError:
    return ArtifactError(
        f"the files are not those of the {layout.RELEASE}",
        where=where,
        cause=cause,
        hint="get the release again from where it was published, or make it again",
    )
