"""The record beside unpacked files: their stat and block digests when they were right.

`unpacked.json` lies in the same private directory as the files. A missing, garbled or outdated
record costs one read of the package. docs/reference/formats.md lists the formats.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from aoti_build.common import digests
from aoti_build.common.records import read_json
from aoti_build.common.stat_cache import stat_key
from aoti_build.runtime import unpack

RECORD = "unpacked.json"
FORMAT = "aoti-build/unpacked"
FORMAT_VERSION = 2


def encode_record(
    stats: Mapping[str, list[int] | None],
    blocks: Mapping[str, list[str]],
) -> bytes:
    """The record of files with these stats and block digests, by relative path."""
    files = {}
    for name in blocks:
        files[name] = {"stat": stats[name], "blocks": blocks[name]}
    document = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "block": unpack.CHUNK,
        "files": files,
    }
    return json.dumps(document).encode()


def matching_files(directory: Path, *, by_digest: bool = False) -> frozenset[str]:
    """The recorded files, if a directory holds just these with the stat that they had then.

    With `by_digest` the blocks of the files are digested too. Empty if anything differs.
    """
    document = read_json(directory / RECORD)
    try:
        if not _has_recorded_stats(directory, document):
            return frozenset()
        if by_digest and not _has_recorded_digests(directory, document):
            return frozenset()
        return frozenset(document["files"])
    except (OSError, LookupError, TypeError, AttributeError, ValueError):
        return frozenset()  # the record is absent or garbled


def _has_recorded_stats(directory: Path, document: Any) -> bool:
    if document["format"] != FORMAT or document["format_version"] != FORMAT_VERSION:
        return False
    files = document["files"]
    if directory.is_symlink() or not unpack.has_only(directory, [RECORD, *files]):
        return False
    for name, file in files.items():
        if "blocks" not in file or stat_key(directory / name) != file["stat"]:
            return False
    return True


def _has_recorded_digests(directory: Path, document: Any) -> bool:
    if document["block"] != unpack.CHUNK:
        return False
    return digests.all_match(list(_recorded_blocks(directory, document["files"])))


def _recorded_blocks(directory: Path, files: Any) -> Iterator[digests.Block]:
    for name, file in files.items():
        blocks = file["blocks"]
        size = len(blocks) * unpack.CHUNK  # the last block may be shorter than that
        yield from digests.blocks_of(
            directory / name,
            size,
            unpack.CHUNK,
            blocks,
        )
