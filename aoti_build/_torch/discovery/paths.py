"""Names and states of files, as the recorder of accesses keeps and compares them."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias, TypeGuard

from aoti_build.common.digests import DIRECTORY

AnyPath: TypeAlias = str | bytes | os.PathLike[Any]
# Takes a real path, with a separator at the end of a directory's.
IsProject: TypeAlias = Callable[[str], bool]

# Bound before `patches` replaces them: accesses of this package are no inputs of the model.
native_stat = os.stat
native_lstat = os.lstat
native_readlink = os.readlink


class FileState(NamedTuple):
    """Identity, size and times (in nanoseconds since the epoch) of what is no directory."""

    device: int
    inode: int
    size: int
    modified_ns: int
    changed_ns: int

    def has_same_content(self, earlier: FileState) -> bool:
        """Compare all but the times, for a file whose times this process changed itself."""
        return self[:3] == earlier[:3]


# `DIRECTORY` for a directory: its entries are recorded on their own. None: nothing has the name.
State: TypeAlias = FileState | str | None


def file_state(path: str) -> State:
    try:
        status = native_stat(path)
    except (OSError, ValueError):
        return None
    if stat.S_ISDIR(status.st_mode):
        return DIRECTORY
    return FileState(
        device=status.st_dev,
        inode=status.st_ino,
        size=status.st_size,
        modified_ns=status.st_mtime_ns,
        changed_ns=status.st_ctime_ns,
    )


def is_path(value: object) -> TypeGuard[AnyPath]:
    return isinstance(value, str | bytes | os.PathLike)


def path_in_directory(path: AnyPath, descriptor: Any) -> str:
    """Resolve a relative `path` against the open directory `descriptor`.

    Functions of `os` and their audit events pass None or -1 where the caller gave no descriptor.
    """
    name = os.fsdecode(path)
    if not isinstance(descriptor, int) or descriptor < 0:
        return name
    if os.path.isabs(name):
        return name
    try:
        directory = native_readlink(f"/proc/self/fd/{descriptor}")
    except OSError:
        return name
    return os.path.join(directory, name)


def absolute_and_real(path: AnyPath) -> set[str]:
    """Return the absolute name of `path` and the one with all links resolved.

    The set is empty if there is no such name: the current directory was removed, or the path
    contains a NUL.
    """
    name = os.fsdecode(path)
    try:
        absolute = os.path.abspath(name)
        real = os.path.realpath(name)
    except (OSError, ValueError):
        return set()
    return {absolute, real}


class RealPaths:
    """`os.path.realpath` for many paths in few directories.

    Each directory is resolved once. A build with 3,000 modules has about 300 directories, each some
    ten levels deep.
    """

    def __init__(self) -> None:
        self._directories: dict[str, str] = {}

    def resolve(self, path: str) -> str:
        directory, name = os.path.split(path)
        if name in ("", os.curdir, os.pardir) or _is_link(path):
            return os.path.realpath(path)
        real_directory = self._directories.get(directory)
        if real_directory is None:
            real_directory = os.path.realpath(directory)
            self._directories[directory] = real_directory
        return os.path.join(real_directory, name)


def _is_link(path: str) -> bool:
    try:
        status = native_lstat(path)
    except OSError:
        return False
    return stat.S_ISLNK(status.st_mode)
