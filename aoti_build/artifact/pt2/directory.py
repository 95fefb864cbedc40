"""The directory of a zip file: which members it has, and where their bytes are.

The file may be damaged or made to do harm. Neither the directory at its end nor the header before
each member is trusted, and both must agree. Refused are members that are not plain files, are
outside the archive, overlap, are encrypted, have the same name, or have a name that leads out of
the directory they are unpacked to. A compressed member with an unlikely size is refused too.

Two readers that disagree on where the directory is can be shown two different contents. So only the
strict layout is read, which torch writes: members, directory, end record, end of file. The layout
of the records is in the .ZIP File Format Specification 6.3.10 (PKWARE APPNOTE), sections 4.3 and
4.5.3.
"""

from __future__ import annotations

import re
import stat
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

# Methods of compression.
STORED = 0
DEFLATED = 8

_END_SIGNATURE = b"PK\x05\x06"
_END64_SIGNATURE = b"PK\x06\x06"
_LOCATOR_SIGNATURE = b"PK\x06\x07"
_ENTRY_SIGNATURE = b"PK\x01\x02"
_LOCAL_SIGNATURE = b"PK\x03\x04"
# Bytes of the records' fixed parts.
_END_SIZE = 22
_LOCATOR_SIZE = 20
_END64_SIZE = 56
_ENTRY_SIZE = 46
_LOCAL_SIZE = 30
_LONGEST_COMMENT = 0xFFFF
# In place of a number: it is too large for this field, and stands in a 64-bit one.
_FULL16 = 0xFFFF
_FULL32 = 0xFFFFFFFF
_EXTRA_64_BIT = 1  # kind of the extra field with 64-bit numbers

# Flags of a member.
_ENCRYPTED = 0x0001 | 0x0040 | 0x2000  # encryption, strong encryption, masked headers
_SIZES_FOLLOW = 0x0008  # sizes and CRC-32 may be after the data, and 0 in the local header

_MOST_MEMBERS = 100_000
_LARGEST_DIRECTORY = 64 << 20  # bytes
# torch does not compress packages. A package that someone else compressed is read, up to sizes that
# source code and weights may have.
_LARGEST_RATIO = 200
_SMALL = 1 << 20  # bytes; the ratio of smaller members does not matter
_LARGEST_INFLATED = 16 << 30  # bytes of all compressed members together
_LONGEST_SHOWN_NAME = 80  # characters

# (offset, size) -> exactly `size` bytes of the file. It raises an error if there are fewer.
Exactly = Callable[[int, int], bytes]


class BadZip(ValueError):
    """The file is not a zip file, is damaged, or is not one that a package can be.

    The text says which.
    """


@dataclass(frozen=True)
class Member:
    """A file in the archive.

    Sizes, and the offset `start` of its data, are in bytes. `method` is `STORED` or `DEFLATED`.
    """

    name: str
    size: int
    compressed: int
    method: int
    crc: int
    start: int


class _Location(NamedTuple):
    """The number of entries of the directory, and its offset and size in bytes."""

    entries: int
    start: int
    size: int


class _EndRecord(NamedTuple):
    """The numbers of an end record, in its order. A disk is a part of a split archive."""

    disk: int
    disk_of_directory: int
    entries_on_disk: int
    entries: int
    size: int
    start: int


_END_LIMITS = _EndRecord(_FULL16, _FULL16, _FULL16, _FULL16, _FULL32, _FULL32)


@dataclass(frozen=True)
class _Entry:
    """The directory's entry of a member.

    `header` is the offset of the member's local header, `end` the offset of the next entry.
    """

    name: str
    raw_name: bytes
    flags: int
    method: int
    crc: int
    compressed: int
    size: int
    header: int
    end: int
    mode: int


def read_directory(read: Exactly, file_size: int) -> list[Member]:
    """The files in the archive, in the order of its directory, without folders. Raises BadZip."""
    location = _locate(read, file_size)
    directory = read(location.start, location.size)
    entries = _entries(directory, location)
    members = [_member(entry, read, location.start) for entry in entries]
    _refuse_overlaps(entries, members)
    return [member for member in members if not member.name.endswith("/")]


