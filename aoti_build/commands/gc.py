"""`gc`: make the store smaller, least recently used first, without taking anything that an artifact
in use needs."""

from __future__ import annotations

import time
from dataclasses import dataclass

from aoti_build.artifact.manifest import Manifest, read_manifest
from aoti_build.common.json_object import JsonObject
from aoti_build.models_file.project import Project
from aoti_build.store.interface import Store, StoredObject
from aoti_build.store.selection import open_store


@dataclass(frozen=True)
class GcReport:
    """Sizes in bytes. `in_use` objects belong to a published artifact of some checkout that uses
    the store."""

    removed: int
    removed_bytes: int
    kept: int
    kept_bytes: int
    in_use: int
    dry_run: bool

    def as_json(self) -> JsonObject:
        return {
            "format": "aoti-build/gc",
            "format_version": 1,
            "ok": True,
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
    """Remove objects that nobody uses: those last used more than `max_age` seconds ago, then the
    least recently used until the store has at most `max_size` bytes. With neither, all that nobody
    uses."""
    store = open_store(project.artifacts)
    if not dry_run:
        store.register(project.artifacts)
    objects = sorted(store.list_objects(), key=lambda stored: stored.last_used)
    used = _used(store, project)
    total = sum(stored.size for stored in objects)
    oldest = time.time() - max_age if max_age is not None else None
    removed: list[StoredObject] = []
    for stored in objects:
        if stored.digest in used:
            continue
        too_old = oldest is not None and stored.last_used < oldest
        too_much = max_size is not None and total > max_size
        if too_old or too_much or (max_age is None and max_size is None):
            removed.append(stored)
            total -= stored.size
    if not dry_run:
        store.remove(removed)
    gone = sum(stored.size for stored in removed)
    return GcReport(
        removed=len(removed),
        removed_bytes=gone,
        kept=len(objects) - len(removed),
        kept_bytes=total,
        in_use=sum(stored.digest in used for stored in objects),
        dry_run=dry_run,
    )


def _used(store: Store, project: Project) -> set[str]:
    """Digests of the files of every published artifact of this project and of the registered roots
    that still exist."""
    digests: set[str] = set()
    for root in {project.artifacts, *store.roots()}:
        for path in root.glob("[!.]*/[!.]*/manifest.json"):
            manifest = read_manifest(path.parent)
            if isinstance(manifest, Manifest):
                digests |= {file.sha256 for file in manifest.files.values()}
    return digests
