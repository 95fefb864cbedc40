"""Publication of directories in one step: staged in the same file system, synced, and exchanged."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from aoti_build.common.libc import libc_function
from aoti_build.common.writing import UMASK, fsync

_AT_FDCWD = -100  # linux/fcntl.h
_RENAME_EXCHANGE = 2  # linux/fs.h
_RETIRED = ".retired"


@contextlib.contextmanager
def staging(parent: Path, prefix: str, *, free_later: bool = False) -> Iterator[Path]:
    """A new directory in `parent` with mode 0700, removed at the end unless it was moved away.

    With `free_later`, a thread frees the space of its files. For a large file that takes about as
    long as a copy. Raises OSError.
    """
    # Not a private directory as in `directories`: artifacts may belong to a group, which can write
    # to the parent. The mode keeps other users out, so a build publishes the files that it checked.
    parent.mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(dir=parent, prefix=prefix))
    # The umask can take even the owner's permissions away. Other bits stay: a set-group-ID bit from
    # the parent gives the published files the group of `artifacts/`.
    directory.chmod(stat.S_IMODE(directory.stat().st_mode) | stat.S_IRWXU)
    try:
        yield directory
    finally:
        descriptors = _open_files(directory) if free_later else []
        shutil.rmtree(directory, ignore_errors=True)
        if descriptors:
            # The system frees a removed file when its last descriptor is closed. At its end Python
            # does not wait for a daemon thread; the system then closes the open descriptors.
            thread = threading.Thread(target=_close, args=(descriptors,), daemon=True)
            thread.start()


def _open_files(directory: Path) -> list[int]:
    """Descriptors of the files in a directory, the largest first, up to the first failure."""
    descriptors: list[int] = []
    with contextlib.suppress(OSError):
        files = [path for path in directory.rglob("*") if path.is_file()]
        files.sort(key=lambda path: path.stat().st_size, reverse=True)
        for file in files:
            descriptors.append(os.open(file, os.O_RDONLY | os.O_CLOEXEC))
    return descriptors


def _close(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def publish_directory(staged: Path, final: Path) -> None:
    """Sync the directory `staged` and rename it to `final`, which it replaces.

    Both must be on one file system. Raises OSError.
    """
    from aoti_build.common.removal import remove  # not on the no-op path

    _settle(staged)
    final.parent.mkdir(parents=True, exist_ok=True)
    recover_directory(final)
    if not os.path.lexists(final):
        os.rename(staged, final)
    elif not _exchange(staged, final):
        # `final` is absent between the two renames. `recover_directory` repairs a crash there.
        retired = _retired(final)
        os.rename(final, retired)
        os.rename(staged, final)
        remove(retired)
    fsync(final.parent)


def publish_new_directory(staged: Path, final: Path, *, umask: int = UMASK) -> None:
    """As `publish_directory`, for a `final` that is absent or an empty directory.

    `umask` has the permission bits that files and directories do not get.
    Raises OSError: also if `final` is anything else by now, a link to a directory included.
    """
    for directory in (path for path in (staged, *staged.rglob("*")) if path.is_dir()):
        directory.chmod(0o777 & ~umask)
    _settle(staged, umask)
    os.rename(staged, final)
    fsync(final.parent)


def _settle(staged: Path, umask: int = UMASK) -> None:
    """Give the files in `staged` their final modes, and wait until all of it is on the disk."""
    from concurrent.futures import ThreadPoolExecutor  # not on the no-op path

    entries = list(staged.rglob("*"))
    for file in entries:
        # Some libraries write files with mode 0600, which other users could not read.
        if file.is_file():
            file.chmod(0o666 & ~umask)
    # Sync all at once: a journalling file system then commits them together.
    with ThreadPoolExecutor() as pool:
        list(pool.map(fsync, [*entries, staged]))


def recover_directory(final: Path) -> None:
    """Complete or undo a `publish_directory` that was killed between its two renames.

    The caller holds the target's lock. Raises OSError.
    """
    from aoti_build.common.removal import remove  # not on the no-op path

    retired = _retired(final)
    if not os.path.lexists(retired):
        return
    if os.path.lexists(final):
        remove(retired)
    else:
        os.rename(retired, final)


def _retired(final: Path) -> Path:
    return final.with_name(f".{final.name}{_RETIRED}")


def _exchange(staged: Path, final: Path) -> bool:
    """Swap two directories atomically with Linux' renameat2(RENAME_EXCHANGE).

    Returns False if the system or the file system does not support it. Raises OSError.
    """
    renameat2 = libc_function("renameat2", "izizi")
    if renameat2 is None:
        return False
    status = renameat2(
        _AT_FDCWD,
        os.fsencode(staged),
        _AT_FDCWD,
        os.fsencode(final),
        _RENAME_EXCHANGE,
    )
    if status == 0:
        return True
    import ctypes  # loaded by `libc_function`

    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), str(final))
