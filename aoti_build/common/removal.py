"""Finding and removing what is ours: no symbolic link on the way is followed, whoever put it there.

A link that has the name of something of ours is removed itself, and what it leads to stays as it
is.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path


def own_entries(root: Path, *patterns: str) -> Iterator[Path]:
    """Entries below `root`, sorted, by a pattern for the name at each level: ``("objects", "??",
    "*")``.

    `root` itself may be a link. Below it only real directories are entered. What cannot be listed
    is empty.
    """
    pattern, *further = patterns
    try:
        with os.scandir(root) as entries:
            found = sorted(
                (entry for entry in entries if fnmatchcase(entry.name, pattern)),
                key=lambda entry: entry.name,
            )
    except OSError:
        return
    for entry in found:
        if not further:
            yield root / entry.name
        elif entry.is_dir(follow_symlinks=False):
            yield from own_entries(root / entry.name, *further)


def remove(path: Path) -> None:
    """Remove a file, a link or a whole directory; none is fine. Raises OSError."""
    if is_real_directory(path):
        # Which enters no link, and is none the worse for one that appears meanwhile.
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def is_real_directory(path: Path) -> bool:
    """Whether there is a directory, and no link to one."""
    try:
        return stat.S_ISDIR(path.lstat().st_mode)
    except OSError:
        return False
