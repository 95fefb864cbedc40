"""Packages that hold the same weights, on a file system where files can share blocks.

Several targets of one model (methods, presets, architectures) have other code and the same weights,
byte for byte, in a member of their own that begins at a block. Which packages these are is only
guessed, by the size and the CRC-32 that the zip file says; the system compares the bytes before it
lets two files share them.
"""

from __future__ import annotations

import os
from pathlib import Path

from aoti_build.artifact.pt2.directory import STORED, BadZip, Member, read_directory
from aoti_build.common.extents import SHAREABLE, Stretch, share_equal
from aoti_build.common.reading import open_regular

_ENDING = "_weights.blob"
_LEAST = 1 << 20  # bytes


def named_weights(package: Path) -> str | None:
    """A name for the weights in a package, the same wherever they are the same; None if they are
    small, or cannot be shared. Raises OSError."""
    descriptor = open_regular(package)
    try:
        found = _weights(descriptor)
        return f"{found.crc:08x}-{found.size}" if found else None
    finally:
        os.close(descriptor)


def share_weights(known: Path, package: Path) -> int:
    """Let `package` have the blocks of the weights in `known`, where they are the same; how many
    bytes are shared now. Raises OSError."""
    source = open_regular(known)
    try:
        destination = os.open(package, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            mine, theirs = _weights(destination), _weights(source)
            if mine is None or theirs is None:
                return 0
            return share_equal(_stretch(source, theirs), _stretch(destination, mine))
        finally:
            os.close(destination)
    finally:
        os.close(source)


def _weights(descriptor: int) -> Member | None:
    """The member of an open package that holds weights and begins at a block; None if there is
    none, or no package."""

    def exactly(offset: int, size: int) -> bytes:
        found = os.pread(descriptor, size, offset)
        if len(found) < size:
            raise BadZip("the file ends before its content does")
        return found

    try:
        members = read_directory(exactly, os.fstat(descriptor).st_size)
    except BadZip:
        return None
    large = [
        member for member in members if member.name.endswith(_ENDING) and member.size >= _LEAST
    ]
    plain = [
        member for member in large if member.method == STORED and member.start % SHAREABLE == 0
    ]
    return plain[0] if len(plain) == 1 else None


def _stretch(descriptor: int, member: Member) -> Stretch:
    return Stretch(descriptor, member.start, member.size)
