"""JSON records of artifacts and of the store, and caches, which may be deleted at any time."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aoti_build.common.reading import RECORD_LIMIT, read_bytes
from aoti_build.common.writing import write_atomic

# The mode of a cache, which is used only if no other user may write it.
OWNER_WRITES = 0o644


def write_json(path: Path, value: Mapping[str, Any], *, sync: bool = True) -> None:
    """`write_atomic` of a JSON object: a line for each entry, and for each entry of its tables. NaN
    and infinity are refused (ValueError).

    Python's C encoder does not indent, and what it does not do took a restore a tenth of the time
    of its copy.
    """
    encode = json.JSONEncoder(allow_nan=False).encode

    def lines(entries: Mapping[str, Any], depth: int) -> str:
        margin = "  " * depth
        rows = (
            f"{margin}  {encode(name)}: {table(entry, depth + 1)}"
            for name, entry in entries.items()
        )
        return "{\n" + ",\n".join(rows) + f"\n{margin}}}"

    def table(entry: Any, depth: int) -> str:
        is_table = (
            depth == 1
            and isinstance(entry, dict)
            and entry
            and all(isinstance(name, str) for name in entry)
        )
        return lines(entry, depth) if is_table else encode(entry)

    write_atomic(path, f"{lines(value, 0)}\n".encode(), sync=sync)


def read_json(path: Path) -> Any:
    """The JSON value in a file; None if there is none or it cannot be read."""
    try:
        return json.loads(read_bytes(path, RECORD_LIMIT))
    except (OSError, ValueError, RecursionError):
        return None


def read_owned(path: Path) -> bytes:
    """The content of a file of working state, if it is this user's or root's and nobody else may
    write it: what was read from it once is not compared with its origin again. Raises OSError."""
    status = path.lstat()
    own = status.st_uid in (os.geteuid(), 0) and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if not own or stat.S_ISLNK(status.st_mode):
        raise PermissionError(errno.EPERM, "somebody else may have written it", str(path))
    return read_bytes(path, RECORD_LIMIT)


def write_cache_record(path: Path, kind: str, version: int, content: Mapping[str, Any]) -> bool:
    """Put a record there that may be deleted at any time; False where the disk refuses, which costs
    speed alone."""
    document = {"format": kind, "format_version": version, **content}
    try:
        write_atomic(path, json.dumps(document).encode(), sync=False, mode=OWNER_WRITES)
    except OSError:
        return False
    return True


def read_cache_record(path: Path, kind: str, version: int, name: str) -> dict[str, Any]:
    """The table `name` of what `write_cache_record` wrote; empty if there is none, none of this
    format and version, or one that somebody else may have written."""
    try:
        document = json.loads(read_owned(path))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(document, dict) or (
        document.get("format"),
        document.get("format_version"),
    ) != (kind, version):
        return {}
    table = document.get(name)
    return table if isinstance(table, dict) else {}
