"""Directories that appear whole: staged in the same file system, synced, and exchanged by name."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
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
    """A new directory in `parent`, private to this user. It is removed at the end, unless it was
    moved away before.

    With `free_later`, a thread frees the space of its files. For a large file that takes about as
    long as a copy.
    """
    parent.mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(dir=parent, prefix=prefix))
    try:
        yield directory
    finally:
        descriptors = _open_files(directory) if free_later else []
        shutil.rmtree(directory, ignore_errors=True)
        if descriptors:
            # The system frees a removed file when its last descriptor is closed. Python does not
            # wait for a daemon thread at its end; then the system closes what is still open.
            threading.Thread(target=_close, args=(descriptors,), daemon=True).start()


def _open_files(directory: Path) -> list[int]:
    """Descriptors of the files in a directory, the largest first, as far as they can be opened."""
    held: list[int] = []
    with contextlib.suppress(OSError):
        files = (path for path in directory.rglob("*") if path.is_file())
        for file in sorted(files, key=lambda path: -path.stat().st_size):
            held.append(os.open(file, os.O_RDONLY | os.O_CLOEXEC))
    return held


def _close(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def publish_directory(staged: Path, final: Path) -> None:
    """Sync the directory `staged` and put it in the place of `final`. Both must be on one file
    system.

    The exchange is one step where the system has renameat2 and the file system supports it.
    Otherwise two renames leave a moment in which `final` is absent; `recover_directory` repairs a
    crash in that moment.
    """
    from concurrent.futures import ThreadPoolExecutor  # not on the no-op path

    from aoti_build.common.removal import remove

    files = [path for path in staged.rglob("*") if path.is_file()]
    for file in files:
        file.chmod(0o666 & ~UMASK)  # libraries that write 0600 would hide it from others
    with ThreadPoolExecutor() as pool:  # at once: a journalling file system commits them together
        list(pool.map(fsync, [*files, staged]))
    final.parent.mkdir(parents=True, exist_ok=True)
    recover_directory(final)
    if not os.path.lexists(final):
        os.rename(staged, final)
    elif not _exchange(staged, final):
        retired = _retired(final)
        os.rename(final, retired)
        os.rename(staged, final)
        remove(retired)
    fsync(final.parent)


def recover_directory(final: Path) -> None:
    """Finish or undo a `publish_directory` that was killed between its two renames. Call it under
    the target's lock."""
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


def _exchange(one: Path, other: Path) -> bool:
    """Swap two names atomically with Linux' renameat2(RENAME_EXCHANGE); False where that does not
    exist."""
    renameat2 = libc_function("renameat2", "izizi")
    if renameat2 is None:
        return False
    if renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    import ctypes

    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), str(other))
