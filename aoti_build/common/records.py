"""JSON records of artifacts and of the store, and cache records, which may be deleted any time."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from aoti_build.common.directories import is_trustworthy
from aoti_build.common.json_object import JsonObject
from aoti_build.common.reading import RECORD_LIMIT, read_bytes
from aoti_build.common.writing import write_atomic

# Mode of a cache file. `read_owned` accepts no file that other users may write to.
OWNER_WRITES = 0o644


def write_json(path: Path, value: Mapping[str, Any], *, sync: bool = True) -> None:
    """Write a JSON object with `write_atomic`, one entry on a line, for people to read.

    An entry that is a table itself has its entries on lines of their own too; deeper values stand
    on one line. Raises OSError, and ValueError for NaN and infinity.
    """
    # json.dumps(indent=...) would do, but it does not use Python's C encoder: it took a tenth of
    # the time in which a restore copies the artifact.
    encode = json.JSONEncoder(allow_nan=False).encode
    rows = []
    for name, entry in value.items():
        text = _indented(entry, encode) if _is_table(entry) else encode(entry)
        rows.append(f"  {encode(name)}: {text}")
    content = ",\n".join(rows)
    write_atomic(path, f"{{\n{content}\n}}\n".encode(), sync=sync)


def _is_table(entry: Any) -> bool:
    if not isinstance(entry, dict) or not entry:
        return False
    return all(isinstance(name, str) for name in entry)


def _indented(table: JsonObject, encode: Callable[[Any], str]) -> str:
    rows = [f"    {encode(name)}: {encode(entry)}" for name, entry in table.items()]
    content = ",\n".join(rows)
    return f"{{\n{content}\n  }}"


def read_json(path: Path) -> Any:
    """The JSON value in a file, or None if it cannot be read."""
    try:
        return json.loads(read_bytes(path, RECORD_LIMIT))
    except (OSError, ValueError, RecursionError):
        return None


def read_owned(path: Path) -> bytes:
    """The content of a file of working state.

    Raises:
        PermissionError: the file is a link, belongs to another user than this one or root, or
            other users may write to it. Working state is not compared with its origin again.
        OSError: the file cannot be read.
    """
    if not is_trustworthy(path.lstat()):
        raise PermissionError(errno.EPERM, "another user may have written it", str(path))
    return read_bytes(path, RECORD_LIMIT)


def write_cache_record(
    path: Path,
    kind: str,
    version: int,
    content: Mapping[str, Any],
) -> bool:
    """Write a record that may be deleted at any time. Returns False if the disk refuses it.

    It makes no directory: a command that only reads must not create `artifacts/`.
    """
    if not path.parent.is_dir():
        return False
    document = {
        "format": kind,
        "format_version": version,
        **content,
    }
    data = json.dumps(document).encode()
    try:
        write_atomic(path, data, sync=False, mode=OWNER_WRITES)
    except OSError:
        return False
    return True


def read_cache_record(
    path: Path,
    kind: str,
    version: int,
    name: str,
) -> JsonObject:
    """The table `name` of a record that `write_cache_record` wrote.

    The table is empty if the record cannot be read, has another format or version, or may have been
    written by another user.
    """
    try:
        document = json.loads(read_owned(path))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(document, dict):
        return {}
    if document.get("format") != kind or document.get("format_version") != version:
        return {}
    table = document.get(name)
    return table if isinstance(table, dict) else {}
