"""`export`: copies chosen artifacts, with checksums, into a directory for a release.

The directory appears whole or not at all. Nothing is exported unless every chosen artifact is up to
date, was compared with eager mode, and has the bytes that its manifest lists. The bytes that are
written are those that were digested.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from aoti_build.artifact.manifest import MANIFEST, MODEL, REFERENCE_DATA, FileRecord, Manifest
from aoti_build.artifact.paths import artifact_directory
from aoti_build.artifact.reasons import ReasonKind
from aoti_build.commands.build import plan
from aoti_build.commands.conclusion import (
    Failure,
    code_of,
    concluding_error,
    error_class,
    head,
    of_total,
    one_line,
    target_option,
)
from aoti_build.commands.json_values import json_or_none
from aoti_build.common.digests import digest_file
from aoti_build.common.json_object import JsonObject
from aoti_build.common.publication import publish_new_directory, staging
from aoti_build.common.removal import is_real_directory
from aoti_build.errors import (
    AotiBuildError,
    ArtifactError,
    ExitCode,
    OutOfDateError,
    UsageError,
    VerificationError,
)
from aoti_build.models_file.project import Project, Target
from aoti_build.planning.actions import Action
from aoti_build.planning.plan import Step, out_of_date
from aoti_build.work.opened import copy_artifact
from aoti_build.work.processes import allow_starts

SUMS = "SHA256SUMS"
# What is copied of an artifact. Its logs stay behind.
COPIED = (MODEL, REFERENCE_DATA, MANIFEST)


@dataclass(frozen=True)
class Exported:
    """One artifact: its package by path in the directory, or why it could not be exported.

    Both are None for an artifact that was fit, if another one was not.
    """

    target: Target
    path: str | None = None
    package: FileRecord | None = None
    key: str | None = None
    error: AotiBuildError | None = None

    def as_json(self) -> JsonObject:
        return {
            "target": self.target.name,
            "path": self.path,
            "sha256": self.package.sha256 if self.package else None,
            "size": self.package.size if self.package else None,
            "key": self.key,
            "error": json_or_none(self.error),
        }


@dataclass(frozen=True)
class ExportReport:
    """The artifacts in the order of models.yaml. `directory` is written as the user named it."""

    directory: str
    artifacts: tuple[Exported, ...]

    @property
    def exit_code(self) -> int:
        return code_of(self.error)

    @property
    def error(self) -> AotiBuildError | None:
        """The error that ends the task; None if the artifacts were exported."""
        errors = {
            artifact.target.name: artifact.error
            for artifact in self.artifacts
            if artifact.error is not None
        }
        if not errors:
            return None
        damaged = any(error.exit_code == ExitCode.UNFIT_ARTIFACT for error in errors.values())
        outdated = all(isinstance(error, OutOfDateError) for error in errors.values())
        kind = error_class(ExitCode.UNFIT_ARTIFACT if damaged else ExitCode.VERIFICATION_FAILED)
        names = target_option(list(errors))
        hints = dict.fromkeys(error.hint for error in errors.values() if error.hint)
        hint = next(iter(hints)) if len(errors) == 1 else f"`invoke build{names} verify{names}`"
        return concluding_error(
            OutOfDateError if outdated else kind,
            f"nothing was exported, since {of_total(len(errors), len(self.artifacts), 'artifact')}"
            f" {'is' if len(errors) == 1 else 'are'} not fit for it",
            [Failure(name, one_line(error)) for name, error in errors.items()],
            hint=hint,
        )

    def as_json(self) -> JsonObject:
        return {
            **head("aoti-build/export", 1, self.error),
            "directory": self.directory,
            "sums": SUMS if self.error is None else None,
            "artifacts": [artifact.as_json() for artifact in self.artifacts],
        }


def export(project: Project, targets: tuple[Target, ...], directory: str) -> ExportReport:
    """Copy the artifacts of `targets` to ``<directory>/<model>/<variant>/``, each with its package,
    manifest and reference data, and write `SUMS` for ``sha256sum -c``.

    Raises:
        UsageError: `directory` is there and not empty, or cannot be written.
        ToolchainError: There is no room for the copies.
        Interrupted: Ctrl-C was pressed. Nothing is exported.
    """
    # An interrupted command in the same process has forbidden new workers and copies.
    allow_starts()
    final = Path(os.path.abspath(directory))
    _require_new(project, directory, final)
    steps = plan(project, targets, quick=False).steps
    rows = fitness(project, steps)
    if any(row.error is not None for row in rows):
        return ExportReport(directory, tuple(rows))
    try:
        with staging(final.parent, f".{final.name}.") as staged:
            rows = [_export_one(project, step, staged) for step in steps]
            if not any(row.error is not None for row in rows):
                publish_new_directory(staged, final)
    except OSError as error:
        raise UsageError(
            f"{directory} cannot be written",
            cause=error.strerror or str(error),
            hint="name another directory: `invoke export DIR`",
        ) from error
    if any(row.error is not None for row in rows):
        rows = [replace(row, path=None, package=None, key=None) for row in rows]
    return ExportReport(directory, tuple(rows))


def fitness(project: Project, steps: Sequence[Step]) -> list[Exported]:
    """A row for each step, with the error that keeps its artifact from being exported, if any."""
    rows = []
    for step in steps:
        obstacle = _obstacle(step) or _link(project, step.target)
        rows.append(Exported(step.target, error=obstacle))
    return rows


def _require_new(project: Project, directory: str, final: Path) -> None:
    if os.path.lexists(final) and not is_real_directory(final):
        raise UsageError(f"{directory} is a file or a link", hint="name a new directory")
    if is_real_directory(final) and any(final.iterdir()):
        raise UsageError(
            f"{directory} is not empty, and nothing in it is replaced",
            hint="remove it, or name a new directory: `invoke export DIR`",
        )
    artifacts = project.artifacts.resolve()
    parents = (final.resolve(), *final.resolve().parents)
    if artifacts in parents:
        raise UsageError(
            f"{directory} is among the artifacts, which it would be taken for",
            hint="name a directory outside of artifacts/",
        )


def _obstacle(step: Step) -> AotiBuildError | None:
    """Why the artifact of a step may not be exported. None if it is up to date and verified."""
    name = step.target.name
    build = f"`invoke build --target {name}`"
    if step.action == Action.UNAVAILABLE:
        return VerificationError(
            f"this host cannot tell whether it is up to date: {step.reasons[0]}",
            target=name,
            hint="export it on the host that built it, or choose others with --target; `invoke"
            " status` shows which",
        )
    kinds = [reason.reason for reason in step.reasons]
    if ReasonKind.NO_ARTIFACT in kinds:
        return VerificationError("there is no artifact", target=name, hint=f"{build} builds it")
    if ReasonKind.ARTIFACT_DAMAGED in kinds:
        message = f"the artifact is damaged: {step.reasons[0].what}"
        return ArtifactError(message, target=name, hint=f"{build} builds it again")
    reasons = out_of_date(step)
    if reasons:
        message = f"the artifact is out of date: {reasons[0]}"
        return OutOfDateError(message, target=name, hint=f"{build} brings it up to date")
    if step.action != Action.UP_TO_DATE or step.unverified is not None:
        return VerificationError(
            "the artifact was never compared with eager mode as models.yaml asks for",
            target=name,
            hint=f"`invoke build --target {name} verify --target {name}` on a host that can run it",
        )
    return None


def _link(project: Project, target: Target) -> ArtifactError | None:
    """An error if a link is in the place of the artifact or of one of its files."""
    directory = artifact_directory(project, target)
    for path in (directory.parent, directory, *(directory / name for name in COPIED)):
        if path.is_symlink():
            return ArtifactError(
                f"{project.shown(path)} is a link, which export does not follow",
                target=target.name,
                hint=f"`invoke build --force --target {target.name}` replaces it, or remove it",
            )
    return None


def _export_one(project: Project, step: Step, staged: Path) -> Exported:
    """Copy one artifact below `staged`, and add its lines to the checksums."""
    row = copy_fit(project, step, staged)
    manifest = step.manifest
    if row.error is None and isinstance(manifest, Manifest):
        folder = step.target.name
        with (staged / SUMS).open("a", encoding="utf-8") as sums:
            for name, digest in _digests(manifest, staged / folder).items():
                sums.write(f"{digest}  {folder}/{name}\n")
    return row


def copy_fit(project: Project, step: Step, directory: Path) -> Exported:
    """Copy the artifact that a step found to ``<directory>/<model>/<variant>/``.

    The row has an error if it is damaged, or if another artifact has taken its place.
    Raises as `export`, and OSError.
    """
    target = step.target
    folder = f"{target.model.name}/{target.variant}"
    (directory / folder).mkdir(parents=True)
    try:
        manifest = copy_artifact(project, target, directory / folder)
    except (ArtifactError, VerificationError) as error:
        return Exported(target, error=error)
    if manifest != step.manifest:
        replaced = OutOfDateError(
            "another artifact took its place during the export",
            target=target.name,
            hint="export again: `invoke export DIR`",
        )
        return Exported(target, error=replaced)
    return Exported(target, f"{folder}/{MODEL}", manifest.files[MODEL], manifest.key)


def _digests(manifest: Manifest, directory: Path) -> dict[str, str]:
    digests = {name: record.sha256 for name, record in sorted(manifest.files.items())}
    # The manifest was written from the value that was checked, and nobody else can write here.
    written = digest_file(directory / MANIFEST)
    return {**digests, MANIFEST: written}
