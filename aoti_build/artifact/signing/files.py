"""The files below a directory, and their digests."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from aoti_build.artifact.signing.names import name_fault
from aoti_build.artifact.signing.refusals import UnfitFiles
from aoti_build.common.digests import all_cores, digest_file


class Contents(NamedTuple):
    """Relative names of all files below a directory, and of all directories below it."""

    files: frozenset[str]
    directories: frozenset[str]

    def empty_directories(self) -> list[str]:
        """Directories without a file in them or below them, in order."""
        used = set()
        for name in self.files:
            used.update(parents(name))
        return sorted(self.directories - used)


def parents(name: str) -> list[str]:
    """The directories above a relative name: ``a/b/c`` is in ``a`` and ``a/b``."""
    parts = name.split("/")[:-1]
    return ["/".join(parts[: count + 1]) for count in range(len(parts))]


def contents_of(directory: Path, leave_out: str) -> Contents:
    """All that is below a directory, hidden entries too, but for the file `leave_out`.

    Raises:
        UnfitFiles: an entry is neither a regular file nor a directory, has an odd name, or cannot
            be read.
    """
    files: list[str] = []
    directories: list[str] = []
    pending = [""]
    while pending:
        below = pending.pop()
        for entry in _entries(directory / below):
            name = f"{below}/{entry.name}" if below else entry.name
            if name == leave_out and entry.is_file(follow_symlinks=False):
                continue
            _require_fit(name, entry)
            if entry.is_dir(follow_symlinks=False):
                directories.append(name)
                pending.append(name)
            else:
                files.append(name)
    return Contents(frozenset(files), frozenset(directories))


def digests_of(directory: Path, names: Iterable[str]) -> Mapping[str, str]:
    """The sha256 of each named file, as 64 hex digits. All cores take part.

    Raises `UnfitFiles` if a file cannot be read.
    """
    in_order = sorted(names)
    paths = [directory / name for name in in_order]
    try:
        with all_cores() as executor:
            digests = list(executor.map(digest_file, paths))
    except OSError as error:
        raise _unreadable(error) from error
    return dict(zip(in_order, digests, strict=True))


def _entries(directory: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as entries:
            return list(entries)
    except OSError as error:
        raise _unreadable(error) from error


def _require_fit(name: str, entry: os.DirEntry[str]) -> None:
    fault = name_fault(name)
    if fault:
        # Escapes show what the name hides.
        raise UnfitFiles(f"the name {name!a} {fault}", hint="rename it or remove it")
    if entry.is_symlink():
        raise UnfitFiles(
            f"{name!r} is a symbolic link, and a release has none",
            hint="put the file itself there",
        )
    if not entry.is_dir(follow_symlinks=False) and not entry.is_file(follow_symlinks=False):
        raise UnfitFiles(
            f"{name!r} is neither a regular file nor a directory",
            hint="remove it",
        )


def _unreadable(error: OSError) -> UnfitFiles:
    return UnfitFiles(
        "a file of the release cannot be read",
        where=str(error.filename),
        cause=error.strerror,
        hint="let this user read the whole directory",
    )
