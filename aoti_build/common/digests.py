"""Digests of bytes, files and JSON values, as 64 lower-case hex digits.

They are sha256, for which every system has a tool. Blocks of large files are BLAKE3: they are
digested whenever an artifact is restored or loaded in full, and BLAKE3 takes a third of the time of
sha256 on x86-64, even with that processor's instructions for sha256.
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

# The end of a recorded name that stands for the target of a symbolic link. No path has two slashes.
LINK = "//link"
# Stands in place of a digest for a name that is a directory.
DIRECTORY = "directory"


# Bytes of one read where blocks are digested: few calls, and small enough for a core's own cache.
_PIECE = 1 << 19
_LEAST_BLOCK = 4 << 20
MOST_BLOCKS = 64
_MOST_THREADS = 16
_thread_data = threading.local()
# Receives a piece of a file and its offset. The memory of the piece is reused after the call.
Take = Callable[[memoryview, int], None]


def digest_bytes(data: bytes | memoryview) -> str:
    return hashlib.sha256(data).hexdigest()


def digest_file(path: Path) -> str:
    """The digest of a file's bytes. Raises OSError, also if it is not a regular file."""
    state = hashlib.sha256()
    buffer = _buffer()
    offset = 0
    descriptor = open_regular(path)
    try:
        while count := os.preadv(descriptor, [buffer], offset):
            state.update(buffer[:count])
            offset += count
    finally:
        os.close(descriptor)
    return state.hexdigest()


class Block(NamedTuple):
    """A part of a file with its expected digest. `start` and `size` are in bytes."""

    path: Path
    start: int
    size: int
    digest: str


def block_size(size: int) -> int:
    """Bytes of each block, except the last, of a file of `size` bytes: at most 64 blocks.

    One sha256 over a large file keeps one core busy (0.7 s for a gigabyte). The blocks can be
    digested by all cores at once.
    """
    block = _LEAST_BLOCK
    while block * MOST_BLOCKS < size:
        block *= 2
    return block


def blocks_of(
    path: Path,
    size: int,
    block: int,
    digests: Sequence[str],
) -> list[Block]:
    """The blocks of a file of `size` bytes, with `block` bytes each except the last."""
    blocks = []
    for index, digest in enumerate(digests):
        start = index * block
        block_bytes = min(block, size - start)
        blocks.append(Block(path, start, block_bytes, digest))
    return blocks


class FileDigests(NamedTuple):
    """The digest of a file, the digests of its blocks, and its size in bytes."""

    file: str
    blocks: tuple[str, ...]
    size: int


def digest_with_blocks(path: Path, block: int = 0, take: Take | None = None) -> FileDigests:
    """The digest of a file and those of its blocks of `block` bytes, all from one read.

    Without `block` there are no blocks. `take` also receives each piece. Raises OSError.
    """
    from concurrent.futures import ThreadPoolExecutor  # not on the no-op path

    file_state = hashlib.sha256()
    block_state = new_block()
    blocks = []
    offset = 0
    buffer = _buffer()
    # hashlib and blake3 release the GIL, so the sha256 runs while this thread digests the block.
    with (
        open(open_regular(path), "rb", buffering=0) as file,
        ThreadPoolExecutor(1, "digest") as executor,
    ):
        while True:
            to_read = _PIECE
            if block:
                to_read = min(_PIECE, block - offset % block)
            count = file.readinto(buffer[:to_read])
            if not count:
                break
            piece = buffer[:count]
            file_digest = executor.submit(file_state.update, piece)
            if block:
                block_state.update(piece)
            if take is not None:
                take(piece, offset)
            offset += count
            file_digest.result()
            if block and offset % block == 0:
                blocks.append(block_state.hexdigest())
                block_state = new_block()
    if block and offset % block:
        blocks.append(block_state.hexdigest())
    return FileDigests(file_state.hexdigest(), tuple(blocks), offset)


def all_match(blocks: Sequence[Block]) -> bool:
    """Whether every block has its digest. Raises OSError."""
    with all_cores() as executor:
        return all(executor.map(_matches, blocks))


def copy_block(block: Block, destination: int | None) -> bool:
    """Copy a block to its offset in the open file `destination`, if there is one.

    Returns whether the copied bytes have the block's digest. Raises OSError.
    """
    return _digest_block(block, destination) == block.digest


def all_cores() -> ThreadPoolExecutor:
    """A pool with one thread per core: digests, reads and writes release the GIL."""
    # Imported here to keep it off the no-op path.
    from concurrent.futures import ThreadPoolExecutor

    from aoti_build.common.resources import processors

    return ThreadPoolExecutor(min(processors(), _MOST_THREADS), "digest")


def _matches(block: Block) -> bool:
    return _digest_block(block) == block.digest


def _digest_block(block: Block, destination: int | None = None) -> str:
    """The digest of a block's bytes, which are also written to `destination` if there is one.

    If the file ends inside the block, the digest is that of the bytes before.
    """
    state = new_block()
    buffer = _buffer()
    done = 0
    descriptor = open_regular(block.path)
    try:
        while done < block.size:
            to_read = min(_PIECE, block.size - done)
            offset = block.start + done
            count = os.preadv(descriptor, [buffer[:to_read]], offset)
            if not count:
                break
            piece = buffer[:count]
            state.update(piece)
            if destination is not None:
                write_at(destination, piece, offset)
            done += count
    finally:
        os.close(descriptor)
    return state.hexdigest()


def new_block() -> blake3:
    """The BLAKE3 digest of a block: `update` it with the bytes in order, then `hexdigest`."""
    from blake3 import blake3  # not on the no-op path

    return blake3()


def _buffer() -> memoryview:
    """This thread's buffer. To touch the pages of a new one costs as much as the read itself."""
    if not hasattr(_thread_data, "buffer"):
        _thread_data.buffer = memoryview(bytearray(_PIECE))
    buffer: memoryview = _thread_data.buffer
    return buffer


def is_listed(name: str) -> bool:
    """Whether a name of `names_in` counts in a directory's digest.

    Hidden entries and Python's bytecode do not.
    """
    return not name.startswith(".") and name != "__pycache__/"


def names_in(directory: str) -> frozenset[str]:
    """The names in a directory; names of directories end with a slash. Raises OSError."""
    names = set()
    with os.scandir(directory) as entries:
        for entry in entries:
            names.add(f"{entry.name}/" if entry.is_dir() else entry.name)
    return frozenset(names)


def digest_names(names: Iterable[str]) -> str:
    """The digest of a directory's listing: of the names, and not of the content."""
    return digest_json(sorted(filter(is_listed, names)))


def canonical_json(value: Any) -> bytes:
    """The canonical text of a JSON value: sorted keys, no spaces, ASCII.

    Raises ValueError for NaN and infinity.
    """
    text = json.dumps(
        value,
        sort_keys=True,
        separators=(",", ":"),
        ensure_ascii=True,
        allow_nan=False,
    )
    return text.encode()


def digest_json(value: Any) -> str:
    return digest_bytes(canonical_json(value))
