"""Which architectures a CUDA fat binary holds code for: one file per kernel, with a cubin or PTX
for each.

inductor writes them with `aot_inductor.emit_multi_arch_kernel`. NVIDIA describes the container
nowhere; this is the part of its layout that cuobjdump's listing of libraries of CUDA 13 confirms:
headers (magic, version, own size, size of what follows), each with entries (kind, version, own
size, size of the data, ..., architecture, ..., flags).
"""

from __future__ import annotations

import struct

from aoti_build.common.elf import Read

_MAGIC = 0xBA55ED50
_HEADER, _ENTRY = struct.Struct("<LHHQ"), struct.Struct("<HHLQLLHHLQQ")
_PREFIXES = {1: "compute_", 2: "sm_"}  # PTX, for that architecture and newer; machine code
_MARKS = {1 << 20: "a", 1 << 21: "f"}  # among the flags
_MOST = 1024  # entries looked at


class NotFatbin(ValueError):
    """The bytes are no fat binary, or a damaged one."""


def read_fatbin(read: Read) -> tuple[str, ...]:
    """The architectures in order, such as ``sm_80``, ``sm_90a``, ``compute_90a``. Raises
    NotFatbin."""
    found: dict[str, None] = {}
    at = looked = 0
    while header := read(at, _HEADER.size):
        if len(header) < _HEADER.size:
            raise NotFatbin("a truncated fat binary")
        magic, _, own, size = _HEADER.unpack(header)
        if magic != _MAGIC or own < _HEADER.size or not size:
            raise NotFatbin("not a CUDA fat binary")
        at += own
        end = at + size
        while at < end:
            entry = read(at, _ENTRY.size)
            looked += 1
            if len(entry) < _ENTRY.size or looked > _MOST:
                raise NotFatbin("a damaged fat binary")
            kind, _, own, size, _, _, _, _, architecture, _, flags = _ENTRY.unpack(entry)
            mark = next((mark for flag, mark in _MARKS.items() if flags & flag), "")
            found[f"{_PREFIXES.get(kind, 'unknown_')}{architecture}{mark}"] = None
            at += max(own, _ENTRY.size) + size
    if not found:
        raise NotFatbin("an empty file")
    return tuple(found)
