"""Digests of files and of directory listings that cost one stat while nothing has changed.

An entry maps (size, mtime_ns, ctime_ns, inode) to a digest. Programs cannot set the change time, so
an edit that keeps size and mtime is still noticed. The cache may be deleted at any time: it changes
speed and never a digest.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aoti_build.common.digests import (
    DIRECTORY,
    LINK,
    digest_bytes,
    digest_file,
    digest_names,
    names_in,
)
from aoti_build.common.fields import is_digest
from aoti_build.common.records import read_cache_record, write_cache_record

FORMAT = "aoti-build/stat-cache"
FORMAT_VERSION = 1
_ENTRY_TYPES = [int, int, int, int, str]
# Only files that were already this old when they were read are remembered (git's "racy" rule). A
# younger file could change again within the same tick of the clock without a change of its stat.
RACY_NS = 2_000_000_000  # the coarsest timestamps in use (FAT) have 2 s


class StatCache:
    """Digests of files, remembered in the JSON file `record`. `save()` writes new entries to it."""

    def __init__(self, record: Path) -> None:
        self._record = record
        self._entries = _read_entries(record)
        self._is_changed = False

    def digest(self, path: Path | str, size: int | None = None) -> str | None:
        """The sha256 of the regular file at the absolute `path`, or None if it cannot be read.

        With a `size` in bytes, the digest of a file of another size is None, and it is not read.
        Other forms of `path`:

        - ``directory/`` gives the digest of the names in the directory;
        - ``name//link`` gives the digest of the target of a symbolic link;
        - a directory without a slash gives the constant `DIRECTORY`.
        """
        name = os.fspath(path)
        if name.endswith(LINK):
            return _digest_link(name.removesuffix(LINK))
        if name.endswith("/"):
            return self.remember(name, name, _digest_listing, size)
        digest = self.remember(name, name, _digest, size)
        if digest is None and os.path.isdir(name):
            return DIRECTORY
        return digest

    def remember(
        self,
        entry: str,
        path: str,
        digest: Callable[[str], str],
        size: int | None = None,
    ) -> str | None:
        """The result of `digest` for the file or ``directory/`` at `path`, remembered as `entry`.

        Returns None if the path cannot be read, or the file has another size than `size`.
        """
        try:
            before = stat_key(path)
            if before is None or size not in (None, before[0]):
                return None
            recorded = self._entries.get(entry)
            if recorded is not None and recorded[:-1] == before and is_digest(recorded[-1]):
                return str(recorded[-1])
            settled = time.time_ns() - RACY_NS
            result = digest(path)
            _, modified, changed, _ = before
            if stat_key(path) == before and modified < settled and changed < settled:
                self._entries[entry] = [*before, result]
                self._is_changed = True
            return result
        except (OSError, ValueError):  # ValueError: a recorded name that cannot be a path
            return None

    def save(self) -> None:
        """Write new entries to the record. If the disk refuses, only speed is lost."""
        if not self._is_changed:
            return
        content = {"files": self._entries}
        is_written = write_cache_record(self._record, FORMAT, FORMAT_VERSION, content)
        self._is_changed = not is_written


def _digest(path: str) -> str:
    return digest_file(Path(path))


def _digest_link(path: str) -> str | None:
    try:
        return digest_bytes(os.fsencode(os.readlink(path)))
    except (OSError, ValueError):
        return None


def _digest_listing(path: str) -> str:
    return digest_names(names_in(path))


def stat_key(path: str | Path) -> list[int] | None:
    """[size, mtime_ns, ctime_ns, inode] of a regular file, or of a directory for ``directory/``.

    Returns None if the path is of another kind. Raises OSError if it does not exist.
    """
    status = os.stat(path)
    is_expected_kind = stat.S_ISDIR if str(path).endswith("/") else stat.S_ISREG
    if not is_expected_kind(status.st_mode):
        return None
    return [
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
        status.st_ino,
    ]


def _read_entries(record: Path) -> dict[str, list[Any]]:
    entries = {}
    for name, entry in read_cache_record(record, FORMAT, FORMAT_VERSION, "files").items():
        if isinstance(entry, list) and list(map(type, entry)) == _ENTRY_TYPES:
            entries[name] = entry
    return entries


def file_size(path: Path) -> int | None:
    """The size of a regular file in bytes, or None if there is no such file."""
    try:
        key = stat_key(path)
    except OSError:
        return None
    return key[0] if key else None
