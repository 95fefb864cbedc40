"""`clean`: remove artifacts. Only directories that hold an artifact of ours, or our own working state, are ever
removed."""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aoti_build.files import lock
from aoti_build.layout import artifact_directory, lock_path, staging_prefix, staging_root
from aoti_build.spec.project import Project, Target
from aoti_build.verbs.status import orphans

_STATE = (".stat-cache.json", ".index.json", ".project-cache", ".passed-checks.json")


@dataclass(frozen=True)
class CleanReport:
    """What was removed (or, with `dry_run`, would be), relative to the project, and how many bytes that is."""

    removed: tuple[str, ...]
    bytes: int
    dry_run: bool

    def as_json(self) -> dict[str, Any]:
        return {
            "format": "aoti-build/clean",
            "format_version": 1,
            "ok": True,
            "removed": list(self.removed),
            "bytes": self.bytes,
            "dry_run": self.dry_run,
        }


def clean(
    project: Project, targets: tuple[Target, ...] | None, *, orphans_only: bool = False, dry_run: bool = False
) -> CleanReport:
    """Remove the artifacts of `targets`; of None, all of them, orphans and working state too; or only the orphans."""
    chosen = () if orphans_only else project.targets if targets is None else targets
    removed: list[Path] = []
    size = 0
    for target in chosen:
        # Never from under a build; where there is nothing there is no lock to take either.
        guard = contextlib.nullcontext() if dry_run or not _of(project, target) else lock(lock_path(project, target))
        with guard:
            paths = _of(project, target)
            size += _remove(paths, dry_run)
            removed += paths
    others = _of_orphans(project) if targets is None or orphans_only else []
    if targets is None and not orphans_only:
        others += [path for name in _STATE if (path := project.artifacts / name).exists()]
    size += _remove(others, dry_run)
    removed += others
    if not dry_run:
        _remove_empty({path.parent for path in removed} - {project.artifacts})
    return CleanReport(tuple(path.relative_to(project.root).as_posix() for path in removed), size, dry_run)


def _of(project: Project, target: Target) -> list[Path]:
    """What there is of a target: its artifact, its logs, and what a killed build left."""
    artifact = artifact_directory(project, target)
    prefix = staging_prefix(target)
    logs = (project.artifacts / ".logs").glob(f"{prefix}*.log")
    return [*([artifact] if artifact.exists() else []), *sorted(logs), *staging_root(project).glob(f"{prefix}*")]


def _of_orphans(project: Project) -> list[Path]:
    names = orphans(project)
    logs = [log for name in names for log in (project.artifacts / ".logs").glob(f"{name.replace('/', '@')}@*.log")]
    return [*(project.artifacts / name for name in names), *logs]


def _remove(paths: list[Path], dry_run: bool) -> int:
    """Remove files and directories (or only look at them); their size in bytes."""
    size = sum(map(_bytes, paths))
    for path in () if dry_run else paths:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return size


def _remove_empty(directories: set[Path]) -> None:
    for directory in directories:
        if directory.is_dir() and not any(directory.iterdir()):
            directory.rmdir()


def _bytes(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
