"""Reading files with keys and certificates: who could have written them, and their PEM blocks."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import NamedTuple

from aoti_build.artifact.signing.refusals import KeyFileError
from aoti_build.common.directories import is_trustworthy, safe_directory
from aoti_build.common.reading import read_bytes
from aoti_build.errors import DirectoryError

_LIMIT = 1 << 20
_MOST_LINKS = 40  # as many as Linux follows
_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----\r?\n.*?-----END \1-----", re.DOTALL)
_BEGIN = b"-----BEGIN "


class Block(NamedTuple):
    """One PEM block: its label, such as ``PUBLIC KEY``, and its whole text."""

    label: str
    text: bytes


def read_key_file(path: Path) -> bytes:
    """The content of a file with keys that only this user and root could have written.

    The same must be true of the directories above it and of links on the way. Raises
    `KeyFileError`.
    """
    try:
        return read_bytes(safe_file(path), _LIMIT)
    except OSError as error:
        raise unreadable(path, error) from error


def read_secret_file(path: Path, what: str) -> bytes:
    """The content of a file that only its owner can read. `what` names it in messages.

    Raises `KeyFileError` for any other file, and as `read_key_file`.
    """
    try:
        status = safe_file(path).stat()
    except OSError as error:
        raise unreadable(path, error) from error
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        raise KeyFileError(
            f"others can read the {what}",
            where=str(path),
            cause=f"its mode is {mode:04o}",
            hint=f"chmod 600 {path}; make a new one if it was readable for long",
        )
    return read_key_file(path)


def safe_file(path: Path) -> Path:
    """The path without links of a file that only this user and root could have written.

    Raises `KeyFileError`, and OSError if there is no such file.
    """
    path.stat()  # a missing directory is no unsafe one
    place = path.absolute()
    for _ in range(_MOST_LINKS):
        directory = _safe_parent(place)
        place = directory / place.name
        status = place.lstat()
        if not stat.S_ISLNK(status.st_mode):
            return _require_trustworthy(place, status)
        if status.st_uid not in (os.geteuid(), 0):
            raise _unsafe(path, f"{place} is a symbolic link of user {status.st_uid}")
        place = directory / place.readlink()
    raise _unsafe(path, "there are too many symbolic links")


def pem_blocks(content: bytes, path: Path) -> list[Block]:
    """The PEM blocks of a file. Text around them is ignored, as by other tools.

    Raises `KeyFileError` if there is none, or if one is cut.
    """
    blocks = [Block(match[1].decode(), match[0]) for match in _BLOCK.finditer(content)]
    if not blocks or len(blocks) != content.count(_BEGIN):
        raise KeyFileError(
            "the file is not in PEM format",
            where=str(path),
            hint="a public key begins with the line -----BEGIN PUBLIC KEY-----",
        )
    return blocks


def unreadable(path: Path, error: OSError) -> KeyFileError:
    return KeyFileError("the file cannot be read", where=str(path), cause=error.strerror)


def _safe_parent(path: Path) -> Path:
    try:
        return safe_directory(path.parent)
    except DirectoryError as error:
        raise _unsafe(path, error.cause or error.message, error.hint) from error


def _require_trustworthy(path: Path, status: os.stat_result) -> Path:
    if not is_trustworthy(status):
        mode = stat.S_IMODE(status.st_mode)
        raise _unsafe(
            path,
            f"it belongs to user {status.st_uid} and has mode {mode:04o}",
            f"chmod go-w {path}, if you trust what it holds; it must be yours or root's",
        )
    return path


def _unsafe(path: Path, cause: str, hint: str | None = None) -> KeyFileError:
    return KeyFileError(
        "others could have written a file with keys",
        where=str(path),
        cause=cause,
        hint=hint or "keep it in a directory of your own",
    )
