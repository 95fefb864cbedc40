"""A package's bytes read once: digested, and on the same way unpacked, or compared with what was unpacked before.

A `.pt2` is a zip whose members are stored as they are, so each member is a stretch of the file. Reading it once means
that what is digested is what is unpacked, whoever writes to the file meanwhile. One sha256 over a large file takes a
core its time, so each member also has digests by block, made on the same way, which all cores can check at once.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path, PurePosixPath

from aoti_build import digests
from aoti_build.archive.directory import STORED, BadZip, Member, read_directory
from aoti_build.files import open_regular, write_at
from aoti_build.stat_cache import stat_key

CHUNK = 4 << 20


class Sink:
    """Takes the package's members piece by piece, in order: `CHUNK` bytes each, the last of a member fewer."""

    def __init__(self, directory: Path, found: tuple[Member, ...]) -> None:
        self._directory = directory
        self._blocks: dict[str, list[Future[str]]] = {member.name: [] for member in found}

    def take(self, member: Member, offset: int, piece: bytes, executor: ThreadPoolExecutor) -> None:  # noqa: ARG002
        self._blocks[member.name].append(executor.submit(digests.block_digest, piece))

    def blocks(self) -> dict[str, list[str]]:
        """The digest of each block of each file, once all was taken."""
        return {name: [block.result() for block in blocks] for name, blocks in self._blocks.items()}


def members(descriptor: int) -> tuple[Member, ...] | None:
    """The files in an open package, in the order of their bytes; None if it is not the plain kind that can be unpacked
    and loaded as a directory: one root, everything stored, no constants in places of their own."""

    def exactly(offset: int, size: int) -> bytes:
        found = os.pread(descriptor, size, offset)
        if len(found) < size:
            raise BadZip("the file ends before its content does")
        return found

    try:
        found = read_directory(exactly, os.fstat(descriptor).st_size)
    except (OSError, BadZip):
        return None
    roots = {PurePosixPath(member.name).parts[0] for member in found}
    if len(roots) != 1 or not all(member.method == STORED and _is_plain(member.name) for member in found):
        return None
    return tuple(sorted(found, key=lambda member: member.start))


def _is_plain(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return len(parts) >= 2 and parts[1:3] != ("data", "constants")


def digest(descriptor: int, found: tuple[Member, ...] = (), sink: Sink | None = None) -> str:
    """The sha256 of an open file from its beginning to its end; each piece of a member also goes to `sink`."""
    state = hashlib.sha256()
    with ThreadPoolExecutor(2, "digest") as executor:
        pending: list[Future[None]] = []
        for member, offset, piece in _pieces(descriptor, found):
            wait(pending)
            pending = [executor.submit(state.update, piece)]
            if member and sink:
                sink.take(member, offset, piece, executor)
    return state.hexdigest()


def agree(directory: Path, blocks: Mapping[str, list[str]]) -> bool:
    """Whether the files of a directory have these digests, block by block; asked of all cores at once."""
    return digests.agree(
        [
            block
            for name, found in blocks.items()
            for block in digests.blocks_of(directory / name, len(found) * CHUNK, CHUNK, found)
        ]
    )


def names(directory: Path) -> set[str]:
    """The files below a directory, by their paths from there."""
    below = len(f"{directory}/")
    return {f"{place}/{name}"[below:] for place, _, found in os.walk(directory) for name in found}


def _pieces(descriptor: int, found: tuple[Member, ...]) -> Iterator[tuple[Member | None, int, bytes]]:
    """The file in order, no piece across the border of a member."""
    position = 0
    for member in found:
        yield from ((None, 0, piece) for _, piece in _stretch(descriptor, position, member.start))
        position = member.start + member.size
        yield from ((member, at - member.start, piece) for at, piece in _stretch(descriptor, member.start, position))
    yield from ((None, 0, piece) for _, piece in _stretch(descriptor, position, os.fstat(descriptor).st_size))


def _stretch(descriptor: int, start: int, end: int) -> Iterator[tuple[int, bytes]]:
    while start < end and (piece := os.pread(descriptor, min(CHUNK, end - start), start)):
        yield start, piece
        start += len(piece)


class Writer(Sink):
    """Unpacks into a directory."""

    def __init__(self, directory: Path, found: tuple[Member, ...]) -> None:
        super().__init__(directory, found)
        self._open: tuple[str, int] | None = None
        for member in found:  # every file, empty: a member without bytes has no piece
            path = directory / member.name
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))

    def take(self, member: Member, offset: int, piece: bytes, executor: ThreadPoolExecutor) -> None:
        super().take(member, offset, piece, executor)
        if not self._open or self._open[0] != member.name:
            self.close()
            self._open = member.name, os.open(self._directory / member.name, os.O_WRONLY)
        write_at(self._open[1], memoryview(piece), offset)

    def close(self) -> None:
        if self._open:
            os.close(self._open[1])
            self._open = None


class Comparer(Sink):
    """Compares with the files of a directory; `same` says whether all agreed, sizes included, and `stats` what each
    file's stat was before it was read."""

    def __init__(self, directory: Path, found: tuple[Member, ...], *, ignore: str = "") -> None:
        super().__init__(directory, found)
        self.same = names(directory) - {ignore} == {member.name for member in found} and all(
            (directory / member.name).lstat().st_size == member.size for member in found
        )
        self.stats = {member.name: stat_key(directory / member.name) for member in found} if self.same else {}

    def take(self, member: Member, offset: int, piece: bytes, executor: ThreadPoolExecutor) -> None:
        if not self.same:
            return
        super().take(member, offset, piece, executor)
        descriptor = open_regular(self._directory / member.name)
        try:
            self.same = os.pread(descriptor, len(piece), offset) == piece
        finally:
            os.close(descriptor)
