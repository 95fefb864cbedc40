"""`status`: what is published, and whether it is what the sources say. Never imports torch, changes
nothing."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from aoti_build.artifact.manifest import MANIFEST, MODEL, Manifest, read_manifest
from aoti_build.artifact.paths import artifact_directory
from aoti_build.commands.build import plan
from aoti_build.common.json_object import JsonObject
from aoti_build.common.removal import own_entries
from aoti_build.models_file.project import Project
from aoti_build.planning.plan import Plan, Step


@dataclass(frozen=True)
class StatusReport:
    """The plan, and the names of artifacts on disk that models.yaml does not list (`orphans`)."""

    plan: Plan
    orphans: tuple[str, ...]

    def as_json(self) -> JsonObject:
        return {
            "format": "aoti-build/status",
            "format_version": 2,
            "ok": True,
            "targets": [_row(step) for step in self.plan.steps],
            "orphans": list(self.orphans),
        }


def status(project: Project, *, targets: tuple[Any, ...] | None = None) -> StatusReport:
    chosen = project.targets if targets is None else targets
    return StatusReport(plan(project, chosen, quick=False), orphans(project))


def orphans(project: Project) -> tuple[str, ...]:
    """Artifacts below `artifacts/` whose target models.yaml no longer has, by the name of their
    directory.

    Those of another models file beside this one are not orphans, as long as that file is there.
    What lies behind a model's directory that is a link is nobody's.
    """
    known = {artifact_directory(project, target) for target in project.targets}
    found = [
        path
        for path in own_entries(project.artifacts, "[!.]*", "[!.]*")
        if (path / MANIFEST).exists()
    ]
    return tuple(
        path.relative_to(project.artifacts).as_posix()
        for path in found
        if path not in known and _is_own(project, path)
    )


def _is_own(project: Project, directory: Path) -> bool:
    """Whether it holds an artifact that nobody but this models.yaml can lay claim to."""
    manifest = read_manifest(directory)
    if not isinstance(manifest, Manifest):
        return False
    return (
        manifest.models_file == project.file.name
        or not (project.root / manifest.models_file).is_file()
    )


def _row(step: Step) -> dict[str, Any]:
    manifest = step.manifest
    return {
        "target": step.target.name,
        "state": step.action,
        "reasons": [reason.as_json() for reason in step.reasons],
        "bytes": manifest.files[MODEL].size if manifest else None,
        "created": manifest.provenance.get("created") if manifest else None,
        "age_seconds": _age(manifest.provenance.get("created")) if manifest else None,
        "key": manifest.key if manifest else None,
        "unverified": step.unverified,
    }


def _age(created: Any) -> float | None:
    try:
        then = datetime.fromisoformat(created)
        return max(0.0, round((datetime.now(timezone.utc) - then).total_seconds(), 1))
    except (TypeError, ValueError):
        return None
