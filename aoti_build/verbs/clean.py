"""`clean`: remove artifacts. Only directories that hold an artifact of ours, or our own working state, are ever
removed."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aoti_build.files import lock
from aoti_build.layout import artifact_directory, lock_path, log_path, reader_log_path, staging_prefix, staging_root
from aoti_build.spec.project import Project, Target
from aoti_build.verbs.status import orphans

_STATE = (".logs", ".stat-cache.json", ".index.json", ".project-cache")


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
    paths: list[Path] = []
    for target in chosen:
        logs = [log_path(project, target), *(reader_log_path(project, target, verb) for verb in ("verify", "run"))]
        paths += [artifact_directory(project, target), *logs]
    if targets is None or orphans_only:
        paths += [project.artifacts / name for name in orphans(project)]
    if targets is None and not orphans_only:
        paths += [project.artifacts / name for name in _STATE]
    found = [path for path in paths if path.exists()]
    size = sum(map(_bytes, found))
    if not dry_run:
        _remove(project, chosen, found)
    return CleanReport(tuple(path.relative_to(project.root).as_posix() for path in found), size, dry_run)


def _remove(project: Project, targets: tuple[Target, ...], paths: list[Path]) -> None:
    for target in targets:
        directory = artifact_directory(project, target)
        abandoned = list(staging_root(project).glob(f"{staging_prefix(target)}*"))
        if directory.exists() or abandoned:
            with lock(lock_path(project, target)):  # never from under a build
                for path in (directory, *abandoned):
                    shutil.rmtree(path, ignore_errors=True)
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    for directory in {path.parent for path in paths} - {project.artifacts}:
        if directory.is_dir() and not any(directory.iterdir()):
            directory.rmdir()


def _bytes(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
