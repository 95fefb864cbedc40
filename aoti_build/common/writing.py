"""Writing files so that a reader finds the old content or the new content, also after a power cut.

Each write goes to a temporary file in the same directory. It is synced to the disk, and
`os.replace` gives it its name.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from pathlib import Path

from aoti_build.common.extents import clone
from aoti_build.common.libc import libc_function
from aoti_build.common.reading import open_regular, read_bytes
from aoti_build.errors import BuildError

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_SYNC_FILE_RANGE_WRITE = 2  # linux/fs.h
# No call reads the umask without setting it. While it is set here, a file that another thread
# creates is closed to other users.
UMASK = os.umask(0o077)
os.umask(UMASK)


def disk_error(error: OSError) -> BuildError:
    """What to tell a person when the system does not take what was to be written."""
    if error.errno in NO_SPACE:
        return BuildError(
            "the disk is full", cause=str(error), hint="make space, for instance with invoke gc"
        )
    return BuildError("the disk refused", cause=str(error))


def write_atomic(path: Path, data: bytes, *, sync: bool = True, mode: int = 0o666) -> None:
    """Replace the content of `path` in one step; its directory is made if it is missing.

    With `sync` the call returns when the content is on the disk. `mode` are the permissions before
    the umask.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
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
    """Copy a file so that `destination` appears whole. The two share blocks where the file system
    can. The copy is not synced: this is for files whose content is checked when they are read."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=destination.parent, prefix=f".{destination.name}.")
    try:
        try:
            shared = clone_file(source, handle)
        finally:
            os.close(handle)
        if not shared:
            shutil.copyfile(source, temporary)
        os.chmod(temporary, 0o666 & ~UMASK)
        os.replace(temporary, destination)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def clone_file(source: Path, destination: int) -> bool:
    """`extents.clone` of a regular file. Raises OSError if it cannot be read."""
    descriptor = open_regular(source)
    try:
        return clone(descriptor, destination)
    finally:
        os.close(descriptor)


def reserve(descriptor: int, size: int) -> None:
    """Let the file system allocate `size` bytes at once, which costs less than piece by piece.

    A failure is not reported, since the write that follows reports it.
    """
    # Python's posix_fallocate writes to every block of a file system that cannot reserve.
    fallocate = libc_function("fallocate", "iiqq")
    if fallocate is not None:
        fallocate(descriptor, 0, 0, size)


def begin_writing(descriptor: int, start: int, size: int) -> None:
    """Start to write a range of a file to the disk, so that a later fsync waits for less."""
    sync_file_range = libc_function("sync_file_range", "iqqi")
    if sync_file_range is not None:
        sync_file_range(descriptor, start, size, _SYNC_FILE_RANGE_WRITE)


def write_at(descriptor: int, piece: memoryview, offset: int) -> None:
    """Write all of a piece to its place in an open file; a system call may take less."""
    while piece:
        written = os.pwrite(descriptor, piece, offset)
        piece, offset = piece[written:], offset + written


def write_program(path: Path, text: str) -> None:
    """Put a program at `path` unless it is there already. Other processes may run it at any time:
    they find it whole and executable."""
    content = text.encode()
    with contextlib.suppress(OSError):
        if os.access(path, os.X_OK) and read_bytes(path, len(content)) == content:
            return
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as directory:
        made = Path(directory, path.name)
        made.write_bytes(content)
        made.chmod(0o700)
        os.replace(made, path)


def fsync(path: Path) -> None:
    """Wait until a file or a directory is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
