"""Digests of bytes, files and JSON values: always sha256, always 64 lower-case hex digits."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

# At the end of a recorded name, where no path has two slashes: what the symbolic link of that name says.
LINK = "//link"
# In place of a digest: there is a directory of that name.
DIRECTORY = "directory"


def digest_bytes(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def digest_file(path: Path) -> str:
    """The digest of a file's bytes. Raises OSError if it cannot be read."""
    with path.open("rb") as file:
        if hasattr(hashlib, "file_digest"):
            return hashlib.file_digest(file, "sha256").hexdigest()
        state = hashlib.sha256()  # Python 3.10
        while block := file.read(1 << 20):
            state.update(block)
        return state.hexdigest()


def is_listed(name: str) -> bool:
    """Whether an entry of `names_in` counts in a directory's digest: not what is hidden, and not Python's bytecode."""
    return not name.startswith(".") and name != "__pycache__/"


def names_in(directory: str) -> frozenset[str]:
    """The names in a directory, those of directories with a slash at the end. Raises OSError."""
    with os.scandir(directory) as entries:
        return frozenset(f"{entry.name}/" if entry.is_dir() else entry.name for entry in entries)


def digest_names(names: Iterable[str]) -> str:
    """The digest of a directory's listing: of what is in it by name, not of what they hold."""
    return digest_json(sorted(filter(is_listed, names)))


def canonical_json(value: Any) -> bytes:
    """The one spelling of a JSON value: sorted keys, no spaces, ASCII. NaN and infinity are refused (ValueError)."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


def digest_json(value: Any) -> str:
    return digest_bytes(canonical_json(value))
