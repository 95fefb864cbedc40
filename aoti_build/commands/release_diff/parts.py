"""Toolchains, licences and libraries of two releases, compared by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from aoti_build.artifact.bundle.record import ReleaseRecord
from aoti_build.commands.release.changes import TargetChange
from aoti_build.commands.release_diff.side import Library
from aoti_build.common.json_object import JsonObject


@dataclass(frozen=True)
class NamedChange:
    """What has a name and differs, such as a library by its version.

    The side that does not have it is None. `targets` are those that it is known to concern.
    """

    name: str
    old: str | None
    new: str | None
    targets: tuple[str, ...] = ()

    def as_json(self) -> JsonObject:
        return {
            "name": self.name,
            "old": self.old,
            "new": self.new,
            "targets": list(self.targets),
        }


def toolchain_changes(changes: Iterable[TargetChange]) -> tuple[NamedChange, ...]:
    """The facts of the toolchain that differ in targets of both releases."""
    targets: dict[tuple[str, str | None, str | None], list[str]] = {}
    for change in changes:
        if change.old is None or change.new is None:
            continue
        for fact in _differences(change.old.toolchain, change.new.toolchain):
            key = (fact.name, fact.old, fact.new)
            targets.setdefault(key, []).append(change.target)
    found = [NamedChange(*key, tuple(names)) for key, names in targets.items()]
    return tuple(sorted(found, key=lambda change: (change.name, change.old or "")))


def library_changes(
    old: Iterable[Library] | None, new: Iterable[Library] | None
) -> tuple[NamedChange, ...]:
    """The libraries of the bills of materials that differ. None for a side without a bill."""
    if old is None or new is None:
        return ()
    return tuple(_differences(_versions(old), _versions(new)))


def licence_changes(
    old: ReleaseRecord,
    new: ReleaseRecord,
    old_libraries: Iterable[Library] | None,
    new_libraries: Iterable[Library] | None,
) -> tuple[NamedChange, ...]:
    """The libraries whose licence differs, or is new.

    The bills of materials name all libraries. Without them there are only those that the code of
    the models imports.
    """
    if old_libraries is None or new_libraries is None:
        return tuple(_differences(_of_targets(old), _of_targets(new)))
    return tuple(_differences(_licences(old_libraries), _licences(new_libraries)))


def _differences(old: Mapping[str, str], new: Mapping[str, str]) -> list[NamedChange]:
    changes = []
    for name in sorted({*old, *new}):
        if old.get(name) != new.get(name):
            changes.append(NamedChange(name, old.get(name), new.get(name)))
    return changes


def _versions(libraries: Iterable[Library]) -> dict[str, str]:
    """The versions by name. Targets may have different ones of a library."""
    versions: dict[str, set[str]] = {}
    for library in libraries:
        versions.setdefault(library.name, set()).add(library.version)
    return {name: ", ".join(sorted(found)) for name, found in versions.items()}


def _licences(libraries: Iterable[Library]) -> dict[str, str]:
    """The licences by the name of the library. One without a licence is left out."""
    licences: dict[str, set[str]] = {}
    for library in libraries:
        for choice in library.licenses:
            licences.setdefault(library.name, set()).add(_licence_text(choice))
    return {name: ", ".join(sorted(found)) for name, found in licences.items()}


def _licence_text(choice: Mapping[str, object]) -> str:
    """An entry of CycloneDX: an expression, or a licence by its id or name."""
    licence = choice.get("license")
    if isinstance(licence, Mapping):
        return str(licence.get("id") or licence.get("name") or "unknown")
    return str(choice.get("expression", "unknown"))


def _of_targets(record: ReleaseRecord) -> dict[str, str]:
    """The licences in the record, by the library that its source names."""
    licences: dict[str, set[str]] = {}
    for target in record.targets:
        for licence in target.licences:
            name = licence.source.rpartition(" of ")[2]
            licences.setdefault(name, set()).add(licence.expression)
    return {name: ", ".join(sorted(found)) for name, found in licences.items()}
