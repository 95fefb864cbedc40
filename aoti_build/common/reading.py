"""Reading files: whatever a path leads to, a read neither waits nor takes more than its limit."""

from __future__ import annotations

import errno
import os
import stat

_PIECE_BYTES = 1 << 16
_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
# The most bytes that are read of one of our own records: manifests, the store's, working state.
# Each source file takes some 130 bytes there, so this is half a million of them. JSON of this size
# still fits into memory when it is parsed.
RECORD_LIMIT = 64 << 20
# The most bytes of a text that people write: models.yaml with a hundred thousand models, names of
# classes.
TEXT_LIMIT = 16 << 20


def open_regular(path: str | os.PathLike[str], limit: int | None = None) -> int:
    """A descriptor for reading the regular file that `path` is or links to.

    Raises OSError for whatever else there is, and for a file of more than `limit` bytes. What is no
    file is not even opened: a pipe would block, and a device might act. One that takes the file's
    place after the look is opened without waiting, and refused.
    """
    _require_regular(os.stat(path), path)
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        status = os.fstat(descriptor)
        _require_regular(status, path)
        if limit is not None and status.st_size > limit:
            raise _too_large(path, status.st_size, limit)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def require_regular(path: str | os.PathLike[str], limit: int | None = None) -> None:
    """Raise what `open_regular` raises: for files that a library opens by their name."""
    os.close(open_regular(path, limit))


def read_bytes(path: str | os.PathLike[str], limit: int) -> bytes:
    """All bytes of a regular file. Raises OSError as `open_regular`, before anything is read."""
    descriptor = open_regular(path, limit)
    try:
        size = os.fstat(descriptor).st_size
        pieces, left = [], limit + 1  # one more, to see that it grows; those in /proc have no size
        while left and (piece := os.read(descriptor, min(left, max(size + 1, _PIECE_BYTES)))):
            pieces.append(piece)
            left -= len(piece)
    finally:
        os.close(descriptor)
    if not left:
        raise _too_large(path, limit + 1, limit)
    return b"".join(pieces)


def _require_regular(status: os.stat_result, path: str | os.PathLike[str]) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, "a directory, no file", os.fspath(path))
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "something else")
        raise OSError(errno.EINVAL, f"{kind}, no regular file", os.fspath(path))


def _too_large(path: str | os.PathLike[str], size: int, limit: int) -> OSError:
    return OSError(
        errno.EFBIG,
        f"it has {size} bytes, and at most {limit} are read of such a file",
        os.fspath(path),
    )
