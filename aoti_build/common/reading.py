"""Reading of files. A read never waits, and never takes more bytes than its limit."""

from __future__ import annotations

import errno
import os
import stat
from typing import TypeAlias

FilePath: TypeAlias = "str | os.PathLike[str]"
_PIECE_BYTES = 1 << 16
_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
# Limit in bytes of our own records: manifests, records of the store, working state. Each source
# file takes some 130 bytes in a record, so the limit is half a million sources. JSON of this size
# still fits into memory when it is parsed.
RECORD_LIMIT = 64 << 20
# Limit in bytes of texts that people write, such as models.yaml with a hundred thousand models, or
# a list of class names.
TEXT_LIMIT = 16 << 20


def open_regular(path: FilePath, limit: int | None = None) -> int:
    """Open the regular file at `path`, or the one it links to, and return its descriptor.

    Raises:
        OSError: `path` is not a regular file, or has more than `limit` bytes.
    """
    # Look before opening: a pipe would block, and a device might act.
    _require_regular(os.stat(path), path)
    # The file can be replaced after the look. O_NONBLOCK keeps the open from waiting in that case.
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


def require_regular(path: FilePath, limit: int | None = None) -> None:
    """Raise what `open_regular` raises. For files that a library opens by their name."""
    os.close(open_regular(path, limit))


def read_bytes(path: FilePath, limit: int) -> bytes:
    """All bytes of a regular file.

    Raises:
        OSError: as `open_regular`, or the file grew beyond `limit` bytes during the read.
    """
    descriptor = open_regular(path, limit)
    try:
        # Files in /proc report a size of 0, hence the minimum.
        piece_size = max(os.fstat(descriptor).st_size + 1, _PIECE_BYTES)
        pieces = []
        # One byte more than the limit shows that the file grew.
        remaining = limit + 1
        while remaining:
            piece = os.read(descriptor, min(remaining, piece_size))
            if not piece:
                break
            pieces.append(piece)
            remaining -= len(piece)
    finally:
        os.close(descriptor)
    if not remaining:
        raise _too_large(path, limit + 1, limit)
    return b"".join(pieces)


def _require_regular(status: os.stat_result, path: FilePath) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, "a directory, not a file", os.fspath(path))
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "something else")
        raise OSError(errno.EINVAL, f"{kind}, not a regular file", os.fspath(path))


def _too_large(path: FilePath, size: int, limit: int) -> OSError:
    message = f"its size of {size} bytes exceeds the {limit}-byte limit"
    return OSError(errno.EFBIG, message, os.fspath(path))
