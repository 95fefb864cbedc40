"""`clean`: removes artifacts.

It removes only directories that hold an artifact of ours, and our own working state. No link is
followed. A link in the place of an artifact or of working state is removed itself. A link in the
place of a model's directory is refused, because other artifacts may be behind it. `artifacts`
itself may be a link.
"""

from __future__ import annotations

import os
import stat
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from aoti_build.artifact.paths import (
    TUNING,
    artifact_directory,
    lock_path,
    staging_prefix,
    staging_root,
)
from aoti_build.commands.conclusion import head
from aoti_build.commands.status import orphans
from aoti_build.common.json_object import JsonObject
from aoti_build.common.locks import lock
from aoti_build.common.removal import is_real_directory, own_entries, remove
from aoti_build.errors import UsageError
from aoti_build.models_file.project import Project, Target

_WORKING_STATE = (
    ".stat-cache.json",
    ".index.json",
    ".project-cache",
    ".passed-checks.json",
    TUNING,
)


@dataclass(frozen=True)
class CleanReport:
    """The removed paths, relative to the project, and their size in bytes. With `dry_run` nothing
    was removed."""

    removed: tuple[str, ...]
    bytes: int
    dry_run: bool

    def as_json(self) -> JsonObject:
        return {
            **head("aoti-build/clean", 1),
            "removed": list(self.removed),
            "bytes": self.bytes,
            "dry_run": self.dry_run,
        }


def clean(
    project: Project,
    targets: tuple[Target, ...] | None,
    *,
    orphans_only: bool = False,
    dry_run: bool = False,
) -> CleanReport:
    """Remove the artifacts of `targets`.

    Without targets, all artifacts, orphans and working state are removed. With `orphans_only` only
    the orphans are removed, whatever the targets.

    Raises:
        UsageError: A model's directory is a link. Nothing was removed.
    """
    remove_all = targets is None and not orphans_only
    if orphans_only:
        chosen: tuple[Target, ...] = ()
    else:
        chosen = project.targets if targets is None else targets
    # Before anything is removed, so that an error leaves all as it was.
    for target in chosen:
        _refuse_link(artifact_directory(project, target).parent)
    removed: list[Path] = []
    size = 0
    for target in chosen:
        # Wait for a running build of the target. Without any files there is nothing to wait for,
        # and the lock would be a new file.
        needs_lock = not dry_run and _target_paths(project, target)
        with lock(lock_path(project, target)) if needs_lock else nullcontext():
            paths = _target_paths(project, target)
            size += _remove(paths, dry_run)
            removed += paths
    others: list[Path] = []
    if remove_all or orphans_only:
        others += _orphan_paths(project)
    if remove_all:
        others += _working_state(project)
    size += _remove(others, dry_run)
    removed += others
    if not dry_run:
        _remove_empty({path.parent for path in removed} - {project.artifacts})
    names = [project.shown(path) for path in removed]
    return CleanReport(tuple(names), size, dry_run)


def _target_paths(project: Project, target: Target) -> list[Path]:
    """The artifact of a target, its logs, and the staging directories of builds that were
    killed."""
    artifact = artifact_directory(project, target)
    staging = staging_root(project)
    prefix = staging_prefix(target)
    # A broken link is an entry too, which `exists` would not see.
    paths = [artifact] if os.path.lexists(artifact) else []
    paths += own_entries(project.artifacts, ".logs", f"{prefix}*.log")
    paths += own_entries(staging.parent, staging.name, f"{prefix}*")
    return paths


def _orphan_paths(project: Project) -> list[Path]:
    names = orphans(project)
    paths = [project.artifacts / name for name in names]
    # The target of an orphan is unknown to models.yaml, so only the name leads to its logs.
    for name in names:
        log_name = name.replace("/", "@")
        paths += own_entries(project.artifacts, ".logs", f"{log_name}@*.log")
    return paths


def _working_state(project: Project) -> list[Path]:
    paths = [project.artifacts / name for name in _WORKING_STATE]
    return [path for path in paths if os.path.lexists(path)]


def _remove(paths: list[Path], dry_run: bool) -> int:
    """Remove files, links and directories unless `dry_run` is set. Returns their size in bytes."""
    size = sum(_size(path) for path in paths)
    if not dry_run:
        for path in paths:
            remove(path)
    return size


def _remove_empty(directories: set[Path]) -> None:
    for directory in directories:
        # A model's directory is of no use without artifacts.
        if is_real_directory(directory) and not any(directory.iterdir()):
            directory.rmdir()


def _refuse_link(directory: Path) -> None:
    if directory.is_symlink():
        raise UsageError(
            f"{directory} is a symbolic link, which clean does not follow",
            cause=f"it leads to {os.readlink(directory)}; nothing was removed",
            hint=f"remove the link (rm {directory}), or remove the artifacts at their location",
        )


def _size(path: Path) -> int:
    """The bytes of all regular files at and below `path`. The target of a link does not count."""
    files = [path]
    if is_real_directory(path):
        files += path.rglob("*")
    size = 0
    for file in files:
        status = file.lstat()
        if stat.S_ISREG(status.st_mode):
            size += status.st_size
    return size
