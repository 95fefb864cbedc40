"""Reads a package once: digests it and, in the same pass, unpacks it or compares it with files that
were unpacked earlier.

A `.pt2` is a zip whose members are stored without compression, so each member is a range of the
file. A single pass means that the digested bytes are the unpacked bytes, even if another process
writes to the file during the read. The zip's directory is parsed before that pass. `digest`
therefore compares the parsed bytes with the digested ones.

The sha256 of a large file keeps one core busy for a while. So the pass also makes a digest of each
block of each member. All cores can check these at once. The first pass takes two cores: one for the
sha256, and one for the read, the blocks and the write.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from aoti_build.artifact.pt2.directory import STORED, BadZip, Member, read_directory
from aoti_build.common import digests
from aoti_build.common.reading import open_regular
from aoti_build.common.stat_cache import stat_key
from aoti_build.common.writing import write_at
from aoti_build.runtime.buffers import Buffers
from aoti_build.runtime.constants import read_constants

CHUNK = 4 << 20  # bytes of each block that has a digest
# Bytes read at a time: few calls, and small enough for a core's own cache. It divides `CHUNK`.
_PIECE = 1 << 19
_PIECES_AT_ONCE = 4
WHOLE = "package.pt2"  # the file name of a package that is kept packed
WEIGHTS = "weights.blob"  # the file name of weights that are kept apart
_BLOB = "_weights.blob"  # how the name of the member with the weights ends
_SOURCE = ".wrapper.cpp"  # and that of the generated source, which lists them


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
    """Some bytes of a package at `offset`, of one block of a member or of no member.

    The memory of `data` is reused, so it is valid for a short time.
    """

    member: Member | None
    offset: int
    data: memoryview

    @property
    def end(self) -> int:
        return self.offset + len(self.data)


def contents_of(descriptor: int, *, weights_apart: bool = False) -> Contents | None:
    """The contents of an open package; None if torch cannot load its files from a directory.

    That takes a valid zip with one root, all members uncompressed, and no constants in files of
    their own. With `weights_apart` the weights become the file `WEIGHTS` beside the root, where
    torch's loader does not find them.
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
    if weights_apart:
        members = _with_weights_apart(descriptor, members)
    members.sort(key=lambda member: member.start)
    return Contents(tuple(members), tuple(parsed))


def _with_weights_apart(descriptor: int, members: list[Member]) -> list[Member]:
    """The members, with the name `WEIGHTS` for the only blob that has any bytes.

    They stay as they are if the package does not say where each weight lies in the blob. torch's
    loader then reads it as always.
    """
    blobs = [member for member in members if member.name.endswith(_BLOB) and member.size]
    sources = [member for member in members if member.name.endswith(_SOURCE)]
    if len(blobs) != 1 or len(sources) != 1:
        return members
    source = os.pread(descriptor, sources[0].size, sources[0].start)
    try:
        read_constants(source.decode(), blobs[0].size)
    except ValueError:
        return members
    others = [member for member in members if member is not blobs[0]]
    return [*others, replace(blobs[0], name=WEIGHTS)]


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
    """Receives the pieces of a package's members in order, and digests each block of a member."""

    def __init__(self, directory: Path, contents: Contents) -> None:
        self._directory = directory
        self._blocks: dict[str, list[str]] = {}
        for member in contents.members:
            self._blocks[member.name] = []
        self._block = digests.new_block()
        self._name = ""  # of the open file
        self._descriptor = -1

    def take(self, member: Member, piece: Piece) -> None:
        """Use the bytes of a piece, which are others after the call. Raises OSError."""
        self._block.update(piece.data)
        end = piece.end - member.start
        if end % CHUNK == 0 or end == member.size:
            self._blocks[member.name].append(self._block.hexdigest())
            self._block = digests.new_block()

    def blocks(self) -> dict[str, list[str]]:
        """The digest of each block of each file. Call it after the last piece."""
        return self._blocks

    def close(self) -> None:
        if self._name:
            os.close(self._descriptor)
            self._name = ""

    def _file_of(self, member: Member) -> int:
        """A descriptor of the member's file, open until the first piece of another member."""
        if self._name != member.name:
            self.close()
            self._descriptor = self._open(self._directory / member.name)
            self._name = member.name
        return self._descriptor

    def _open(self, path: Path) -> int:
        raise NotImplementedError


