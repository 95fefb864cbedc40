"""The cache of parsed models.yaml files. A process that reads it needs neither yaml nor pydantic.

The cache is a directory with one JSON record for each of the last few contents of the file. The
digest of the content names the record, so an edit that is undone finds its old record again. Only
valid projects are cached. A record that is missing, damaged or of another version costs a parse.

A record cannot bring in a project that the parser would refuse: its targets must follow the rules
of models.yaml (`aoti_build.models_file.records`), and no other user may be able to write the file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeAlias

from aoti_build import __version__
from aoti_build.common.digests import digest_bytes
from aoti_build.common.fields import (
    anything,
    flag,
    integer,
    list_of,
    loads,
    one_of,
    or_none,
    table,
    table_of,
    text,
)
from aoti_build.common.json_object import JsonObject
from aoti_build.common.memory_formats import NAMES
from aoti_build.common.records import OWNER_WRITES, read_owned
from aoti_build.common.writing import write_atomic
from aoti_build.models_file import rules, target_shape
from aoti_build.models_file.places import Layout
from aoti_build.models_file.project import Choice, Position, Project, Target
from aoti_build.models_file.records import record_digest, target_from_json, target_to_json

FORMAT = "aoti-build/project-cache"
# Increase this when a field of the domain types changes its meaning, or when the parser makes
# something else of the same file.
CACHE_VERSION = 8
MAX_RECORDS = 8
Choices: TypeAlias = Mapping[str, Mapping[str, Choice]]
_check_positions = table_of(anything, list_of(integer(1), 2, 2))
_check_presets = table_of(target_shape.PRESET_NAME, target_shape.OPTIONS)
_CHOICE = table(
    {
        "candidate": text,
        "options": target_shape.OPTIONS,
        "tf32": or_none(flag),
        "reduced_precision": or_none(flag),
        "memory_format": one_of(None, *NAMES),
        "position": table({"line": integer(1), "column": integer(1)}),
    }
)
_check_choices = table_of(text, table_of(text, _CHOICE))
_check_layout = table(
    {
        "root": target_shape.follows(rules.root_path),
        "python_path": list_of(target_shape.follows(rules.project_path), 1),
        "artifacts": target_shape.follows(rules.artifacts_path),
        "history": or_none(target_shape.follows(rules.history_path)),
    }
)


def read_cache(directory: Path, file: Path, content: bytes, tuned: bytes = b"") -> Project | None:
    """Return the cached project for exactly this content of models.yaml and of tuned.yaml, or
    None."""
    content = _both(content, tuned)
    try:
        document = loads(read_owned(_record_path(directory, content)))
        if document["format"] != FORMAT or document["stamp"] != _stamp(content):
            return None
        positions = [_positions_from_json(record) for record in document["positions"]]
        targets = [_target_from_json(record, positions) for record in document["targets"]]
        _check_presets(document["presets"])
        preset_positions = {
            name: _positions_from_json(record)
            for name, record in document["preset_positions"].items()
        }
        choices = _choices_from_json(document["tuned"])
        layout = _layout_from_json(document["layout"])
    # Another program may have written anything here, so a record may have any shape.
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        return None
    if not targets:
        return None
    return Project(
        file,
        tuple(targets),
        presets=document["presets"],
        tuned=choices,
        layout=layout,
        preset_positions=preset_positions,
    )


def write_cache(directory: Path, project: Project, content: bytes, tuned: bytes = b"") -> None:
    """Write a record for `project`, and remove the oldest records.

    A write that fails is ignored, because it only costs time. `directory` is created if its parent
    exists: a command that only reads must not create `artifacts/`.
    """
    content = _both(content, tuned)
    # A link could make the code below remove files elsewhere.
    if not directory.parent.is_dir() or directory.is_symlink():
        return
    data = json.dumps(_document(project, content)).encode()
    try:
        write_atomic(_record_path(directory, content), data, mode=OWNER_WRITES)
        records = sorted(directory.glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
        for record in records[:-MAX_RECORDS]:
            record.unlink(missing_ok=True)
    except OSError:
        return


def _document(project: Project, content: bytes) -> JsonObject:
    """Return the record of `project`. The targets of a model share one table of positions."""
    positions: list[dict[str, list[int]]] = []
    index_of_model: dict[int, int] = {}  # by the model's id: its content may be unhashable
    targets = []
    for target in project.targets:
        model = target.model
        if id(model) not in index_of_model:
            index_of_model[id(model)] = len(positions)
            positions.append(_positions_to_json(model.positions))
        record = target_to_json(target)
        record["digest"] = target.digest
        record["positions"] = index_of_model[id(model)]
        targets.append(record)
    return {
        "format": FORMAT,
        "format_version": CACHE_VERSION,
        "stamp": _stamp(content),
        "positions": positions,
        "targets": targets,
        "presets": project.presets,
        "preset_positions": {
            name: _positions_to_json(positions)
            for name, positions in project.preset_positions.items()
        },
        "tuned": _choices_to_json(project.tuned),
        "layout": asdict(project.layout),
    }


def _both(content: bytes, tuned: bytes) -> bytes:
    """The contents of both files as one. Neither contains the separator."""
    return content + b"\0" + tuned if tuned else content


def _record_path(directory: Path, content: bytes) -> Path:
    return directory / f"{digest_bytes(content)[:32]}.json"


def _stamp(content: bytes) -> list[object]:
    return [CACHE_VERSION, __version__, digest_bytes(content)]


def _positions_to_json(positions: Mapping[str, Position]) -> dict[str, list[int]]:
    return {name: [position.line, position.column] for name, position in positions.items()}


def _positions_from_json(record: Mapping[str, Any]) -> dict[str, Position]:
    _check_positions(record)
    return {name: Position(line, column) for name, (line, column) in record.items()}


def _layout_from_json(record: JsonObject) -> Layout:
    _check_layout(record)
    return Layout(**{**record, "python_path": tuple(record["python_path"])})


def _choices_to_json(tuned: Choices) -> JsonObject:
    records: JsonObject = {}
    for target, by_host in tuned.items():
        records[target] = {host: asdict(choice) for host, choice in by_host.items()}
    return records


def _choices_from_json(records: JsonObject) -> dict[str, dict[str, Choice]]:
    _check_choices(records)
    choices: dict[str, dict[str, Choice]] = {}
    for target, by_host in records.items():
        choices[target] = {}
        for host, record in by_host.items():
            position = Position(**record.pop("position"))
            choices[target][host] = Choice(**record, position=position)
    return choices


def _target_from_json(record: JsonObject, positions: list[dict[str, Position]]) -> Target:
    """Return the target of a record. Raises ValueError if it does not have its recorded digest, and
    the errors of `target_from_json`."""
    # The digest was made of the record without these two fields.
    digest = record.pop("digest")
    model_index = record.pop("positions")
    if record_digest(record) != digest:
        raise ValueError("the digest of a target does not match")
    return target_from_json(record, positions[model_index], digest)
