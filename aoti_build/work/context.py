"""The build context: staging, a last comparison of the inputs, and publication.

All ways of making an artifact share it. The artifact directory is exchanged last and in one step. A
failure before that leaves the published artifact unchanged.

A restore imports this module, so it has named tuples. Python makes one in a seventh of the time
that a dataclass takes.
"""

from __future__ import annotations

import contextlib
import os
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
from aoti_build.common import publication
from aoti_build.common.outputs import start_log
from aoti_build.common.removal import own_entries, remove
from aoti_build.common.stat_cache import StatCache
from aoti_build.errors import EditedMeanwhile
from aoti_build.models_file.project import Project, Target
from aoti_build.planning.actions import Done
from aoti_build.planning.current_state import current_parts
from aoti_build.store.interface import Store
from aoti_build.work.processes import check_stopping
from aoti_build.work.watch import Interval, Progress, Watcher

if TYPE_CHECKING:
    from aoti_build.messages import Span, Stage
    from aoti_build.work.preflight import Preflight


class Staging(NamedTuple):
    """The staging directory of one target.

    `directory` is removed at the end. `artifact` is a directory in it, which becomes the published
    artifact. `log` is the build log, outside of both.
    """

    directory: Path
    artifact: Path
    log: Path

    @property
    def whole_reference_data(self) -> Path:
        """The file for all reference data, if they exceed the limit of the artifact's own file."""
        return self.directory / "reference-whole.safetensors"


class Wait:
    """Reports a wait for a lock, if there is one: a phase when it begins, and an interval when the
    context ends. `lock` calls it while it waits."""

    def __init__(self, context: BuildContext, target: Target, what: str) -> None:
        self.happened = False
        self._context = context
        self._target = target
        self._what = what
        self._started = time.monotonic()

    def __call__(self) -> None:
        check_stopping()
        if not self.happened:
            self.happened = True
            self._context.watcher.phase(self._target, self._what)

    def __enter__(self) -> Wait:
        return self

    def __exit__(self, *error: object) -> None:
        if self.happened:
            seconds = time.monotonic() - self._started
            name = self._target.name
            interval = Interval(name, os.getpid(), "wait", self._what, self._started, seconds)
            self._context.watcher.interval(interval)


class BuildContext(NamedTuple):
    """A project with its caches and its store.

    `preflight` checks the host before the first compile; None: the host is not checked. `watcher`
    is told each phase of a target, and its details.
    """

    project: Project
    digests: StatCache
    store: Store
    preflight: Preflight | None = None
    watcher: Watcher = Watcher()

    def phases_of(self, target: Target) -> Callable[[str], None]:
        """An `OnPhase` for the workers of one target."""

        def on_phase(phase: str) -> None:
            self.watcher.phase(target, phase)

        return on_phase

    def waiting(self, target: Target, what: str) -> Wait:
        """A wait for a lock, which is reported as the phase `what` and in the trace."""
        return Wait(self, target, what)

    def details_of(self, target: Target) -> Callable[[int, Stage | Span], None]:
        """An `OnDetail` for the workers of one target."""

        def on_detail(process: int, event: Stage | Span) -> None:
            # Workers send events, so a build that has any has imported this module.
            from aoti_build.messages import Stage

            if isinstance(event, Stage):
                progress = Progress(event.name, event.done, event.total, event.detail)
                self.watcher.stage(target, progress)
                return
            interval = Interval(
                target.name,
                process,
                event.kind,
                event.name,
                event.start,
                event.seconds,
                event.facts,
            )
            self.watcher.interval(interval)

        return on_detail

    @contextlib.contextmanager
    def stage(self, target: Target, *, free_later: bool = False) -> Iterator[Staging]:
        """A new staging directory and an empty log. The caller holds the target's lock.

        With `free_later`, a thread frees the disk space at the end; see `publication.staging`.
        """
        log = log_path(self.project, target)
        root = staging_root(self.project)
        start_log(log)
        self._remove_stale_staging(target)
        prefix = staging_prefix(target)
        with publication.staging(root, prefix, free_later=free_later) as directory:
            # No other user may change files between their check and their publication.
            artifact = directory / "artifact"
            artifact.mkdir()
            yield Staging(directory, artifact, log)

    def _remove_stale_staging(self, target: Target) -> None:
        """Remove staging directories of killed builds of this target."""
        root = staging_root(self.project)
        for entry in own_entries(root.parent, root.name, f"{staging_prefix(target)}*"):
            # What cannot be removed wastes space and is in no build's way.
            with contextlib.suppress(OSError):
                remove(entry)

    def publish(
        self,
        target: Target,
        staging: Staging,
        manifest: Manifest,
        seconds: Mapping[str, float],
        started: float,
    ) -> Manifest:
        """Publish the staged artifact, store it, and return its manifest.

        Args:
            manifest: if it has no `files`, they are recorded from the staged ones.
            seconds: wall times by phase.
            started: when the work began, by `time.perf_counter`.

        Raises `EditedMeanwhile` if an input of the build has changed. Nothing is published then.
        """
        self._refuse_edited(target, manifest.source)
        self.watcher.phase(target, "publish")
        shutil.copyfile(staging.log, staging.artifact / LOG)
        total = round(time.perf_counter() - started, 3)
        final = replace(
            manifest,
            target=target.name,
            models_file=self.project.name,
            files=manifest.files or _record_files(staging.artifact),
            seconds={**seconds, "total": total},
        )
        final.write(staging.artifact, sync=False)  # `publish_directory` syncs it
        directory = artifact_directory(self.project, target)
        # The store already has a restored artifact.
        is_new = final.action != Done.RESTORED
        if is_new:
            self.store.share_weights(staging.artifact / MODEL)
        publication.publish_directory(staging.artifact, directory)
        if is_new:
            self.store.put(final, directory)
        # `gc` keeps what the artifacts in registered directories need.
        self.store.register(self.project.main_artifacts)
        return final

    def _refuse_edited(self, target: Target, source: Parts) -> None:
        """Raise `EditedMeanwhile` if the inputs differ from the `source` that was built."""
        now = current_parts(self.project, target, source, self.digests)
        changed = list(now.differences(Fingerprint(source).parts))
        if changed:
            raise EditedMeanwhile(changed[0].what, cause="\n".join(map(str, changed)))


def _record_files(artifact: Path) -> dict[str, FileRecord]:
    """The records of the files of an artifact that was just made."""
    files: dict[str, FileRecord] = {}
    for name in (MODEL, REFERENCE_DATA):
        files[name] = FileRecord.of(artifact / name)
        integrity.note(files[name])
    return files
