"""Reads a package once: digests it and, in the same pass, unpacks it or compares it with files that
were unpacked earlier.

A `.pt2` is a zip whose members are stored without compression, so each member is a range of the
file. A single pass means that the digested bytes are the unpacked bytes, even if another process
writes to the file during the read. The zip's directory is parsed before that pass. `digest`
therefore compares the parsed bytes with the digested ones.

The sha256 of a large file keeps one core busy for a while. So the pass also makes a digest of each
block of each member. All cores can check these at once.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from aoti_build.artifact.pt2.directory import STORED, BadZip, Member, read_directory
from aoti_build.common import digests
from aoti_build.common.reading import open_regular
from aoti_build.common.stat_cache import stat_key
from aoti_build.common.writing import write_at

CHUNK = 4 << 20  # bytes read at a time, and bytes of each block that has a digest
WHOLE = "package.pt2"  # the file name of a package that is kept packed


class ParsedRange(NamedTuple):
    """Bytes that were read to find the members, and their offset in the package."""

    offset: int
    data: bytes

    @property
    def end(self) -> int:
        return self.offset + len(self.data)


class Contents(NamedTuple):
    """The files in a package in the order of their bytes, and the ranges that describe them."""

    members: tuple[Member, ...]
    parsed: tuple[ParsedRange, ...] = ()


class Piece(NamedTuple):
    """Up to `CHUNK` bytes of a package at `offset`, of one member or of none."""

    member: Member | None
    offset: int
    data: bytes

    @property
    def end(self) -> int:
        return self.offset + len(self.data)


def contents_of(descriptor: int) -> Contents | None:
    """The contents of an open package; None if torch cannot load its files from a directory.

    That takes a valid zip with one root, all members uncompressed, and no constants in files of
    their own.
    """
    parsed: list[ParsedRange] = []

    def read_exactly(offset: int, size: int) -> bytes:
        data = os.pread(descriptor, size, offset)
        if len(data) < size:
            raise BadZip("the file ends before its content does")
        parsed.append(ParsedRange(offset, data))
        return data

    try:
        members = read_directory(read_exactly, os.fstat(descriptor).st_size)
    except (OSError, BadZip):
        return None
    # `read_directory` refuses names that leave the directory, so a root is a plain name.
    roots = {PurePosixPath(member.name).parts[0] for member in members}
    if len(roots) != 1 or not all(_loads_unpacked(member) for member in members):
        return None
    members.sort(key=lambda member: member.start)
    return Contents(tuple(members), tuple(parsed))


def _loads_unpacked(member: Member) -> bool:
    parts = PurePosixPath(member.name).parts
    has_root = len(parts) >= 2
    is_constant = parts[1:3] == ("data", "constants")
    return member.method == STORED and has_root and not is_constant


def single_file_contents(size: int) -> Contents:
    """The contents of a package of `size` bytes that is kept packed, as the file `WHOLE`."""
    package = Member(
        name=WHOLE,
        size=size,
        compressed=size,
        method=STORED,
        crc=0,
        start=0,
    )
    return Contents((package,))


class Sink:
    """Receives the pieces of a package's members in order, and digests each as a block."""

    def __init__(self, directory: Path, contents: Contents) -> None:
        self._directory = directory
        self._blocks: dict[str, list[Future[str]]] = {}
        for member in contents.members:
            self._blocks[member.name] = []

    def take(
        self,
        member: Member,
        piece: Piece,
        executor: ThreadPoolExecutor,
    ) -> None:
        block = executor.submit(digests.block_digest, piece.data)
        self._blocks[member.name].append(block)

    def blocks(self) -> dict[str, list[str]]:
        """The digest of each block of each file. Call it after the last piece."""
        digested = {}
        for name, blocks in self._blocks.items():
            digested[name] = [block.result() for block in blocks]
        return digested


class Writer(Sink):
    """Unpacks the members into files of a directory."""

    def __init__(self, directory: Path, contents: Contents) -> None:
        super().__init__(directory, contents)
        self._name = ""  # of the open file
        self._descriptor = -1
        for member in contents.members:
            # A member without bytes has no piece, so every file is made here.
            path = directory / member.name
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            os.close(descriptor)

    def take(
        self,
        member: Member,
        piece: Piece,
        executor: ThreadPoolExecutor,
    ) -> None:
        super().take(member, piece, executor)
        self.write(member, piece)

    def write(self, member: Member, piece: Piece) -> None:
        if self._name != member.name:
            self.close()
            self._descriptor = os.open(self._directory / member.name, os.O_WRONLY)
            self._name = member.name
        offset = piece.offset - member.start
        write_at(self._descriptor, memoryview(piece.data), offset)

    def close(self) -> None:
        if self._name:
            os.close(self._descriptor)
            self._name = ""


