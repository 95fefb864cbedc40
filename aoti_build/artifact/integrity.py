"""Records of large files whose blocks were seen to say what their sha256 says.

A restore checks blocks, because all cores do that at once; a sha256 takes one core its time. But a
record comes with artifacts or out of a store, and whoever wrote it may have written blocks of other
bytes. So its blocks count here only once this user has taken them and the sha256 of the same bytes.
An empty file remembers that, named after the digest of the record, in a directory that nobody else
can write to. Without such a directory, and for a record that is new here, all is read in full.
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
    """Whether the blocks of this record may stand for its sha256."""
    directory = _directory() if file.blocks else None
    if directory is None:
        return False
    try:
        os.utime(directory / _name(file))  # which also keeps it from being removed
    except OSError:
        return False
    return True


def note(file: FileRecord) -> None:
    """Remember that the blocks and the sha256 of this record were just taken of the same bytes."""
    directory = _directory() if file.blocks else None
    if directory is None:
        return
    with contextlib.suppress(OSError):
        for known in os.scandir(directory):
            if known.stat().st_mtime < time.time() - _UNUSED_SECONDS:
                os.unlink(known.path)
        (directory / _name(file)).touch(mode=0o600)


def _name(file: FileRecord) -> str:
    return digest_json(file.as_json())


def _directory() -> Path | None:
    with contextlib.suppress(DirectoryError):
        return directories.agreed_directory()
    return None