def _locate(read: Exactly, file_size: int) -> _Location:
    """Where the directory is, according to the end record."""
    if file_size == 0:
        raise BadZip("the file is empty")
    tail_size = min(file_size, _END_SIZE + _LONGEST_COMMENT)
    tail = read(file_size - tail_size, tail_size)
    position = tail.rfind(_END_SIGNATURE)
    if position < 0 or len(tail) - position < _END_SIZE:
        if read(0, min(4, file_size)) == _LOCAL_SIGNATURE:
            raise BadZip("a truncated zip archive: the directory at its end is missing")
        raise BadZip("not a zip archive, so not a .pt2 package")
    *numbers, comment_size = struct.unpack_from("<4H2LH", tail, position + 4)
    if position + _END_SIZE + comment_size != len(tail):
        raise BadZip(
            "the archive does not end with its end record: it is truncated, or something was"
            " appended"
        )
    record = _EndRecord(*numbers)
    end_of_directory = file_size - tail_size + position
    locator = tail[max(0, position - _LOCATOR_SIZE) : position]
    if len(locator) == _LOCATOR_SIZE and locator.startswith(_LOCATOR_SIGNATURE):
        end_of_directory, record = _read_end64(read, end_of_directory, record)
    if record.disk or record.disk_of_directory or record.entries_on_disk != record.entries:
        raise BadZip("a part of an archive that was split into several files")
    if record.start + record.size != end_of_directory:
        raise BadZip(
            "the archive's directory is not where its end record says: it is truncated, or"
            " something was put before it"
        )
    if record.entries > _MOST_MEMBERS or record.size > _LARGEST_DIRECTORY:
        raise BadZip(
            f"a directory of {record.entries} members in {record.size} bytes exceeds the limits of"
            f" {_MOST_MEMBERS} members and {_LARGEST_DIRECTORY} bytes"
        )
    return _Location(record.entries, record.start, record.size)


def _read_end64(read: Exactly, end: int, plain: _EndRecord) -> tuple[int, _EndRecord]:
    """The 64-bit end record before the plain one at the offset `end`, and its own offset.

    Each number of the plain record must be the same, or say that it is too large.
    """
    end_of_record = end - _LOCATOR_SIZE
    (start,) = struct.unpack("<8xQ4x", read(end_of_record, _LOCATOR_SIZE))
    if start + _END64_SIZE > end_of_record:
        raise BadZip("the archive's 64-bit end record is not where it should be")
    data = read(start, _END64_SIZE)
    # The length does not count the signature and itself.
    length, *numbers = struct.unpack("<4xQ4x2L4Q", data)
    if not data.startswith(_END64_SIGNATURE) or start + 12 + length != end_of_record:
        raise BadZip("the archive's 64-bit end record is damaged")
    record = _EndRecord(*numbers)
    for plain_number, number, limit in zip(plain, record, _END_LIMITS, strict=True):
        if plain_number not in (number, limit):
            raise BadZip("the archive has two end records that differ")
    return start, record


def _entries(directory: bytes, location: _Location) -> list[_Entry]:
    """All entries of the directory, which must fill it."""
    entries = []
    names: set[str] = set()
    offset = 0
    inflated = 0
    for _ in range(location.entries):
        entry = _read_entry(directory, offset)
        _check_entry(entry, end_of_members=location.start)
        if entry.name in names:
            raise BadZip(f"the archive holds {entry.name} twice")
        names.add(entry.name)
        entries.append(entry)
        if entry.method == DEFLATED:
            inflated += entry.size
        offset = entry.end
    if offset != location.size:
        raise BadZip("the archive's directory does not end where its end record says")
    if inflated > _LARGEST_INFLATED:
        raise BadZip(f"a zip bomb: its members would inflate to {inflated} bytes")
    return entries


def _read_entry(directory: bytes, offset: int) -> _Entry:
    """The entry at `offset` in the directory."""
    if len(directory) - offset < _ENTRY_SIZE or not directory.startswith(_ENTRY_SIGNATURE, offset):
        raise BadZip("the archive's directory is damaged")
    (
        flags,
        method,
        crc,
        compressed,
        size,
        name_size,
        extra_size,
        comment_size,
        attributes,
        header,
    ) = struct.unpack_from("<4x2H4x3L3H4xLL", directory, offset + 4)
    start_of_extra = offset + _ENTRY_SIZE + name_size
    end_of_extra = start_of_extra + extra_size
    end = end_of_extra + comment_size
    if end > len(directory):
        raise BadZip("the archive's directory is damaged")
    raw_name = directory[offset + _ENTRY_SIZE : start_of_extra]
    name = _decode_name(raw_name)
    if _FULL32 in (size, compressed, header):
        extra = directory[start_of_extra:end_of_extra]
        size, compressed, header = _read_64_bit(name, extra, (size, compressed, header))
    return _Entry(
        name=name,
        raw_name=raw_name,
        flags=flags,
        method=method,
        crc=crc,
        compressed=compressed,
        size=size,
        header=header,
        end=end,
        # Unix zip programs store the file's mode in the upper half.
        mode=attributes >> 16,
    )


