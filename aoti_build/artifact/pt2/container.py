"""A zip file read without trust, by whoever has to look into a package before its native code may
be loaded.

`directory` says what is in it and refuses what no package holds; here its bytes are read: never
more of a member than it declares, and checked against its CRC-32. All that can be wrong ends in an
`ArtifactError`.
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

HINT = "get the file anew from where it was made, or build it again; nothing of it was loaded"
_BLOCK = 1 << 20


class Container:
    """An open archive; a context manager. `members` are its files by name, `size` is that of the
    archive in bytes."""

    def __init__(self, path: Path) -> None:
        """Raises ArtifactError for whatever is no regular file or no sound zip."""
        self.path = path
        self._file = _open(path)
        try:
            self.size = os.fstat(self._file).st_size
            members = read_directory(self._pread, self.size)
            self.members: Mapping[str, Member] = {member.name: member for member in members}
        except BadZip as error:
            self.close()
            raise self.refusal(str(error)) from None
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Container:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def read(self, name: str, limit: int) -> bytes:
        """All of a member, checked. Raises ArtifactError if there is none, it is damaged, or has
        more than `limit` bytes."""
        member = self._member(name)
        if member.size > limit:
            raise self.refusal(
                f"{name} has {member.size} bytes; more than {limit} are not believed of such a file"
            )
        return b"".join(self._blocks(member))

    def read_at(self, name: str, offset: int, size: int) -> bytes:
        """Up to `size` bytes of a member from `offset` on, fewer at its end; unverified. Of a
        compressed member all before them is inflated too."""
        member = self._member(name)
        size = max(0, min(size, member.size - offset))
        if member.method == STORED:
            return self._pread(member.start + offset, size)
        found, end = bytearray(), 0
        for block in self._blocks(member):
            found += block[max(0, offset - end) :]
            end += len(block)
            if len(found) >= size:
                break
        return bytes(found[:size])

    def digest(self, name: str) -> str:
        """The sha256 of a member's content, which is checked on the way."""
        state = hashlib.sha256()
        for block in self._blocks(self._member(name)):
            state.update(block)
        return state.hexdigest()

    def check(self, name: str) -> None:
        """Read a member to its end. Raises ArtifactError if it is not what its CRC-32 says."""
        for _ in self._blocks(self._member(name)):
            pass

    def refusal(self, message: str, cause: str | None = None) -> ArtifactError:
        """The error that says what is wrong with this archive."""
        return ArtifactError(message, where=str(self.path), cause=cause, hint=HINT)

    def _member(self, name: str) -> Member:
        member = self.members.get(name)
        if member is None:
            raise self.refusal(f"the archive lacks {name}")
        return member

    def _blocks(self, member: Member) -> Iterator[bytes]:
        """The content of a member, a block at a time. The end of the iteration means: size and
        CRC-32 are right."""
        crc = size = 0
        for block in self._stored(member) if member.method == STORED else self._inflated(member):
            size += len(block)
            if size > member.size:
                break
            crc = zlib.crc32(block, crc)
            yield block
        if size != member.size or crc != member.crc:
            raise self.refusal(
                f"{member.name} is damaged: its size or CRC-32 is not what the archive says"
            )

    def _stored(self, member: Member) -> Iterator[bytes]:
        for offset in range(0, member.compressed, _BLOCK):
            yield self._pread(member.start + offset, min(_BLOCK, member.compressed - offset))

    def _inflated(self, member: Member) -> Iterator[bytes]:
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            for block in self._stored(member):
                yield inflater.decompress(block, _BLOCK)
                while inflater.unconsumed_tail:
                    yield inflater.decompress(inflater.unconsumed_tail, _BLOCK)
            while block := inflater.decompress(b"", _BLOCK):
                yield block
        except zlib.error as error:
            raise self.refusal(
                f"{member.name} is damaged and cannot be inflated", str(error)
            ) from None

    def _pread(self, offset: int, size: int) -> bytes:
        """Exactly so many bytes of the file."""
        found = b""
        try:
            while len(found) < size and (
                block := os.pread(self._file, size - len(found), offset + len(found))
            ):
                found += block
        except OSError as error:
            raise self.refusal("the file cannot be read", str(error)) from None
        if len(found) < size:
            raise self.refusal(
                "the file ends before its content does, or became shorter while it was read"
            )
        return found


def _open(path: Path) -> int:
    """A descriptor of the regular file that `path` is or links to."""
    try:
        kind = path.stat().st_mode
        if stat.S_ISDIR(kind):
            raise ArtifactError(
                "a directory, not a .pt2 file",
                where=str(path),
                hint="name the file in it: model.pt2",
            )
        if not stat.S_ISREG(kind):
            raise ArtifactError("no regular file", where=str(path), hint="name a .pt2 file")
        return open_regular(path)
    except FileNotFoundError:
        missing = "there is no such file"
        if path.is_symlink():
            missing = f"a link to {os.readlink(path)}, which does not exist"
        raise ArtifactError(missing, where=str(path), hint="look at the path") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise ArtifactError(
            "the file cannot be read",
            where=str(path),
            cause=str(error),
            hint="look at the path and its permissions",
        ) from None
