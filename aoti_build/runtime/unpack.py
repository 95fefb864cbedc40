"""A package's bytes read once: digested, and on the same way unpacked, or compared with what was
unpacked before.

A `.pt2` is a zip whose members are stored as they are, so each member is a stretch of the file.
Reading it once means that what is digested is what is unpacked, whoever writes to the file
meanwhile. Where the members are is read before that, so those bytes are compared with what is
digested. One sha256 over a large file takes a core its time, so each member also has digests by
block, made on the same way, which all cores can check at once.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from aoti_build.artifact.pt2.directory import STORED, BadZip, Member, read_directory
from aoti_build.common import digests
from aoti_build.common.reading import open_regular
from aoti_build.common.stat_cache import stat_key
from aoti_build.common.writing import write_at

CHUNK = 4 << 20
WHOLE = "package.pt2"


class Contents(NamedTuple):
    """The files in a package in the order of their bytes, and the stretches of it that say so:
    (offset, bytes) of each that was read to find them."""

    members: tuple[Member, ...]
    parsed: tuple[tuple[int, bytes], ...] = ()


class Sink:
    """Takes the package's members piece by piece, in order: `CHUNK` bytes each, the last of a
    member fewer."""

    def __init__(self, directory: Path, contents: Contents) -> None:
        self._directory = directory
        names = [member.name for member in contents.members]
        self._blocks: dict[str, list[Future[str]]] = {name: [] for name in names}

    def take(
        self, member: Member, _offset: int, piece: bytes, executor: ThreadPoolExecutor
    ) -> None:
        self._blocks[member.name].append(executor.submit(digests.block_digest, piece))

    def blocks(self) -> dict[str, list[str]]:
        """The digest of each block of each file, once all was taken."""
        return {name: [block.result() for block in blocks] for name, blocks in self._blocks.items()}


def contents_of(descriptor: int) -> Contents | None:
    """What is in an open package; None if it is not the plain kind that can be unpacked and loaded
    as a directory: one root, everything stored, no constants in places of their own."""
    parsed: list[tuple[int, bytes]] = []

    def exactly(offset: int, size: int) -> bytes:
        found = os.pread(descriptor, size, offset)
        if len(found) < size:
            raise BadZip("the file ends before its content does")
        parsed.append((offset, found))
        return found

    try:
        found = read_directory(exactly, os.fstat(descriptor).st_size)
    except (OSError, BadZip):
        return None
    roots = {PurePosixPath(member.name).parts[0] for member in found}
    if len(roots) != 1 or not all(
        member.method == STORED and _is_plain(member.name) for member in found
    ):
        return None
    return Contents(tuple(sorted(found, key=lambda member: member.start)), tuple(parsed))


def as_a_file(size: int) -> Contents:
    """A package of `size` bytes that is kept as it is: one file, `WHOLE`."""
    return Contents((Member(WHOLE, size, size, STORED, 0, 0),))


def _is_plain(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return len(parts) >= 2 and parts[1:3] != ("data", "constants")


def digest(descriptor: int, contents: Contents | None = None, sink: Sink | None = None) -> str:
    """The sha256 of an open file from its beginning to its end; each piece of a member also goes to
    `sink`. No text if the file says something else of its members now than `contents`: somebody has
    written to it."""
    contents = contents or Contents(())
    state, parsed = hashlib.sha256(), _Parsed(contents)
    with ThreadPoolExecutor(2, "digest") as executor:
        pending: list[Future[None]] = []
        for member, start, piece in _pieces(descriptor, contents.members):
            wait(pending)
            pending = [executor.submit(state.update, piece)]
            parsed.compare(start, piece)
            if member and sink:
                sink.take(member, start - member.start, piece, executor)
    return state.hexdigest() if parsed.same else ""


class _Parsed:
    """Compares what was parsed of a file with the pieces of it that go by, from its beginning to
    its end."""

    def __init__(self, contents: Contents) -> None:
        self._stretches = sorted(contents.parsed)
        self._first = 0  # of those that end behind what went by
        self.same = True

    def compare(self, start: int, piece: bytes) -> None:
        end, at = start + len(piece), self._first
        while at < len(self._stretches) and self._stretches[at][0] < end:
            offset, known = self._stretches[at]
            low, high = max(offset, start), min(offset + len(known), end)
            if low < high:
                now = piece[low - start : high - start]
                self.same = self.same and known[low - offset : high - offset] == now
            if at == self._first and offset + len(known) <= end:
                self._first += 1
            at += 1


def unpack(descriptor: int, contents: Contents, writer: Writer) -> None:
    """Write out the members of an open file, without a digest."""
    for member, start, piece in _pieces(descriptor, contents.members):
        if member:
            writer.write(member, start - member.start, piece)


def agree(directory: Path, blocks: Mapping[str, list[str]]) -> bool:
    """Whether the files of a directory have these digests, block by block; asked of all cores at
    once."""
    return digests.all_match(
        [
            block
            for name, found in blocks.items()
            for block in digests.blocks_of(directory / name, len(found) * CHUNK, CHUNK, found)
        ]
    )


def holds(directory: Path, files: Collection[str]) -> bool:
    """Whether these files are below a directory, by their paths from there, with the folders that
    they need, and nothing else: no folder, no link. Raises OSError."""
    wanted = set(files)
    for name in files:
        folder = name.rpartition("/")[0]
        while folder and f"{folder}/" not in wanted:
            wanted.add(f"{folder}/")
            folder = folder.rpartition("/")[0]
    return wanted == set(_listed(str(directory), ""))


def _listed(directory: str, below: str) -> Iterator[str]:
    """What is below a directory: folders with a slash at the end, what is neither file nor folder
    with two."""
    with os.scandir(directory) as entries:
        for entry in entries:
            name = f"{below}{entry.name}"
            if entry.is_dir(follow_symlinks=False):
                yield f"{name}/"
                yield from _listed(entry.path, f"{name}/")
            else:
                yield name if entry.is_file(follow_symlinks=False) else f"{name}//"


def _pieces(
    descriptor: int, found: tuple[Member, ...]
) -> Iterator[tuple[Member | None, int, bytes]]:
    """The file in order, each piece with its offset, no piece across the border of a member."""
    position = 0
    for member in found:
        yield from ((None, at, piece) for at, piece in _stretch(descriptor, position, member.start))
        position = member.start + member.size
        content = _stretch(descriptor, member.start, position)
        yield from ((member, at, piece) for at, piece in content)
    size = os.fstat(descriptor).st_size
    yield from ((None, at, piece) for at, piece in _stretch(descriptor, position, size))


def _stretch(descriptor: int, start: int, end: int) -> Iterator[tuple[int, bytes]]:
    while start < end and (piece := os.pread(descriptor, min(CHUNK, end - start), start)):
        yield start, piece
        start += len(piece)


class Writer(Sink):
    """Unpacks into a directory."""

    def __init__(self, directory: Path, contents: Contents) -> None:
        super().__init__(directory, contents)
        self._open: tuple[str, int] | None = None
        for member in contents.members:  # every file, empty: a member without bytes has no piece
            path = directory / member.name
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))

    def take(self, member: Member, offset: int, piece: bytes, executor: ThreadPoolExecutor) -> None:
        super().take(member, offset, piece, executor)
        self.write(member, offset, piece)

    def write(self, member: Member, offset: int, piece: bytes) -> None:
        if not self._open or self._open[0] != member.name:
            self.close()
            self._open = member.name, os.open(self._directory / member.name, os.O_WRONLY)
        write_at(self._open[1], memoryview(piece), offset)

    def close(self) -> None:
        if self._open:
            os.close(self._open[1])
            self._open = None


class Comparer(Sink):
    """Compares with the files of a directory, which holds `record` beside them or not; `same` says
    whether all agreed, sizes included, and `stats` what each file's stat was before it was read."""

    def __init__(self, directory: Path, contents: Contents, *, record: str = "") -> None:
        super().__init__(directory, contents)
        sizes = {member.name: member.size for member in contents.members}
        self.stats: dict[str, list[int] | None] = {}
        try:
            whole = holds(directory, sizes) or holds(directory, [record, *sizes])
            self.stats = {name: stat_key(directory / name) for name in sizes if whole}
            self.same = whole and all(
                found is not None and found[0] == sizes[name] for name, found in self.stats.items()
            )
        except OSError:
            self.same = False

    def take(self, member: Member, offset: int, piece: bytes, executor: ThreadPoolExecutor) -> None:
        if not self.same:
            return
        super().take(member, offset, piece, executor)
        try:
            descriptor = open_regular(self._directory / member.name)
        except OSError:
            self.same = False
            return
        try:
            self.same = os.pread(descriptor, len(piece), offset) == piece
        except OSError:
            self.same = False
        finally:
            os.close(descriptor)
