"""The architectures that a CUDA fat binary has code for.

inductor writes one fat binary per kernel with `aot_inductor.emit_multi_arch_kernel`, with a cubin
or PTX for each architecture. NVIDIA does not document the format. This is the part of the layout
that cuobjdump's listing of libraries of CUDA 13 confirms:

- a header: magic, version, own size, size of the entries that follow;
- entries: kind, version, own size, size of the data, ..., architecture, ..., flags. The data follow
  each entry.

A file may have several headers with their entries, one after the other.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from aoti_build.common.elf import Read

_MAGIC = 0xBA55ED50
_HEADER = struct.Struct("<LHHQ")
_ENTRY = struct.Struct("<HHLQLLHHLQQ")
# PTX runs on its architecture and on newer ones; machine code (2) has the prefix of cubins.
_PREFIXES = {1: "compute_", 2: "sm_"}
_SUFFIX_FLAGS = {1 << 20: "a", 1 << 21: "f"}
_MOST_ENTRIES = 1024


class NotFatbin(ValueError):
    """The bytes are not a fat binary, or a damaged one."""


class _Entry(NamedTuple):
    """One entry: its `architecture`, and its size with its data in bytes."""

    architecture: str
    size: int


def read_fatbin(read: Read) -> tuple[str, ...]:
    """The architectures in order, such as ``sm_80``, ``sm_90a``, ``compute_90a``.

    Raises NotFatbin.
    """
    # A dict keeps the order and drops what is repeated.
    architectures: dict[str, None] = {}
    offset = entries = 0
    while True:
        header = read(offset, _HEADER.size)
        if not header:
            break
        start, end = _entries_of(header, offset)
        offset = start
        while offset < end:
            entries += 1
            if entries > _MOST_ENTRIES:
                raise NotFatbin("a damaged fat binary")
            entry = _read_entry(read(offset, _ENTRY.size))
            architectures[entry.architecture] = None
            offset += entry.size
    if not architectures:
        raise NotFatbin("an empty file")
    return tuple(architectures)


def _entries_of(header: bytes, offset: int) -> tuple[int, int]:
    """Where the entries of the header at `offset` begin and end."""
    if len(header) < _HEADER.size:
        raise NotFatbin("a truncated fat binary")
    magic, _, header_size, size = _HEADER.unpack(header)
    if magic != _MAGIC or header_size < _HEADER.size or not size:
        raise NotFatbin("not a CUDA fat binary")
    start = offset + header_size
    return start, start + size


def _read_entry(data: bytes) -> _Entry:
    if len(data) < _ENTRY.size:
        raise NotFatbin("a damaged fat binary")
    kind, _, own_size, data_size, _, _, _, _, number, _, flags = _ENTRY.unpack(data)
    suffix = ""
    for flag, letter in _SUFFIX_FLAGS.items():
        if flags & flag:
            suffix = letter
            break
    architecture = f"{_PREFIXES.get(kind, 'unknown_')}{number}{suffix}"
    # A damaged size of 0 must not stop the progress through the file.
    return _Entry(architecture, max(own_size, _ENTRY.size) + data_size)
