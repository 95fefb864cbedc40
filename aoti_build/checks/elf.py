"""Which shared libraries an ELF file asks the loader for."""

from __future__ import annotations

import struct
from pathlib import Path

_PT_LOAD, _PT_DYNAMIC = 1, 2
_DT_NEEDED, _DT_STRTAB = 1, 5


def needed_libraries(path: Path) -> tuple[str, ...]:
    """The DT_NEEDED names ("libstdc++.so.6") of a 64-bit little-endian ELF file, in its order; `ValueError` for any
    other file."""
    data = path.read_bytes()
    if data[:6] != b"\x7fELF\x02\x01":
        raise ValueError(f"{path.name} is no 64-bit little-endian ELF file")
    try:
        return _needed(data)
    except (struct.error, StopIteration) as error:
        raise ValueError(f"{path.name} is cut short or has no string table") from error


def _needed(data: bytes) -> tuple[str, ...]:
    (headers,) = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    # p_type, p_flags, p_offset, p_vaddr, p_paddr, p_filesz
    segments = [struct.unpack_from("<IIQQQQ", data, headers + index * size) for index in range(count)]
    entries: list[tuple[int, int]] = []
    for kind, _, offset, _, _, length in segments:
        if kind == _PT_DYNAMIC:
            entries += [struct.unpack_from("<qQ", data, offset + at) for at in range(0, length, 16)]
    names = [value for tag, value in entries if tag == _DT_NEEDED]
    if not names:
        return ()
    address = next(value for tag, value in entries if tag == _DT_STRTAB)
    strings = next(
        offset + address - start
        for kind, _, offset, start, _, length in segments
        if kind == _PT_LOAD and start <= address < start + length
    )
    return tuple(data[strings + name : data.index(b"\0", strings + name)].decode() for name in names)
