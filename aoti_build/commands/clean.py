"""`clean`: remove artifacts. Only directories that hold an artifact of ours, or our own working
state, are ever removed.

No link is followed. One that stands for an artifact, or for working state, is removed itself. One
that stands for a model's directory is refused, since other artifacts may lie behind it. `artifacts`
itself may be a link.
"""

from __future__ import annotations

import contextlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from aoti_build.artifact.paths import artifact_directory, lock_path, staging_prefix, staging_root
from aoti_build.commands.status import orphans
from aoti_build.common.json_object import JsonObject
from aoti_build.common.locks import lock
from aoti_build.common.removal import is_real_directory, own_entries, remove
from aoti_build.errors import UsageError
from aoti_build.models_file.project import Project, Target

_STATE = (".stat-cache.json", ".index.json", ".project-cache", ".passed-checks.json")


@dataclass(frozen=True)
class CleanReport:
    """What was removed (or, with `dry_run`, would be), relative to the project, and how many bytes
    that is."""

    removed: tuple[str, ...]
    bytes: int
    dry_run: bool

    def as_json(self) -> JsonObject:
        return {
            "format": "aoti-build/clean",
            "format_version": 1,
            "ok": True,
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
    """Remove the artifacts of `targets`; of None, all of them, orphans and working state too; or
    only the orphans.

    Raises `UsageError`, and nothing is removed, if a model's directory is a link.
    """
    chosen = project.targets if targets is None else targets
    if orphans_only:
        chosen = ()
    for target in chosen:
        _refuse_link(artifact_directory(project, target).parent)
    removed: list[Path] = []
    size = 0
    for target in chosen:
        # Never from under a build; where there is nothing there is no lock to take either.
        guard = (
            contextlib.nullcontext()
            if dry_run or not _of(project, target)
            else lock(lock_path(project, target))
        )
        with guard:
            paths = _of(project, target)
            size += _remove(paths, dry_run)
            removed += paths
    others = _of_orphans(project) if targets is None or orphans_only else []
    if targets is None and not orphans_only:
        others += [path for name in _STATE if os.path.lexists(path := project.artifacts / name)]
    size += _remove(others, dry_run)
    removed += others
    if not dry_run:
        _remove_empty({path.parent for path in removed} - {project.artifacts})
    return CleanReport(
        tuple(path.relative_to(project.root).as_posix() for path in removed), size, dry_run
    )


def _of(project: Project, target: Target) -> list[Path]:
    """What there is of a target: its artifact, its logs, and what a killed build left."""
    artifact, staged = artifact_directory(project, target), staging_root(project)
    prefix = staging_prefix(target)
    return [
        *([artifact] if os.path.lexists(artifact) else []),
        *own_entries(project.artifacts, ".logs", f"{prefix}*.log"),
        *own_entries(staged.parent, staged.name, f"{prefix}*"),
    ]


def _of_orphans(project: Project) -> list[Path]:
    names = orphans(project)
    flat = [name.replace("/", "@") for name in names]
    logs = [
        log for name in flat for log in own_entries(project.artifacts, ".logs", f"{name}@*.log")
    ]
    return [*(project.artifacts / name for name in names), *logs]


def _remove(paths: list[Path], dry_run: bool) -> int:
    """Remove files, links and directories (or only look at them); their size in bytes."""
    size = sum(map(_bytes, paths))
    for path in () if dry_run else paths:
        remove(path)
    return size


def _remove_empty(directories: set[Path]) -> None:
    for directory in directories:
        if is_real_directory(directory) and not any(directory.iterdir()):
            directory.rmdir()


def _refuse_link(directory: Path) -> None:
    if directory.is_symlink():
        raise UsageError(
            f"{directory} is a symbolic link, and clean follows none",
            cause=f"it leads to {os.readlink(directory)}; nothing was removed",
            hint=f"remove the link (rm {directory}), or the artifacts where they are",
        )


def _bytes(path: Path) -> int:
    """Of regular files; what a link leads to does not count."""
    inside = path.rglob("*") if is_real_directory(path) else ()
    found = [file.lstat() for file in (path, *inside)]
    return sum(status.st_size for status in found if stat.S_ISREG(status.st_mode))
