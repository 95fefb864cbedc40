"""Packages that share the blocks of their weights, on file systems that can do that.

Several targets of one model (methods, presets, architectures) differ in their code and have the
same weights, byte for byte. The weights are a member of the package that begins at a block. Equal
weights are recognised by their size and by the CRC-32 in the zip file. That is only a guess: the
system compares the bytes before two files share them.
"""

from __future__ import annotations

import os
from pathlib import Path

from aoti_build.artifact.pt2.directory import STORED, BadZip, Member, read_directory
from aoti_build.common.extents import SHAREABLE, Stretch, share_equal
from aoti_build.common.reading import open_regular

_ENDING = "_weights.blob"
_SMALLEST = 1 << 20  # bytes that are worth sharing


def named_weights(package: Path) -> str | None:
    """A name for the weights in a package, which packages with the same weights have too.

    None if the weights are small or cannot be shared. Raises OSError.
    """
    descriptor = open_regular(package)
    try:
        weights = _weights(descriptor)
    finally:
        os.close(descriptor)
    if weights is None:
        return None
    return f"{weights.crc:08x}-{weights.size}"


def share_weights(stored: Path, package: Path) -> int:
    """Let `package` have the blocks of the weights in `stored`, where both are the same.

    Returns the number of bytes that are shared now. Raises OSError.
    """
    source = open_regular(stored)
    try:
        destination = os.open(package, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            return _share(source, destination)
        finally:
            os.close(destination)
    finally:
        os.close(source)


def _share(source: int, destination: int) -> int:
    """`share_weights` of open packages."""
    source_weights = _weights(source)
    destination_weights = _weights(destination)
    if source_weights is None or destination_weights is None:
        return 0
    return share_equal(
        _stretch(source, source_weights),
        _stretch(destination, destination_weights),
    )


def _weights(descriptor: int) -> Member | None:
    """The weights in an open package, if blocks of them can be shared.

    None if they do not begin at a block, if there is no such member or more than one, and if the
    file is not a package.
    """

    def read(offset: int, size: int) -> bytes:
        content = os.pread(descriptor, size, offset)
        if len(content) < size:
            raise BadZip("the file is truncated")
        return content

    try:
        members = read_directory(read, os.fstat(descriptor).st_size)
    except BadZip:
        return None
    shareable = [member for member in members if _is_shareable(member)]
    return shareable[0] if len(shareable) == 1 else None


def _is_shareable(member: Member) -> bool:
    return (
        member.name.endswith(_ENDING)
        and member.size >= _SMALLEST
        and member.method == STORED
        and member.start % SHAREABLE == 0
    )


def _stretch(descriptor: int, member: Member) -> Stretch:
    return Stretch(descriptor, member.start, member.size)
