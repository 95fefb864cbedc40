"""Atomic writes: a reader finds the old content or the new content, also after a power cut.

Each write goes to a temporary file in the same directory. The file is synced to the disk, and
`os.replace` gives it its name.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import shutil
import tempfile
from pathlib import Path

from aoti_build.common.extents import clone
from aoti_build.common.libc import libc_function
from aoti_build.common.reading import open_regular, read_bytes
from aoti_build.errors import BuildError

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_SYNC_FILE_RANGE_WRITE = 2  # linux/fs.h
# No call reads the umask without setting it. The value set here is the strictest, so a file that
# another thread creates at this moment is closed to other users.
UMASK = os.umask(0o077)
os.umask(UMASK)


def disk_error(error: OSError) -> BuildError:
    """The error to report when the system refuses a write."""
    if error.errno in NO_SPACE:
        return BuildError(
            "the disk is full",
            cause=str(error),
            hint="make space, for instance with invoke gc",
        )
    return BuildError("the disk refused", cause=str(error))


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of `data` to a descriptor, which may be a pipe that takes little at once, or that
    another program has made non-blocking. Raises OSError."""
    rest = memoryview(data)
    while rest:
        try:
            count = os.write(descriptor, rest)
        except BlockingIOError:
            _wait_for_room(descriptor)
        else:
            rest = rest[count:]


def _wait_for_room(descriptor: int) -> None:
    """Wait until a full pipe takes something again, or has no reader any more."""
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    poll.poll()


def write_atomic(
    path: Path,
    data: bytes,
    *,
    sync: bool = True,
    mode: int = 0o666,
) -> None:
    """Replace the content of `path` in one step. A missing parent directory is created.

    With `sync`, the content is on the disk when the call returns. `mode` holds the permissions
    before the umask. Raises OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            # mkstemp's 0600 would hide the file from other users of a shared checkout.
            os.fchmod(file.fileno(), mode & ~UMASK)
            file.write(data)
            file.flush()
            if sync:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    if sync:
        fsync(path.parent)


def copy_atomic(source: Path, destination: Path) -> None:
    """Copy a file so that `destination` appears complete, in one step. Raises OSError.

    The two files share blocks where the file system supports it. The copy is not synced: this is
    for files whose content is checked when they are read.
    """
    destination.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(
        dir=destination.parent,
        prefix=f".{destination.name}.",
    )
    try:
        try:
            is_cloned = clone_file(source, descriptor)
        finally:
            os.close(descriptor)
        if not is_cloned:
            shutil.copyfile(source, temporary)
        # As in `write_atomic`.
        os.chmod(temporary, 0o666 & ~UMASK)
        os.replace(temporary, destination)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def clone_file(source: Path, destination: int) -> bool:
    """Let the empty open file `destination` share all blocks of a regular file.

    Returns False if the file system cannot. Raises OSError if `source` cannot be read.
    """
    descriptor = open_regular(source)
    try:
        return clone(descriptor, destination)
    finally:
        os.close(descriptor)


def reserve(descriptor: int, size: int) -> None:
    """Let the file system allocate `size` bytes at once, which is faster than piece by piece.

    A failure is not reported, since the write that follows reports it.
    """
    # Python's posix_fallocate writes to every block of a file system that cannot reserve.
    fallocate = libc_function("fallocate", "iiqq")
    if fallocate is not None:
        fallocate(descriptor, 0, 0, size)


def begin_writing(descriptor: int, start: int, size: int) -> None:
    """Start to write a range of a file to the disk, so that a later fsync waits less."""
    sync_file_range = libc_function("sync_file_range", "iqqi")
    if sync_file_range is not None:
        sync_file_range(descriptor, start, size, _SYNC_FILE_RANGE_WRITE)


def write_at(descriptor: int, piece: memoryview, offset: int) -> None:
    """Write all of `piece` to an open file, from `offset` on. Raises OSError."""
    while piece:
        # A system call may write less than it was asked to.
        count = os.pwrite(descriptor, piece, offset)
        piece = piece[count:]
        offset += count


def write_program(path: Path, text: str) -> None:
    """Write an executable script to `path`, unless the same script is there already.

    Other processes may run the script at any time: it is never incomplete. Raises OSError.
    """
    content = text.encode()
    with contextlib.suppress(OSError):
        is_executable = os.access(path, os.X_OK)
        if is_executable and read_bytes(path, len(content)) == content:
            return
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as directory:
        script = Path(directory, path.name)
        script.write_bytes(content)
        script.chmod(0o700)
        os.replace(script, path)


def fsync(path: Path) -> None:
    """Wait until a file or a directory is on the disk. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
