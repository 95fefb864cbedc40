"""File digests that cost a stat when the file has not changed.

An entry is (size, mtime_ns, ctime_ns, inode) -> digest. The change time cannot be set by programs, so an edit that
keeps size and mtime is still seen. An entry is only kept for a file that was already older than `RACY_NS` when it was
read (git's "racy" rule): a file written in the same clock tick as the record could change again without its stat
changing. The cache is disposable: deleting it, or finding it unreadable, changes speed and never a digest.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path

from aoti_build.digests import digest_file
from aoti_build.files import write_atomic

FORMAT = "aoti-build/stat-cache"
FORMAT_VERSION = 1
RACY_NS = 2_000_000_000  # the coarsest timestamps in use (FAT) have 2 s


class StatCache:
    """Digests of files, remembered in the JSON file `record`; `save()` writes it if anything new was learnt."""

    def __init__(self, record: Path) -> None:
        self._record = record
        self._known = dict(_read(record))
        self._changed = False

    def digest(self, path: Path) -> str | None:
        """The file's sha256, or None if there is no such regular file or it cannot be read."""
        try:
            before = _stat_key(path)
            if before is None:
                return None
            name = os.path.abspath(path)
            known = self._known.get(name)
            if known is not None and known[:-1] == before:
                return known[-1]
            started = time.time_ns()
            digest = digest_file(path)
            if _stat_key(path) == before and int(before[2]) < started - RACY_NS and int(before[1]) < started - RACY_NS:
                self._known[name] = (*before, digest)
                self._changed = True
            return digest
        except OSError:
            return None

    def save(self) -> None:
        """Persist what was learnt. A read-only or full disk loses speed, not results."""
        if not self._changed:
            return
        document = {"format": FORMAT, "format_version": FORMAT_VERSION, "files": self._known}
        try:
            write_atomic(self._record, json.dumps(document).encode())
        except OSError:
            return
        self._changed = False


def _stat_key(path: Path) -> tuple[str, ...] | None:
    status = os.stat(path)
    if not os.path.isfile(path):
        return None
    return tuple(map(str, (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)))


def _read(record: Path) -> Mapping[str, tuple[str, ...]]:
    try:
        document = json.loads(record.read_bytes())
        if document["format"] != FORMAT or document["format_version"] != FORMAT_VERSION:
            return {}
        return {
            name: tuple(entry)
            for name, entry in document["files"].items()
            if isinstance(entry, list) and len(entry) == 5 and all(isinstance(part, str) for part in entry)
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
