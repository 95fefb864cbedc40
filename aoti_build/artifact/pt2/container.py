"""Reading a zip file that may be damaged or made to do harm.

A package is read before its native code may be loaded. `directory` finds the members and refuses
what a package never contains. This module reads their bytes: never more of a member than it
declares, and with a comparison of its CRC-32. Every problem is an `ArtifactError`.
"""

from __future__ import annotations

import hashlib
import os
import stat
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from aoti_build.artifact.pt2.directory import STORED, BadZip, Member, read_directory
from aoti_build.common.reading import open_regular
from aoti_build.errors import ArtifactError

HINT = "copy the file again from where it was built, or build it again; it was not loaded"
_BLOCK = 1 << 20  # bytes that are read or inflated at a time


class Container:
    """An open archive, as a context manager.

    Attributes:
        members: the files in the archive by name.
        size: the size of the archive in bytes.
    """

    def __init__(self, path: Path) -> None:
        """Raises ArtifactError unless `path` is a regular file and a valid zip file."""
        self.path = path
        self._file = _open(path)
        try:
            self.size = os.fstat(self._file).st_size
            members = read_directory(self._pread, self.size)
        except BadZip as error:
            self.close()
            raise self.refusal(str(error)) from None
        except BaseException:
            self.close()
            raise
        self.members: Mapping[str, Member] = {member.name: member for member in members}

    def __enter__(self) -> Container:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def read(self, name: str, limit: int) -> bytes:
        """All bytes of a member, compared with its CRC-32.

        Raises ArtifactError if there is no such member, it is damaged, or it exceeds `limit` bytes.
        """
        member = self._member(name)
        if member.size > limit:
            raise self.refusal(f"{name} has {member.size} bytes and exceeds the {limit}-byte limit")
        return b"".join(self._blocks(member))

    def read_at(self, name: str, offset: int, size: int) -> bytes:
        """Up to `size` bytes of a member from `offset` on, without a comparison.

        There are fewer bytes at its end. Of a compressed member all bytes before `offset` are
        inflated too.
        """
        member = self._member(name)
        size = max(0, min(size, member.size - offset))
        if member.method == STORED:
            return self._pread(member.start + offset, size)
        content = bytearray()
        inflated = 0
        for block in self._blocks(member):
            content += block[max(0, offset - inflated) :]
            inflated += len(block)
            if len(content) >= size:
                break
        return bytes(content[:size])

    def digest(self, name: str) -> str:
        """The sha256 of a member's content, which is compared with its CRC-32."""
        state = hashlib.sha256()
        for block in self._blocks(self._member(name)):
            state.update(block)
        return state.hexdigest()

    def check(self, name: str) -> None:
        """Read a member to its end. Raises ArtifactError if its CRC-32 is another."""
        for _ in self._blocks(self._member(name)):
            pass

    def refusal(self, message: str, cause: str | None = None) -> ArtifactError:
        """The error for a problem with this archive."""
        return ArtifactError(message, where=str(self.path), cause=cause, hint=HINT)

    def _member(self, name: str) -> Member:
        member = self.members.get(name)
        if member is None:
            raise self.refusal(f"the archive lacks {name}")
        return member

    def _blocks(self, member: Member) -> Iterator[bytes]:
        """The content of a member in blocks.

        Size and CRC-32 are known to be right only when the iteration ends without an error.
        """
        blocks = self._stored(member) if member.method == STORED else self._inflated(member)
        crc = size = 0
        for block in blocks:
            size += len(block)
            if size > member.size:
                break
            crc = zlib.crc32(block, crc)
            yield block
        if size != member.size or crc != member.crc:
            raise self.refusal(
                f"{member.name} is damaged: its size or CRC-32 differs from the archive's directory"
            )

    def _stored(self, member: Member) -> Iterator[bytes]:
        """The bytes of a member as they are in the file, in blocks."""
        for offset in range(0, member.compressed, _BLOCK):
            yield self._pread(member.start + offset, min(_BLOCK, member.compressed - offset))

    def _inflated(self, member: Member) -> Iterator[bytes]:
        # Negative: deflated data without a header, as zip files have them.
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            for block in self._stored(member):
                yield inflater.decompress(block, _BLOCK)
                # A block may inflate to much more. `_blocks` stops this loop when it is too much.
                while inflater.unconsumed_tail:
                    yield inflater.decompress(inflater.unconsumed_tail, _BLOCK)
            while True:
                block = inflater.decompress(b"", _BLOCK)
                if not block:
                    break
                yield block
        except zlib.error as error:
            message = f"{member.name} is damaged and cannot be inflated"
            raise self.refusal(message, str(error)) from None

    def _pread(self, offset: int, size: int) -> bytes:
        """Exactly `size` bytes of the archive from `offset` on."""
        content = b""
        try:
            while len(content) < size:
                # A system call may return fewer bytes.
                block = os.pread(self._file, size - len(content), offset + len(content))
                if not block:
                    break
                content += block
        except OSError as error:
            raise self.refusal("the file cannot be read", str(error)) from None
        if len(content) < size:
            raise self.refusal("the file is truncated, or became shorter while it was read")
        return content


def _open(path: Path) -> int:
    """A descriptor of the regular file that `path` is or links to."""
    where = str(path)
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise ArtifactError(
                "a directory, not a .pt2 file",
                where=where,
                hint="name the file in it: model.pt2",
            )
        if not stat.S_ISREG(mode):
            raise ArtifactError("not a regular file", where=where, hint="name a .pt2 file")
        return open_regular(path)
    except FileNotFoundError:
        message = "there is no such file"
        if path.is_symlink():
            message = f"a link to {os.readlink(path)}, which does not exist"
        raise ArtifactError(message, where=where, hint="check the path") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise ArtifactError(
            "the file cannot be read",
            where=where,
            cause=str(error),
            hint="check the path and its permissions",
        ) from None
