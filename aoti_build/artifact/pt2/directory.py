"""The directory of a zip file, read without trust: which members there are, and where their bytes
lie.

Neither the directory at the end of the file nor the header in front of each member is believed;
they must agree. What is no plain file, lies outside of the archive, overlaps, is encrypted, named
twice or named so that unpacking could leave the directory it is unpacked to, is refused; so is a
compressed member that claims an unlikely size.

Two readers that disagree on where a zip's directory is can be shown two different contents, so only
the strict layout is read: members, directory, end record, end of file. That is what torch writes.
Layout of the records: .ZIP File Format Specification 6.3.10 (PKWARE APPNOTE), sections 4.3 and
4.5.3.
"""

from __future__ import annotations

import re
import stat
import struct
from collections.abc import Callable
from dataclasses import dataclass

STORED, DEFLATED = 0, 8
_END, _END64, _LOCATOR = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07"
_ENTRY, _LOCAL = b"PK\x01\x02", b"PK\x03\x04"
_END_SIZE, _LOCATOR_SIZE, _END64_SIZE = 22, 20, 56
_ENTRY_SIZE, _LOCAL_SIZE = 46, 30
_LONGEST_COMMENT = 0xFFFF
_FULL16, _FULL32 = 0xFFFF, 0xFFFFFFFF  # "too large for here, see the 64-bit field"
_ENCRYPTED = 0x0001 | 0x0040 | 0x2000  # encryption, strong encryption, masked headers
_SIZES_FOLLOW = 0x0008  # sizes and CRC-32 may stand behind the data instead of in the local header
_MOST_MEMBERS = 100_000
_LARGEST_DIRECTORY = 64 << 20  # bytes
# Packages are stored. One that was compressed by other hands is read, up to what source code and
# weights may come to.
_LARGEST_RATIO = 200
_HARMLESS = 1 << 20  # bytes; below, the ratio is not asked
_LARGEST_INFLATED = 16 << 30  # bytes, all compressed members together

# (offset, size) -> exactly so many bytes of the file, or it raises.
Exactly = Callable[[int, int], bytes]


class BadZip(ValueError):
    """The file is no zip, a damaged one, or one that no package is. The text says which."""


@dataclass(frozen=True)
class Member:
    """A file in the archive: sizes and offset of its data in bytes, `method` 0 (stored) or 8
    (deflated)."""

    name: str
    size: int
    compressed: int
    method: int
    crc: int
    start: int


@dataclass(frozen=True)
class _Entry:
    """What the directory says of a member; `header` is the offset of its own header, `end` that of
    the next entry."""

    name: str
    raw: bytes
    flags: int
    method: int
    crc: int
    compressed: int
    size: int
    header: int
    end: int


def read_directory(read: Exactly, file_size: int) -> list[Member]:
    """The files in the archive, in the order of its directory; folders are left out. Raises
    BadZip."""
    count, start, size = _find(read, file_size)
    directory = read(start, size)
    found: list[tuple[int, Member]] = []
    names: set[str] = set()
    inflated = offset = 0
    for _ in range(count):
        entry = _entry(directory, offset, start)
        offset = entry.end
        if entry.name in names:
            raise BadZip(f"the archive holds {entry.name} twice")
        names.add(entry.name)
        inflated += entry.size if entry.method == DEFLATED else 0
        found.append((entry.header, _located(entry, read, start)))
    if offset != size:
        raise BadZip("the archive's directory does not end where its end record says")
    if inflated > _LARGEST_INFLATED:
        raise BadZip(f"a zip bomb: its members would inflate to {inflated} bytes")
    end = 0
    for header, member in sorted(found, key=lambda pair: pair[0]):
        if header < end:
            raise BadZip(f"{member.name} overlaps another member, as in a zip bomb")
        end = member.start + member.compressed
    return [member for _, member in found if not member.name.endswith("/")]


def _find(read: Exactly, file_size: int) -> tuple[int, int, int]:
    """(entries, offset and size in bytes) of the directory, from the record at the end of the
    file."""
    if file_size == 0:
        raise BadZip("the file is empty")
    tail_size = min(file_size, _END_SIZE + _LONGEST_COMMENT)
    tail = read(file_size - tail_size, tail_size)
    found = tail.rfind(_END)
    if found < 0 or len(tail) - found < _END_SIZE:
        if read(0, min(4, file_size)) == _LOCAL:
            raise BadZip("a truncated zip archive: the directory at its end is missing")
        raise BadZip("not a zip archive, so no .pt2 package")
    *numbers, comment = struct.unpack_from("<4H2LH", tail, found + 4)
    if found + _END_SIZE + comment != len(tail):
        raise BadZip(
            "the archive does not end with its end record: it is truncated, or something was"
            " appended"
        )
    end = file_size - tail_size + found
    if found >= _LOCATOR_SIZE and tail[found - _LOCATOR_SIZE :][:4] == _LOCATOR:
        end, numbers = _find64(read, end, numbers)
    disk, first_disk, here, count, size, start = numbers
    if disk or first_disk or here != count:
        raise BadZip("a part of an archive that was split over several files")
    if start + size != end:
        raise BadZip(
            "the archive's directory is not where its end record says: it is truncated, or has a"
            " foreign head"
        )
    if count > _MOST_MEMBERS or size > _LARGEST_DIRECTORY:
        raise BadZip(f"a directory of {count} members in {size} bytes is not that of a package")
    return count, start, size


