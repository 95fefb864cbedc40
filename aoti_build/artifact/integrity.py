"""Which records of large files have blocks that were confirmed by the sha256.

A restore checks blocks, because all cores do that at once; a sha256 takes one core. But a record
comes with artifacts or out of a store, and its blocks may be those of other bytes. So the blocks of
a record count only after this user has computed them and the sha256 from the same bytes.

That is remembered by an empty file, named by the digest of the record, in a directory that no other
user can write to. Without such a directory, and for a new record, files are read in full.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

from aoti_build.artifact.manifest import FileRecord
from aoti_build.common import directories
from aoti_build.common.digests import digest_json
from aoti_build.errors import DirectoryError

_UNUSED_SECONDS = 90 * 86400.0


def is_agreed(file: FileRecord) -> bool:
    """Whether the blocks of this record may be checked in place of its sha256."""
    marker = _marker(file)
    if marker is None:
        return False
    try:
        # The new modification time also saves the marker from `note`, which removes old ones.
        os.utime(marker)
    except OSError:
        return False
    return True


def note(file: FileRecord) -> None:
    """Remember that the blocks and the sha256 of this record were computed from the same bytes."""
    marker = _marker(file)
    if marker is None:
        return
    oldest_kept = time.time() - _UNUSED_SECONDS
    with contextlib.suppress(OSError):
        for entry in os.scandir(marker.parent):
            if entry.stat().st_mtime < oldest_kept:
                os.unlink(entry.path)
        marker.touch(mode=0o600)


def _marker(file: FileRecord) -> Path | None:
    """The path of the record's marker; None without blocks, or without a private directory."""
    if not file.blocks:
        return None
    try:
        directory = directories.agreed_directory()
    except DirectoryError:
        return None
    return directory / digest_json(file.as_json())