class Writer(Sink):
    """Unpacks the members into files of a directory."""

    def __init__(self, directory: Path, contents: Contents) -> None:
        super().__init__(directory, contents)
        for member in contents.members:
            # A member without bytes has no piece, so every file is made here.
            path = directory / member.name
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            os.close(descriptor)

    def take(self, member: Member, piece: Piece) -> None:
        super().take(member, piece)
        self.write(member, piece)

    def write(self, member: Member, piece: Piece) -> None:
        write_at(self._file_of(member), piece.data, piece.offset - member.start)

    def _open(self, path: Path) -> int:
        return os.open(path, os.O_WRONLY)


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
        self._buffer = memoryview(bytearray(_PIECE))
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

    def take(self, member: Member, piece: Piece) -> None:
        if not self.same:
            return
        super().take(member, piece)
        try:
            data = self._read(member, piece)
        except OSError:
            self.same = False
        else:
            self.same = data == piece.data

    def _read(self, member: Member, piece: Piece) -> memoryview:
        data = self._buffer[: len(piece.data)]
        count = os.preadv(self._file_of(member), [data], piece.offset - member.start)
        return data[:count]

    def _open(self, path: Path) -> int:
        return open_regular(path)


def digest(
    descriptor: int,
    contents: Contents | None = None,
    sink: Sink | None = None,
) -> str:
    """The sha256 of an open file; `sink` receives each piece of a member.

    Empty if the file changed since `contents` was parsed from it. Raises OSError.
    """
    contents = contents or Contents(())
    sha256 = hashlib.sha256()
    parsed = _ParsedComparison(contents.parsed)
    buffers = Buffers(_PIECE, _PIECES_AT_ONCE)
    # Each takes the pieces in order. One digests the file while the other feeds the sink and this
    # thread reads on.
    with ThreadPoolExecutor(1, "digest") as digester, ThreadPoolExecutor(1, "sink") as feeder:
        for piece in _pieces(descriptor, contents.members, buffers):
            parsed.compare(piece)
            uses: list[Future[None]] = [digester.submit(sha256.update, piece.data)]
            if piece.member and sink:
                uses.append(feeder.submit(sink.take, piece.member, piece))
            buffers.lend(uses)
        buffers.wait()
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
    for piece in _pieces(descriptor, contents.members, Buffers(_PIECE, _PIECES_AT_ONCE)):
        if piece.member:
            writer.write(piece.member, piece)


def _pieces(descriptor: int, members: Iterable[Member], buffers: Buffers) -> Iterator[Piece]:
    """The file from start to end. No piece crosses the border of a member, or of a block of one.

    The bytes of a piece are in one of the `buffers`.
    """
    position = 0
    for member in members:
        end = member.start + member.size
        # First what lies between two members: headers and padding.
        yield from _range_pieces(descriptor, buffers, None, position, member.start)
        yield from _range_pieces(descriptor, buffers, member, member.start, end)
        position = end
    # The zip's directory, which ends the file.
    file_size = os.fstat(descriptor).st_size
    yield from _range_pieces(descriptor, buffers, None, position, file_size)


def _range_pieces(
    descriptor: int,
    buffers: Buffers,
    member: Member | None,
    start: int,
    end: int,
) -> Iterator[Piece]:
    first = start
    while start < end:
        to_border = CHUNK - (start - first) % CHUNK
        size = min(_PIECE, to_border, end - start)
        data = buffers.next()[:size]
        count = os.preadv(descriptor, [data], start)
        if not count:  # the file was truncated during the read
            return
        yield Piece(member, start, data[:count])
        start += count


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
