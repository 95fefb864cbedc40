"""Digests of bytes, files and JSON values, as 64 lower-case hex digits.

They are sha256, which every system has a tool for. Blocks of large files, which are digested
whenever an artifact is restored or loaded in full, are BLAKE3: a third of the time of sha256 on
x86-64, its hardware support included.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from aoti_build.common.reading import open_regular
from aoti_build.common.writing import write_at

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

    from blake3 import blake3

# At the end of a recorded name, where no path has two slashes: what the symbolic link of that name
# says.
LINK = "//link"
# In place of a digest: there is a directory of that name.
DIRECTORY = "directory"


# Bytes read at a time where digests by block are made: few calls, and small enough for a core's own
# cache.
_PIECE = 1 << 19
_LEAST_BLOCK, MOST_BLOCKS = 4 << 20, 64
_MOST_THREADS = 16
_own = threading.local()
# Takes a piece of a file and where it began. What it was given is overwritten later.
Take = Callable[[memoryview, int], None]


def digest_bytes(data: bytes | memoryview) -> str:
    return hashlib.sha256(data).hexdigest()


def digest_file(path: Path) -> str:
    """The digest of a file's bytes. Raises OSError if it cannot be read, or is no regular file."""
    state, buffer, done = hashlib.sha256(), _buffer(), 0
    descriptor = open_regular(path)
    try:
        while count := os.preadv(descriptor, [buffer], done):
            state.update(buffer[:count])
            done += count
    finally:
        os.close(descriptor)
    return state.hexdigest()


class Block(NamedTuple):
    """A stretch of a file, in bytes from its beginning, and the `block_digest` that it should
    have."""

    path: Path
    start: int
    size: int
    digest: str


def block_digest(data: bytes) -> str:
    """The BLAKE3 digest of a block's bytes."""
    return _blake3(data).hexdigest()


def block_size(size: int) -> int:
    """Bytes of each block but the last of a file of `size` bytes, for digests by block: at most 64
    blocks.

    One sha256 over a large file takes a core its time (0.7 s for a gigabyte); digests of its blocks
    are checked by all cores at once.
    """
    block = _LEAST_BLOCK
    while block * MOST_BLOCKS < size:
        block *= 2
    return block


def blocks_of(path: Path, size: int, block: int, digests: Sequence[str]) -> list[Block]:
    """The blocks of a file of `size` bytes, `block` bytes each but the last."""
    return [
        Block(path, n * block, min(block, size - n * block), digest)
        for n, digest in enumerate(digests)
    ]


def digest_both(
    path: Path, block: int = 0, take: Take | None = None
) -> tuple[str, tuple[str, ...], int]:
    """The digest of a file, those of its blocks of `block` bytes (none without), and how many bytes
    it has: all of the same bytes, which are read once. With `take` they are handed to that as well.
    Raises OSError.
    """
    from concurrent.futures import ThreadPoolExecutor  # not on the no-op path

    whole, blocks, done = hashlib.sha256(), [], 0
    state = _blake3()
    with (
        open(open_regular(path), "rb", buffering=0) as file,
        ThreadPoolExecutor(1, "digest") as beside,
    ):
        buffer = _buffer()
        while count := file.readinto(
            buffer[: min(_PIECE, block - done % block) if block else _PIECE]
        ):
            piece = buffer[:count]
            digested = beside.submit(whole.update, piece)
            if block:
                state.update(piece)
            if take is not None:
                take(piece, done)
            done += count
            digested.result()
            if block and done % block == 0:
                blocks.append(state.hexdigest())
                state = _blake3()
    if block and done % block:
        blocks.append(state.hexdigest())
    return whole.hexdigest(), tuple(blocks), done


def agree(blocks: Sequence[Block]) -> bool:
    """Whether every block has its digest. Raises OSError."""
    with all_cores() as executor:
        return all(executor.map(lambda block: _digest_block(block) == block.digest, blocks))


def copy_block(block: Block, destination: int | None) -> bool:
    """Copy a block to its place in the open file `destination`, if there is one; whether what was
    copied has its digest. Raises OSError."""
    return _digest_block(block, destination) == block.digest


def all_cores() -> ThreadPoolExecutor:
    """A thread for each core: what digests, reads and writes lets go of the GIL."""
    from concurrent.futures import ThreadPoolExecutor  # not on the no-op path

    from aoti_build.common.resources import processors

    return ThreadPoolExecutor(min(processors(), _MOST_THREADS), "digest")


def _digest_block(block: Block, destination: int | None = None) -> str:
    """Of fewer bytes if the file ends before the block does. With `destination` they are written
    there as well."""
    state, buffer, done = _blake3(), _buffer(), 0
    descriptor = open_regular(block.path)
    try:
        while wanted := min(_PIECE, block.size - done):
            count = os.preadv(descriptor, [buffer[:wanted]], block.start + done)
            if not count:
                break
            state.update(buffer[:count])
            if destination is not None:
                write_at(destination, buffer[:count], block.start + done)
            done += count
    finally:
        os.close(descriptor)
    return state.hexdigest()


def _blake3(data: bytes = b"") -> blake3:
    from blake3 import blake3  # not on the no-op path

    return blake3(data)


def _buffer() -> memoryview:
    """This thread's own: the pages of a new one cost as much as reading into it."""
    if not hasattr(_own, "buffer"):
        _own.buffer = memoryview(bytearray(_PIECE))
    found: memoryview = _own.buffer
    return found


def is_listed(name: str) -> bool:
    """Whether an entry of `names_in` counts in a directory's digest: not what is hidden, and not
    Python's bytecode."""
    return not name.startswith(".") and name != "__pycache__/"


def names_in(directory: str) -> frozenset[str]:
    """The names in a directory, those of directories with a slash at the end. Raises OSError."""
    with os.scandir(directory) as entries:
        return frozenset(f"{entry.name}/" if entry.is_dir() else entry.name for entry in entries)


def digest_names(names: Iterable[str]) -> str:
    """The digest of a directory's listing: of what is in it by name, not of what they hold."""
    return digest_json(sorted(filter(is_listed, names)))


def canonical_json(value: Any) -> bytes:
    """The one spelling of a JSON value: sorted keys, no spaces, ASCII. NaN and infinity are refused
    (ValueError)."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    ).encode()


def digest_json(value: Any) -> str:
    return digest_bytes(canonical_json(value))
