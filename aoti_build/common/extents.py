"""Files that share blocks on the disk, where the file system can (Btrfs, XFS and others; not ext4,
not tmpfs).

Two files with the same blocks take the room of one. Whoever writes to one of them gets blocks of
their own, so the other stays as it is; that is the difference to a hard link. Nothing here ever
changes what a file holds, and all of it may fail: then there are two copies.

The calls are ioctl_ficlonerange(2) and ioctl_fideduperange(2) of Linux; the numbers are from
linux/fs.h.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

# Bytes. Blocks of most file systems have this size, and a stretch of a file can only be shared in
# whole blocks.
SHAREABLE = 4096
_CLONE = 0x40049409  # FICLONE
_DEDUPE = 0xC0189436  # FIDEDUPERANGE
_REQUEST = "=QQHHIqQQiI"  # struct file_dedupe_range with one file_dedupe_range_info
_MOST = 16 << 20  # bytes that Btrfs takes at a time


class Stretch(NamedTuple):
    """A part of an open file, from `start` on, in bytes."""

    descriptor: int
    start: int
    size: int


def clone(source: int, destination: int) -> bool:
    """Let the open file `destination`, which is empty, have what `source` has, without a copy;
    False where that cannot be."""
    try:
        import fcntl
    except ImportError:
        return False
    try:
        fcntl.ioctl(destination, _CLONE, source)
    except OSError:
        return False
    return True


def share_equal(known: Stretch, new: Stretch) -> int:
    """Let `new` have the blocks of `known` where both hold the same; how many bytes now do. The
    system compares them, so nothing else can happen to either. Both must start at multiples of
    `SHAREABLE`; a block that is not whole is left alone."""
    try:
        import fcntl
    except ImportError:
        return 0
    size, done = min(known.size, new.size) // SHAREABLE * SHAREABLE, 0
    while done < size:
        wanted = min(_MOST, size - done)
        request = struct.pack(
            _REQUEST, known.start + done, wanted, 1, 0, 0, new.descriptor, new.start + done, 0, 0, 0
        )
        try:
            answer = fcntl.ioctl(known.descriptor, _DEDUPE, request)
        except OSError:
            break
        *_, shared, status, _ = struct.unpack(_REQUEST, answer)
        if status != 0 or not shared:
            break
        done += shared
    return done