class Comparer(Sink):
    """Compares the members with files that were unpacked earlier.

    `same` says whether all of them agree so far, sizes included. `stats` holds the stat that each
    file had before it was read. The directory may also hold the file `record`, and nothing else.
    """

    def __init__(
        self,
        directory: Path,
        contents: Contents,
        record: str,
    ) -> None:
        super().__init__(directory, contents)
        self.stats: dict[str, list[int]] = {}
        try:
            self.same = self._has_right_files(contents, record)
        except OSError:
            self.same = False

    def _has_right_files(self, contents: Contents, record: str) -> bool:
        names = [member.name for member in contents.members]
        without_record = has_only(self._directory, names)
        if not without_record and not has_only(self._directory, [record, *names]):
            return False
        for member in contents.members:
            stat = stat_key(self._directory / member.name)
            if stat is None or stat[0] != member.size:
                return False
            self.stats[member.name] = stat
        return True

    def take(
        self,
        member: Member,
        piece: Piece,
        executor: ThreadPoolExecutor,
    ) -> None:
        if not self.same:
            return
        super().take(member, piece, executor)
        try:
            data = self._read(member, piece)
        except OSError:
            self.same = False
        else:
            self.same = data == piece.data

    def _read(self, member: Member, piece: Piece) -> bytes:
        descriptor = open_regular(self._directory / member.name)
        offset = piece.offset - member.start
        try:
            return os.pread(descriptor, len(piece.data), offset)
        finally:
            os.close(descriptor)


def digest(
    descriptor: int,
    contents: Contents | None = None,
    sink: Sink | None = None,
) -> str:
    """The sha256 of an open file; `sink` receives each piece of a member.

    Empty if the file changed since `contents` was parsed from it.
    """
    contents = contents or Contents(())
    # Two threads: sha256 of one piece runs during the read of the next one and its block digest.
    sha256 = hashlib.sha256()
    parsed = _ParsedComparison(contents.parsed)
    with ThreadPoolExecutor(2, "digest") as executor:
        previous: Future[None] | None = None
        for piece in _pieces(descriptor, contents.members):
            if previous is not None:
                previous.result()  # sha256 takes the pieces in order
            previous = executor.submit(sha256.update, piece.data)
            parsed.compare(piece)
            if piece.member and sink:
                sink.take(piece.member, piece, executor)
    if not parsed.same:
        return ""
    return sha256.hexdigest()


class _ParsedComparison:
    """Compares the parsed ranges of a file with its pieces, which come in order.

    `same` says whether all bytes agree so far.
    """

    def __init__(self, ranges: Iterable[ParsedRange]) -> None:
        self.same = True
        self._ahead = sorted(ranges, reverse=True)  # the first range is the last entry
        self._current: list[ParsedRange] = []  # ranges that began and have not ended

    def compare(self, piece: Piece) -> None:
        while self._ahead and self._ahead[-1].offset < piece.end:
            self._current.append(self._ahead.pop())
        for parsed in self._current:
            if not _agree(parsed, piece):
                self.same = False
        self._current = [parsed for parsed in self._current if parsed.end > piece.end]


def _agree(parsed: ParsedRange, piece: Piece) -> bool:
    """Whether the bytes that two parts of a file have in common are equal."""
    start = max(parsed.offset, piece.offset)
    end = min(parsed.end, piece.end)
    if start >= end:
        return True
    expected = parsed.data[start - parsed.offset : end - parsed.offset]
    actual = piece.data[start - piece.offset : end - piece.offset]
    return actual == expected


def unpack(descriptor: int, contents: Contents, writer: Writer) -> None:
    """Write the members of an open file without digesting anything."""
    for piece in _pieces(descriptor, contents.members):
        if piece.member:
            writer.write(piece.member, piece)


def _pieces(descriptor: int, members: Iterable[Member]) -> Iterator[Piece]:
    """The file from start to end. No piece crosses the border of a member."""
    position = 0
    for member in members:
        end = member.start + member.size
        # First what lies between two members: headers and padding.
        yield from _range_pieces(descriptor, None, position, member.start)
        yield from _range_pieces(descriptor, member, member.start, end)
        position = end
    # The zip's directory, which ends the file.
    file_size = os.fstat(descriptor).st_size
    yield from _range_pieces(descriptor, None, position, file_size)


def _range_pieces(
    descriptor: int,
    member: Member | None,
    start: int,
    end: int,
) -> Iterator[Piece]:
    while start < end:
        size = min(CHUNK, end - start)
        data = os.pread(descriptor, size, start)
        if not data:  # the file was truncated during the read
            return
        yield Piece(member, start, data)
        start += len(data)


def has_only(directory: Path, files: Collection[str]) -> bool:
    """Whether a directory holds exactly these files, by relative path, and the folders they need.

    A link, an empty folder or a special file makes it False. Raises OSError.
    """
    expected = set(files)
    for name in files:
        folder = name.rpartition("/")[0]
        while folder:
            expected.add(f"{folder}/")
            folder = folder.rpartition("/")[0]
    entries = _entries_below(str(directory), "")
    return expected == set(entries)


def _entries_below(directory: str, prefix: str) -> Iterator[str]:
    """Every relative path in a directory. A folder's ends with ``/``, and that of anything but a
    folder or regular file with ``//``, which no expected name does."""
    with os.scandir(directory) as entries:
        for entry in entries:
            name = f"{prefix}{entry.name}"
            if entry.is_dir(follow_symlinks=False):
                yield f"{name}/"
                yield from _entries_below(entry.path, f"{name}/")
            elif entry.is_file(follow_symlinks=False):
                yield name
            else:
                yield f"{name}//"
