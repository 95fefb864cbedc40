"""Reads and writes tuned.yaml.

The file is committed and may be edited by hand, so it is read as strictly as models.yaml: all
problems at once, each with its position, and unknown keys are errors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any

import yaml
from pydantic import Field, WithJsonSchema

from aoti_build.common.fields import is_name
from aoti_build.errors import SpecError
from aoti_build.models_file.parsing import yaml_document
from aoti_build.models_file.parsing.field_types import (
    MemoryFormat,
    Name,
    NotEmpty,
    NotNegative,
    Option,
    Positive,
    YamlMapping,
)
from aoti_build.models_file.parsing.reader import DocumentReader
from aoti_build.models_file.parsing.schema import MappingTypes
from aoti_build.models_file.parsing.type_errors import check_types
from aoti_build.models_file.project import Choice
from aoti_build.models_file.tuned import TUNED_FILE, Entries, Entry, Evidence

VERSION = 1
_HEADER = """\
# `invoke tune` writes this file, and `invoke build` follows it for the preset `tuned`. Commit it.
"""


class EvidenceMapping(YamlMapping):
    """The fields of `Evidence`."""

    ratio: NotNegative
    low: NotNegative
    high: NotNegative
    pairs: Positive
    default_ms: NotNegative
    tuned_ms: NotNegative
    torch: NotEmpty
    created: NotEmpty
    loss: NotNegative | None = None
    cuda_graphs: bool | None = None


class EntryMapping(YamlMapping):
    """The choice for one target on one class of hosts."""

    candidate: NotEmpty
    options: dict[Option, Any]
    tf32: bool | None = None
    reduced_precision: bool | None = None
    memory_format: MemoryFormat | None = None
    evidence: EvidenceMapping


class TunedFile(YamlMapping):
    """The file."""

    version: Annotated[int, WithJsonSchema({"const": VERSION})]
    targets: dict[str, Annotated[dict[Name, EntryMapping], Field(min_length=1)]]


MAPPING_TYPES: MappingTypes = {
    (): TunedFile,
    ("targets", "*", "*"): EntryMapping,
    ("targets", "*", "*", "evidence"): EvidenceMapping,
}


def parse_tuned(content: bytes) -> Entries:
    """The entries of tuned.yaml, by the name of the target and the class of hosts.

    Raises SpecError with all problems of the file.
    """
    if not content:
        return {}
    reader = DocumentReader(yaml_document.parse(content, TUNED_FILE))
    check_types(reader, MAPPING_TYPES)
    version = reader.get(("version",))
    if version not in (None, VERSION):
        reader.add(("version",), f"version {version} is not supported; run `invoke tune` again")
    if reader.problems:
        raise SpecError(TUNED_FILE, reader.problems)
    entries = {name: _entries_of(reader, name) for name in reader.keys(("targets",))}
    if reader.problems:
        raise SpecError(TUNED_FILE, reader.problems)
    return entries


def _entries_of(reader: DocumentReader, target: str) -> dict[str, Entry]:
    if not _is_target_name(target):
        message = "this is not the name of a target; write it as `invoke status` does"
        reader.add(("targets", target), message, at_key=True)
    entries = {}
    for host in reader.keys(("targets", target)):
        path = ("targets", target, host)
        reader.read_json((*path, "options"))
        mapping = reader.read(EntryMapping, path)
        if mapping is not None:
            entries[host] = _entry(mapping, reader, path)
    return entries


def _entry(mapping: EntryMapping, reader: DocumentReader, path: tuple[str, ...]) -> Entry:
    choice = Choice(
        candidate=mapping.candidate,
        options=mapping.options,
        tf32=mapping.tf32,
        reduced_precision=mapping.reduced_precision,
        memory_format=mapping.memory_format,
        position=reader.document.at((*path, "options")).position,
    )
    return Entry(choice, Evidence(**mapping.evidence.model_dump()))


def _is_target_name(text: str) -> bool:
    model, slash, variant = text.partition("/")
    return bool(slash) and is_name(model) and is_name(variant)


def tuned_text(entries: Entries) -> str:
    """The text of tuned.yaml with these entries, in the order of their names."""
    targets = {}
    for target, by_host in sorted(entries.items()):
        if by_host:
            targets[target] = {host: _mapping(entry) for host, entry in sorted(by_host.items())}
    document = {"version": VERSION, "targets": targets}
    body = yaml.safe_dump(
        document,
        sort_keys=False,
        default_flow_style=None,  # mappings of plain values are on one line
        allow_unicode=True,
        width=100,
    )
    return _HEADER + body


def _mapping(entry: Entry) -> dict[str, Any]:
    choice = entry.choice
    evidence: Mapping[str, Any] = asdict(entry.evidence)
    memory_format = {"memory_format": choice.memory_format} if choice.memory_format else {}
    return {
        "candidate": choice.candidate,
        "options": dict(choice.options),
        **choice.precision,
        **memory_format,
        "evidence": {name: value for name, value in evidence.items() if value is not None},
    }
