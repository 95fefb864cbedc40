"""`status`: what is published, and whether it is up to date with the sources.

It does not import torch and changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from aoti_build.artifact.manifest import MANIFEST, MODEL, Manifest, read_manifest
from aoti_build.artifact.paths import artifact_directory
from aoti_build.commands.build import plan
from aoti_build.commands.conclusion import code_of, head
from aoti_build.commands.json_values import json_list
from aoti_build.commands.plan_report import out_of_date_error
from aoti_build.common.json_object import JsonObject
from aoti_build.common.removal import own_entries
from aoti_build.errors import AotiBuildError
from aoti_build.models_file.project import Project, Target
from aoti_build.planning.plan import Plan, Step


@dataclass(frozen=True)
class StatusReport:
    """The plan, and the names of published artifacts that models.yaml does not list (`orphans`).

    With `check` it is a failure if there is something to build.
    """

    project: Project
    plan: Plan
    orphans: tuple[str, ...]
    check: bool = False

    @property
    def error(self) -> AotiBuildError | None:
        """The error that ends the task with --check; None if everything is up to date."""
        return out_of_date_error(self.plan) if self.check else None

    @property
    def exit_code(self) -> int:
        return code_of(self.error)

    def as_json(self) -> JsonObject:
        return {
            **head("aoti-build/status", 3, self.error),
            "targets": [_row(self.project, step) for step in self.plan.steps],
            "orphans": list(self.orphans),
            "notes": list(self.plan.notes),
        }


def status(
    project: Project, *, targets: tuple[Target, ...] | None = None, check: bool = False
) -> StatusReport:
    """The status of `targets`, or of all targets. With `check` the report is a failure if there is
    something to build."""
    chosen = project.targets if targets is None else targets
    return StatusReport(project, plan(project, chosen, quick=False), orphans(project), check)


def orphans(project: Project) -> tuple[str, ...]:
    """The directories below `artifacts/` with an artifact whose target models.yaml no longer lists.

    An artifact of another models file in the same directory is no orphan while that file exists. A
    model's directory that is a link is not searched.
    """
    listed = {artifact_directory(project, target) for target in project.targets}
    names = []
    # Names with a leading dot are working state.
    for directory in own_entries(project.artifacts, "[!.]*", "[!.]*"):
        if directory in listed or not (directory / MANIFEST).exists():
            continue
        if _belongs_to(project, directory):
            names.append(directory.relative_to(project.artifacts).as_posix())
    return tuple(names)


def _belongs_to(project: Project, directory: Path) -> bool:
    """Whether the artifact in `directory` is of this models.yaml, or of a file that is gone."""
    manifest = read_manifest(directory)
    # Without a readable manifest nothing says that the directory is ours.
    if not isinstance(manifest, Manifest):
        return False
    if manifest.models_file == project.name:
        return True
    return not (project.root / manifest.models_file).is_file()


def _row(project: Project, step: Step) -> JsonObject:
    manifest = step.manifest
    created = manifest.provenance.get("created") if manifest else None
    package = manifest.files[MODEL] if manifest else None
    path = artifact_directory(project, step.target) / MODEL
    return {
        "target": step.target.name,
        "state": step.action,
        "reasons": json_list(step.reasons),
        "path": project.shown(path) if package else None,
        "sha256": package.sha256 if package else None,
        "size": package.size if package else None,
        "created": created,
        "age_seconds": _age(created),
        "key": manifest.key if manifest else None,
        "unverified": step.unverified,
    }


def _age(created: Any) -> float | None:
    """Seconds since `created`; None if it is not a time."""
    try:
        then = datetime.fromisoformat(created)
        seconds = (datetime.now(timezone.utc) - then).total_seconds()
    except (TypeError, ValueError):
        return None
    # The clock of this host may be behind that of the building host.
    return max(0.0, round(seconds, 1))
