"""Digests of files, and of listings of directories, that cost a stat when nothing has changed.

An entry is (size, mtime_ns, ctime_ns, inode) -> digest. The change time cannot be set by programs,
so an edit that keeps size and mtime is still seen. An entry is only kept for a file that was
already older than `RACY_NS` when it was read (git's "racy" rule): a file written in the same clock
tick as the record could change again without its stat changing. The cache is disposable: deleting
it, or finding it unreadable, changes speed and never a digest.
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
_ENTRY = [int, int, int, int, str]
RACY_NS = 2_000_000_000  # the coarsest timestamps in use (FAT) have 2 s


class StatCache:
    """Digests of files, remembered in the JSON file `record`; `save()` writes it if anything new
    was learnt."""

    def __init__(self, record: Path) -> None:
        self._record = record
        self._known = _read(record)
        self._changed = False

    def digest(self, path: Path | str, size: int | None = None) -> str | None:
        """The sha256 of the regular file at the absolute `path`, or None if there is none or it
        cannot be read. With a `size` in bytes also None, and nothing is read, if the file has
        another one.

        For a path with a slash at the end, of the names in that directory; with ``//link`` at the
        end, of what the symbolic link says. A directory without a slash is just that:
        ``directory``.
        """
        name = os.fspath(path)
        if name.endswith(LINK):
            return _digest_link(name.removesuffix(LINK))
        digest = self.remember(name, name, _digest_listing if name.endswith("/") else _digest, size)
        return (
            DIRECTORY
            if digest is None and not name.endswith("/") and os.path.isdir(name)
            else digest
        )

    def remember(
        self, entry: str, path: str, digest: Callable[[str], str], size: int | None = None
    ) -> str | None:
        """What `digest` makes of the file (or, with a slash at the end, the directory) `path`, kept
        as `entry`; None as for `digest`."""
        try:
            before = stat_key(path)
            if before is None or size not in (None, before[0]):
                return None
            known = self._known.get(entry)
            if known is not None and known[:-1] == before and is_digest(known[-1]):
                return str(known[-1])
            settled = time.time_ns() - RACY_NS
            made = digest(path)
            _, modified, changed, _ = before
            if stat_key(path) == before and modified < settled and changed < settled:
                self._known[entry] = [*before, made]
                self._changed = True
            return made
        except (OSError, ValueError):  # ValueError: a recorded name that cannot be a path
            return None

    def save(self) -> None:
        """Persist what was learnt. A read-only or full disk loses speed, not results."""
        if not self._changed:
            return
        self._changed = not write_cache_record(
            self._record, FORMAT, FORMAT_VERSION, {"files": self._known}
        )


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
    """[size, mtime_ns, ctime_ns, inode] of a regular file (or, with a slash at the end, a
    directory); None for anything else. Raises OSError if there is nothing."""
    status = os.stat(path)
    if not (stat.S_ISDIR if str(path).endswith("/") else stat.S_ISREG)(status.st_mode):
        return None
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def _read(record: Path) -> dict[str, list[Any]]:
    entries = read_cache_record(record, FORMAT, FORMAT_VERSION, "files").items()
    return {
        name: entry
        for name, entry in entries
        if isinstance(entry, list) and list(map(type, entry)) == _ENTRY
    }


def file_size(path: Path) -> int | None:
    """The bytes of a regular file; None if there is none."""
    try:
        key = stat_key(path)
    except OSError:
        return None
    return key[0] if key else None