def _find64(read: Exactly, end: int, plain: list[int]) -> tuple[int, list[int]]:
    """(offset, numbers) of the 64-bit end record. The plain one must agree, or say that a number is
    too large."""
    (at,) = struct.unpack("<8xQ4x", read(end - _LOCATOR_SIZE, _LOCATOR_SIZE))
    if at + _END64_SIZE > end - _LOCATOR_SIZE:
        raise BadZip("the archive's 64-bit end record is not where it should be")
    record = read(at, _END64_SIZE)
    length, *numbers = struct.unpack("<4xQ4x2L4Q", record)
    if record[:4] != _END64 or at + 12 + length != end - _LOCATOR_SIZE:
        raise BadZip("the archive's 64-bit end record is damaged")
    full = (_FULL16, _FULL16, _FULL16, _FULL16, _FULL32, _FULL32)
    if any(
        small not in (large, most) for small, large, most in zip(plain, numbers, full, strict=True)
    ):
        raise BadZip("the archive has two end records that differ")
    return at, numbers


def _entry(directory: bytes, offset: int, limit: int) -> _Entry:
    """The directory's entry at `offset`. `limit`: where the members must have ended."""
    if len(directory) - offset < _ENTRY_SIZE or directory[offset : offset + 4] != _ENTRY:
        raise BadZip("the archive's directory is damaged")
    fields = struct.unpack_from("<4x2H4x3L3H4xLL", directory, offset + 4)
    flags, method, crc, compressed, size, *lengths, attributes, header = fields
    start = offset + _ENTRY_SIZE
    end = start + sum(lengths)
    if end > len(directory):
        raise BadZip("the archive's directory is damaged")
    raw = directory[start : start + lengths[0]]
    name = _name(raw)
    if _FULL32 in (size, compressed, header):
        extra = directory[start + lengths[0] : end - lengths[2]]
        size, compressed, header = _wide(name, extra, (size, compressed, header))
    entry = _Entry(name, raw, flags, method, crc, compressed, size, header, end)
    _check(entry, attributes >> 16, limit)
    return entry


def _name(raw: bytes) -> str:
    try:
        name = raw.decode()
    except UnicodeDecodeError:
        raise BadZip(f"a member's name is not UTF-8: {raw[:80]!r}") from None
    if not name or not name.isprintable() or "\\" in name:
        raise BadZip(f"a member has an impossible name: {name[:80]!r}")
    parts = name.removesuffix("/").split("/")
    if any(part in ("", ".", "..") for part in parts) or re.match("[A-Za-z]:", name):
        raise BadZip(f"a member's name leads out of the archive: {name[:80]!r}")
    return name


def _wide(name: str, extra: bytes, numbers: tuple[int, int, int]) -> tuple[int, int, int]:
    """Size, compressed size and offset; those that say "too large" are taken from the 64-bit extra
    field."""
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<2H", extra)
        field, extra = extra[4 : 4 + length], extra[4 + length :]
        if kind == 1:
            wide = iter(struct.unpack(f"<{len(field) // 8}Q", field[: len(field) // 8 * 8]))
            size, compressed, header = (
                next(wide, -1) if number == _FULL32 else number for number in numbers
            )
            if min(size, compressed, header) >= 0:
                return size, compressed, header
    raise BadZip(f"{name} has no size in the archive's directory")


def _check(entry: _Entry, mode: int, limit: int) -> None:
    name, kind = entry.name, stat.S_IFMT(mode)
    if kind == stat.S_IFLNK:
        raise BadZip(f"{name} is a symbolic link; a package holds files only")
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR) or (
        kind == stat.S_IFDIR and not name.endswith("/")
    ):
        raise BadZip(f"{name} is no plain file; a package holds files only")
    if entry.flags & _ENCRYPTED:
        raise BadZip(f"{name} is encrypted")
    if entry.method not in (STORED, DEFLATED):
        raise BadZip(f"{name} is compressed by method {entry.method}, which no .pt2 reader knows")
    if entry.method == STORED and entry.size != entry.compressed:
        raise BadZip(
            f"{name} is stored, yet has two sizes: {entry.size} and {entry.compressed} bytes"
        )
    if name.endswith("/") and entry.size:
        raise BadZip(f"{name} is a folder with content")
    if entry.header + _LOCAL_SIZE + len(entry.raw) + entry.compressed > limit:
        raise BadZip(f"{name} lies beyond the end of the archive: it is truncated or damaged")
    if entry.size > max(_HARMLESS, entry.compressed * _LARGEST_RATIO):
        raise BadZip(
            f"a zip bomb: {name} would inflate from {entry.compressed} to {entry.size} bytes"
        )


def _located(entry: _Entry, read: Exactly, limit: int) -> Member:
    """The member itself, by the header in front of it, which must say what the directory says."""
    header = read(entry.header, _LOCAL_SIZE + len(entry.raw))
    flags, method, crc, compressed, size, name_length, extra_length = struct.unpack_from(
        "<2x2H4x3L2H", header, 4
    )
    start = entry.header + _LOCAL_SIZE + name_length + extra_length
    numbers = ((crc, entry.crc), (compressed, entry.compressed), (size, entry.size))
    unsaid = (0, _FULL32) if flags & _SIZES_FOLLOW else (_FULL32,)
    agrees = (
        header[:4] == _LOCAL
        and header[_LOCAL_SIZE:] == entry.raw
        and name_length == len(entry.raw)
        and method == entry.method
        and not flags & _ENCRYPTED
        and all(local in (central, *unsaid) for local, central in numbers)
    )
    if not agrees or start + entry.compressed > limit:
        raise BadZip(
            f"{entry.name} has a header of its own that differs from the archive's directory"
        )
    return Member(entry.name, entry.size, entry.compressed, entry.method, entry.crc, start)
