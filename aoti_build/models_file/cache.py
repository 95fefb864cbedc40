"""A parsed models.yaml, kept as JSON: a process that finds it pays neither for yaml nor for
pydantic.

A directory with a record for each of the last few contents of the file (so that an undo finds its
own again), named by the digest of the bytes. It holds valid projects only, and is disposable:
deleting it, or finding a record unreadable or of another version, costs a parse.

A record is no other way into the project: its targets fulfil the rules of models.yaml
(`aoti_build.models_file.records`), and it is believed only if nobody else may have written it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aoti_build import __version__
from aoti_build.common.digests import digest_bytes
from aoti_build.common.fields import anything, integer, list_of, loads, table_of
from aoti_build.common.records import OWNER_WRITES, read_owned
from aoti_build.common.writing import write_atomic
from aoti_build.models_file.project import Position, Project, Target
from aoti_build.models_file.records import record_digest, target_from_json, target_to_json

FORMAT = "aoti-build/project-cache"
# Bump when the meaning of a field of the domain types changes, or what the parser makes of a file.
CACHE_VERSION = 5
KEPT = 8
_POSITIONS = table_of(anything, list_of(integer(1), 2, 2))


def read_cache(directory: Path, file: Path, content: bytes) -> Project | None:
    """The project that was parsed from exactly `content`, or None."""
    try:
        document = loads(read_owned(_record(directory, content)))
        if document["format"] != FORMAT or document["stamp"] != _stamp(content):
            return None
        positions = [_positions(record) for record in document["positions"]]
        targets = tuple(_target(entry, positions) for entry in document["targets"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        return None
    return Project(file, targets) if targets else None


def write_cache(directory: Path, project: Project, content: bytes) -> None:
    """Keep `project`. A disk that refuses loses speed only; nothing is written where `artifacts/`
    is not there yet."""
    # Older records are removed below, which must not happen where a link leads.
    if not directory.parent.is_dir() or directory.is_symlink():
        return
    models = list({id(target.model): target.model for target in project.targets}.values())
    index = {id(model): number for number, model in enumerate(models)}
    positions = [
        {name: [position.line, position.column] for name, position in model.positions.items()}
        for model in models
    ]
    targets = [_entry(target, index[id(target.model)]) for target in project.targets]
    document = {
        "format": FORMAT,
        "format_version": CACHE_VERSION,
        "stamp": _stamp(content),
        "positions": positions,
        "targets": targets,
    }
    try:
        write_atomic(_record(directory, content), json.dumps(document).encode(), mode=OWNER_WRITES)
        records = sorted(directory.glob("*.json"), key=lambda record: record.stat().st_mtime_ns)
        for record in records[:-KEPT]:
            record.unlink(missing_ok=True)
    except OSError:
        return


def _record(directory: Path, content: bytes) -> Path:
    return directory / f"{digest_bytes(content)[:32]}.json"


def _positions(record: Mapping[str, Any]) -> dict[str, Position]:
    _POSITIONS(record)
    return {name: Position(*position) for name, position in record.items()}


def _target(entry: dict[str, Any], positions: list[dict[str, Position]]) -> Target:
    """Raises what `target_from_json` does, and ValueError for one that is not what was kept."""
    digest, model_index = entry.pop("digest"), entry.pop("positions")
    if record_digest(entry) != digest:
        raise ValueError("digest")
    return target_from_json(entry, positions[model_index], digest)


def _entry(target: Target, positions: int) -> dict[str, object]:
    return {**target_to_json(target), "digest": target.digest, "positions": positions}


def _stamp(content: bytes) -> list[object]:
    return [CACHE_VERSION, __version__, digest_bytes(content)]
