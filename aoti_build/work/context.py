"""What every way of making an artifact shares: a place to stage it, a last look at its inputs, and
its publication.

The artifact directory is exchanged as a whole and last, so whatever happens before leaves the
published one as it was. A restore imports this module: its named tuples are made in a seventh of a
dataclass' time.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from aoti_build.artifact import integrity
from aoti_build.artifact.fingerprint import Fingerprint, Parts
from aoti_build.artifact.manifest import LOG, MODEL, REFERENCE_DATA, FileRecord, Manifest
from aoti_build.artifact.paths import artifact_directory, log_path, staging_prefix, staging_root
from aoti_build.common.outputs import start_log
from aoti_build.common.publication import publish_directory, staging
from aoti_build.common.removal import own_entries, remove
from aoti_build.common.stat_cache import StatCache
from aoti_build.errors import EditedMeanwhile
from aoti_build.models_file.project import Project, Target
from aoti_build.planning.actions import Done
from aoti_build.planning.current_state import current_parts
from aoti_build.store.interface import Store

if TYPE_CHECKING:
    from aoti_build.work.preflight import Preflight


class Place(NamedTuple):
    """Where one target is worked on: `work` is removed at the end, `staged` in it becomes the
    artifact."""

    work: Path
    staged: Path
    log: Path

    @property
    def whole_reference_data(self) -> Path:
        """Where reference data go if the artifact's own file has no room for all of them."""
        return self.work / "reference-whole.safetensors"


class BuildContext(NamedTuple):
    """A project with its caches and its store.

    `on_progress` is called with each phase of a target, from any thread. `preflight` is asked
    before a target is compiled, if there is one.
    """

    project: Project
    digests: StatCache
    store: Store
    on_progress: Callable[[Target, str], None]
    preflight: Preflight | None = None

    def phases_of(self, target: Target) -> Callable[[str], None]:
        """`on_progress` for one target."""
        return lambda phase: self.on_progress(target, phase)

    @contextlib.contextmanager
    def place(self, target: Target, *, free_later: bool = False) -> Iterator[Place]:
        """A staging directory and an empty log; what a killed build of this target left is removed
        first. The caller holds the target's lock. `free_later` as for `staging`."""
        log, root = log_path(self.project, target), staging_root(self.project)
        start_log(log)
        for left in own_entries(root.parent, root.name, f"{staging_prefix(target)}*"):
            with contextlib.suppress(OSError):
                remove(left)
        with staging(root, staging_prefix(target), free_later=free_later) as work:
            staged = work / "artifact"
            staged.mkdir()
            yield Place(work, staged, log)

    def publish(
        self,
        target: Target,
        place: Place,
        manifest: Manifest,
        seconds: Mapping[str, float],
        started: float,
    ) -> Manifest:
        """Put what is staged in the artifact's place, and into the store. A manifest without
        `files` gets those that are staged. Raises `EditedMeanwhile`."""
        self._refuse_edited(target, manifest.source)
        self.on_progress(target, "publish")
        shutil.copyfile(place.log, place.staged / LOG)
        final = replace(
            manifest,
            target=target.name,
            models_file=self.project.file.name,
            files=manifest.files or _recorded(place.staged),
            seconds={**seconds, "total": round(time.perf_counter() - started, 3)},
        )
        final.write(place.staged, sync=False)  # which publishing makes it
        directory = artifact_directory(self.project, target)
        if final.action != Done.RESTORED:
            self.store.share_weights(place.staged / MODEL)
        publish_directory(place.staged, directory)
        if final.action != Done.RESTORED:
            self.store.put(final, directory)
        self.store.register(self.project.artifacts)
        return final

    def _refuse_edited(self, target: Target, source: Parts) -> None:
        """What was built is of what was read; publishing it as today's state would be a lie if an
        input changed since."""
        now = current_parts(self.project, target, source, self.digests)
        changed = list(now.differences(Fingerprint(source).parts))
        if changed:
            raise EditedMeanwhile(changed[0].what, cause="\n".join(map(str, changed)))


def _recorded(staged: Path) -> dict[str, FileRecord]:
    """The records of the files of an artifact that was just made."""
    files = {name: FileRecord.of(staged / name) for name in (MODEL, REFERENCE_DATA)}
    for file in files.values():
        integrity.note(file)
    return files
