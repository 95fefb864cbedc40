"""Listing and removal of our own files, without following any symbolic link.

A link that has the name of one of our entries is removed itself. Its target is left alone.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from fnmatch import fnmatchcase
from operator import attrgetter
from pathlib import Path


def own_entries(root: Path, *patterns: str) -> Iterator[Path]:
    """Entries below `root`, sorted, by one name pattern for each level: ``("objects", "??", "*")``.

    `root` itself may be a link. Below it only real directories are entered. A directory that cannot
    be listed counts as empty.
    """
    pattern, *deeper_patterns = patterns
    try:
        with os.scandir(root) as entries:
            matches = [entry for entry in entries if fnmatchcase(entry.name, pattern)]
    except OSError:
        return
    matches.sort(key=attrgetter("name"))
    for entry in matches:
        path = root / entry.name
        if not deeper_patterns:
            yield path
        elif entry.is_dir(follow_symlinks=False):
            yield from own_entries(path, *deeper_patterns)


def remove(path: Path) -> None:
    """Remove a file, a link or a directory with its content; nothing if absent. Raises OSError."""
    if is_real_directory(path):
        # rmtree enters no link, and is safe against one that appears while it works.
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def is_real_directory(path: Path) -> bool:
    """Whether `path` is a directory, and not a link to one."""
    try:
        status = path.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode)