def _decode_name(raw_name: bytes) -> str:
    try:
        name = raw_name.decode()
    except UnicodeDecodeError:
        shown = repr(raw_name[:_LONGEST_SHOWN_NAME])
        raise BadZip(f"a member's name is not UTF-8: {shown}") from None
    shown = repr(name[:_LONGEST_SHOWN_NAME])
    if not name or not name.isprintable() or "\\" in name:
        raise BadZip(f"a member has an impossible name: {shown}")
    parts = name.removesuffix("/").split("/")
    has_drive = re.match("[A-Za-z]:", name)
    if has_drive or any(part in ("", ".", "..") for part in parts):
        raise BadZip(f"a member's name leads out of the archive: {shown}")
    return name


def _read_64_bit(name: str, extra: bytes, numbers: tuple[int, int, int]) -> tuple[int, int, int]:
    """Size, compressed size and offset, with those that are too large taken from `extra`.

    The 64-bit extra field has only the numbers that are too large, in this order.
    """
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<2H", extra)
        field = extra[4 : 4 + length]
        extra = extra[4 + length :]
        if kind != _EXTRA_64_BIT:
            continue
        count = len(field) // 8
        large = list(struct.unpack_from(f"<{count}Q", field))
        values = []
        for number in numbers:
            if number != _FULL32:
                values.append(number)
            elif large:
                values.append(large.pop(0))
        if len(values) == len(numbers):
            size, compressed, header = values
            return size, compressed, header
    raise BadZip(f"{name} has no size in the archive's directory")


def _check_entry(entry: _Entry, end_of_members: int) -> None:
    _check_kind(entry)
    name = entry.name
    if entry.flags & _ENCRYPTED:
        raise BadZip(f"{name} is encrypted")
    if entry.method not in (STORED, DEFLATED):
        raise BadZip(f"{name} is compressed by method {entry.method}, which .pt2 readers lack")
    if entry.method == STORED and entry.size != entry.compressed:
        raise BadZip(
            f"{name} is not compressed, but has two sizes: {entry.size} and {entry.compressed}"
            " bytes"
        )
    smallest_end = entry.header + _LOCAL_SIZE + len(entry.raw_name) + entry.compressed
    if smallest_end > end_of_members:
        raise BadZip(f"{name} is beyond the end of the archive: it is truncated or damaged")
    if entry.size > max(_SMALL, entry.compressed * _LARGEST_RATIO):
        raise BadZip(
            f"a zip bomb: {name} would inflate from {entry.compressed} to {entry.size} bytes"
        )


def _check_kind(entry: _Entry) -> None:
    """Refuse what is neither a file nor a folder. A mode of 0 says nothing about the kind."""
    name = entry.name
    kind = stat.S_IFMT(entry.mode)
    is_folder = name.endswith("/")
    if kind == stat.S_IFLNK:
        raise BadZip(f"{name} is a symbolic link; a package holds files only")
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR) or (kind == stat.S_IFDIR and not is_folder):
        raise BadZip(f"{name} is not a plain file; a package holds files only")
    if is_folder and entry.size:
        raise BadZip(f"{name} is a folder with content")


def _member(entry: _Entry, read: Exactly, end_of_members: int) -> Member:
    """The member of an entry, whose local header must agree with the entry."""
    header = read(entry.header, _LOCAL_SIZE + len(entry.raw_name))
    flags, method, crc, compressed, size, name_size, extra_size = struct.unpack_from(
        "<2x2H4x3L2H", header, 4
    )
    # What a local header may have in place of a number.
    placeholders = (0, _FULL32) if flags & _SIZES_FOLLOW else (_FULL32,)
    start = entry.header + _LOCAL_SIZE + name_size + extra_size
    agrees = (
        header.startswith(_LOCAL_SIGNATURE)
        and header[_LOCAL_SIZE:] == entry.raw_name
        and name_size == len(entry.raw_name)
        and method == entry.method
        and not flags & _ENCRYPTED
        and crc in (entry.crc, *placeholders)
        and compressed in (entry.compressed, *placeholders)
        and size in (entry.size, *placeholders)
    )
    if not agrees or start + entry.compressed > end_of_members:
        raise BadZip(f"{entry.name} has a local header that differs from the archive's directory")
    return Member(
        name=entry.name,
        size=entry.size,
        compressed=entry.compressed,
        method=entry.method,
        crc=entry.crc,
        start=start,
    )


def _refuse_overlaps(entries: list[_Entry], members: list[Member]) -> None:
    """Refuse members that have bytes in common, header and data together."""
    by_offset = sorted(
        zip(entries, members, strict=True),
        key=lambda pair: pair[0].header,
    )
    end = 0
    for entry, member in by_offset:
        if entry.header < end:
            raise BadZip(f"{member.name} overlaps another member, as in a zip bomb")
        end = member.start + member.compressed
