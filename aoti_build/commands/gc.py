"""`gc`: removes the least recently used objects of the store.

An object that a published artifact needs is never removed.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from aoti_build.artifact.manifest import Manifest, read_manifest
from aoti_build.artifact.paths import make_artifacts
from aoti_build.commands.conclusion import head
from aoti_build.common.json_object import JsonObject
from aoti_build.models_file.project import Project
from aoti_build.store.interface import Store, StoredObject
from aoti_build.store.selection import open_store


@dataclass(frozen=True)
class GcReport:
    """Counts of objects, and sizes in bytes. `in_use` objects belong to a published artifact of a
    checkout that uses the store."""

    removed: int
    removed_bytes: int
    kept: int
    kept_bytes: int
    in_use: int
    dry_run: bool

    def as_json(self) -> JsonObject:
        return {
            **head("aoti-build/gc", 1),
            "removed": self.removed,
            "removed_bytes": self.removed_bytes,
            "kept": self.kept,
            "kept_bytes": self.kept_bytes,
            "in_use": self.in_use,
            "dry_run": self.dry_run,
        }


def gc(
    project: Project,
    *,
    max_size: int | None = None,
    max_age: float | None = None,
    dry_run: bool = False,
) -> GcReport:
    """Remove objects that no published artifact uses.

    These are the objects last used more than `max_age` seconds ago, and then the least recently
    used ones until the store has at most `max_size` bytes. Without both limits, all unused objects
    are removed.
    """
    store = open_store(project.main_artifacts)
    # A registered root protects its artifacts from the gc of another checkout.
    if not dry_run:
        make_artifacts(project)
        store.register(project.artifacts)
    # The least recently used first.
    objects = sorted(store.list_objects(), key=lambda stored: stored.last_used)
    used = _used_digests(store, project)
    oldest = None if max_age is None else time.time() - max_age
    remaining_bytes = sum(stored.size for stored in objects)
    total_bytes = remaining_bytes
    removed: list[StoredObject] = []
    for stored in objects:
        if stored.digest in used:
            continue
        is_too_old = oldest is not None and stored.last_used < oldest
        is_too_much = max_size is not None and remaining_bytes > max_size
        is_unlimited = max_age is None and max_size is None
        if is_too_old or is_too_much or is_unlimited:
            removed.append(stored)
            remaining_bytes -= stored.size
    if not dry_run:
        store.remove(removed)
    return GcReport(
        removed=len(removed),
        removed_bytes=total_bytes - remaining_bytes,
        kept=len(objects) - len(removed),
        kept_bytes=remaining_bytes,
        in_use=sum(stored.digest in used for stored in objects),
        dry_run=dry_run,
    )


def _used_digests(store: Store, project: Project) -> set[str]:
    """Digests of the files of every published artifact, in this project and in the registered roots
    that still exist."""
    digests: set[str] = set()
    for root in {project.artifacts, *store.roots()}:
        # model/variant/manifest.json; names with a leading dot are working state.
        for path in root.glob("[!.]*/[!.]*/manifest.json"):
            manifest = read_manifest(path.parent)
            if isinstance(manifest, Manifest):
                digests.update(file.sha256 for file in manifest.files.values())
    return digests
