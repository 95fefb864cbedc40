"""Files that share blocks on the disk, on file systems with support (Btrfs, XFS; not ext4, tmpfs).

Two files with the same blocks take the space of one. A write to one of them allocates new blocks,
so the other does not change; that is the difference from a hard link. Nothing here ever changes the
content of a file. Every call may fail; then there are two copies.

The calls are ioctl_ficlonerange(2) and ioctl_fideduperange(2) of Linux. The numbers are from
linux/fs.h.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

# Bytes: the block size of most file systems. Only complete blocks can be shared.
SHAREABLE = 4096
_CLONE = 0x40049409  # FICLONE
_DEDUPE = 0xC0189436  # FIDEDUPERANGE
_MOST_AT_ONCE = 16 << 20  # bytes; Btrfs takes no more in one call
# struct file_dedupe_range: source offset, length, number of targets, two reserved fields; then one
# file_dedupe_range_info: target descriptor, target offset, shared bytes, status, reserved.
_REQUEST = struct.Struct("=QQHHIqQQiI")


class Stretch(NamedTuple):
    """A part of an open file. `start` and `size` are in bytes."""

    descriptor: int
    start: int
    size: int


def clone(source: int, destination: int) -> bool:
    """Let the empty open file `destination` share all blocks of `source`; False if it cannot."""
    try:
        import fcntl
    except ImportError:
        return False
    try:
        fcntl.ioctl(destination, _CLONE, source)
    except OSError:
        return False
    return True


def share_equal(source: Stretch, target: Stretch) -> int:
    """Let `target` share the blocks of `source` where both hold the same bytes.

    The system compares the bytes itself. Both must start at multiples of `SHAREABLE`. An incomplete
    block at the end is not shared. Returns the number of shared bytes.
    """
    try:
        import fcntl
    except ImportError:
        return 0
    size = min(source.size, target.size) // SHAREABLE * SHAREABLE
    done = 0
    while done < size:
        request = _REQUEST.pack(
            source.start + done,
            min(_MOST_AT_ONCE, size - done),
            1,
            0,
            0,
            target.descriptor,
            target.start + done,
            0,
            0,
            0,
        )
        try:
            answer = fcntl.ioctl(source.descriptor, _DEDUPE, request)
        except OSError:
            break
        *_, shared, status, _ = _REQUEST.unpack(answer)
        if status != 0 or not shared:
            break
        done += shared
    return done
