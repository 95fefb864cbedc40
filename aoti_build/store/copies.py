"""Copies of stored objects, which are compared with their records while they are copied.

The bytes that are digested are the bytes that are written, so no other bytes can get into a copy.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from concurrent.futures import Executor, Future
from functools import partial
from pathlib import Path

from aoti_build.artifact import integrity
from aoti_build.artifact.manifest import FileRecord
from aoti_build.common.digests import Block, all_cores, copy_block
from aoti_build.common.writing import begin_writing, clone_file, reserve, write_at


class ObjectCopies:
    """Copies of several objects.

    Attributes:
        complete: whether all copies are as recorded.
        corrupted: the files whose objects do not have the digest that is their name.
    """

    def __init__(self, *, to_publish: bool) -> None:
        """With `to_publish` the copies will be synced to the disk soon."""
        self.complete = True
        self.corrupted: set[FileRecord] = set()
        self._to_publish = to_publish

    def copy(self, files: Mapping[Path, FileRecord], objects: Mapping[FileRecord, Path]) -> None:
        """Copy each file from its object to its destination, on all cores. Raises OSError."""
        for file, path in objects.items():
            if path.stat().st_size != file.size:
                # Whether the record or the object is wrong is not known, so neither is `corrupted`.
                self.complete = False
                return
        # The largest files first, so that no core waits at the end for one that began late.
        by_size = sorted(
            files.items(),
            key=lambda item: item[1].size,
            reverse=True,
        )
        with contextlib.ExitStack() as resources, all_cores() as executor:
            results: list[Future[None]] = []
            for destination, file in by_size:
                stream = destination.open("wb", buffering=0)
                resources.enter_context(stream)
                results += self._start(
                    executor,
                    file,
                    objects[file],
                    destination,
                    stream.fileno(),
                )
            for result in results:
                result.result()

    def _start(
        self,
        executor: Executor,
        file: FileRecord,
        source: Path,
        destination: Path,
        descriptor: int,
    ) -> list[Future[None]]:
        """Begin to copy one file; `descriptor` is the open destination."""
        written: int | None = descriptor
        if _clone(source, descriptor, file.size):
            # The clone is digested: other processes cannot write to it.
            source = destination
            written = None
        elif self._to_publish:
            # With `begin_writing` this takes a third off a copy of 47 MiB with its fsync (ext4).
            reserve(descriptor, file.size)
        if not integrity.is_agreed(file):
            return [executor.submit(self._copy_file, file, source, written)]
        blocks = file.blocks_in(source)
        results = []
        for block in blocks:
            results.append(executor.submit(self._copy_block, file, block, written))
        return results

    def _copy_block(self, file: FileRecord, block: Block, destination: int | None) -> None:
        if not copy_block(block, destination):
            self.complete = False
            self.corrupted.add(file)
        self._begin_writing(destination, block.start, block.size)

    def _copy_file(self, file: FileRecord, source: Path, destination: int | None) -> None:
        take = None if destination is None else partial(write_at, destination)
        copied = file.copied(source, take)
        if copied == file:
            integrity.note(file)
        else:
            self.complete = False
        if copied.sha256 != file.sha256:
            self.corrupted.add(file)
        self._begin_writing(destination, 0, copied.size)

    def _begin_writing(self, destination: int | None, start: int, size: int) -> None:
        """Begin to write a copy to the disk, so that publishing it waits for less."""
        if destination is not None and self._to_publish:
            begin_writing(destination, start, size)


def _clone(source: Path, destination: int, size: int) -> bool:
    """Whether the open file `destination` now shares the blocks of the object `source`.

    An object that has grown since its size was compared is copied instead, up to its recorded size.
    """
    if not clone_file(source, destination):
        return False
    if os.fstat(destination).st_size == size:
        return True
    os.ftruncate(destination, 0)
    return False
