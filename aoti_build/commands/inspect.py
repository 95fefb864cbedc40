"""`inspect`: what an artifact or a package holds, read without torch and without loading it.
Changes nothing.

Of a target, the package and its manifest, each held against the other. Of any `.pt2` file, what the
file says itself. What is damaged, or for another machine, is refused (exit 4), and shown as far as
it can be read.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aoti_build.artifact.damage import compare_file, manifest_damage
from aoti_build.artifact.manifest import MANIFEST, MODEL, Manifest, NoManifest, read_manifest
from aoti_build.artifact.paths import artifact_directory
from aoti_build.artifact.pt2.contents import contents
from aoti_build.artifact.pt2.package import open_archive
from aoti_build.common.json_object import JsonObject
from aoti_build.errors import AotiBuildError, ArtifactError, ExitCode, VerificationError
from aoti_build.models_file.project import Project, Target
from aoti_build.runtime.choose import Choice, explain

SOUND, REFUSED, MISSING = "sound", "refused", "missing"


@dataclass(frozen=True)
class Inspected:
    """One package: `name` of the target or the path that was asked for, `path` of the file,
    relative to models.yaml for a target. `package` (see `archive.contents`) and `manifest` are None
    where there is none that can be read."""

    name: str
    path: str
    file: Path
    package: dict[str, Any] | None = None
    manifest: Manifest | None = None
    problems: tuple[AotiBuildError, ...] = ()

    @property
    def state(self) -> str:
        if any(isinstance(problem, VerificationError) for problem in self.problems):
            return MISSING
        return REFUSED if self.problems else SOUND

    def as_json(self) -> JsonObject:
        return {
            "name": self.name,
            "path": self.path,
            "state": self.state,
            "problems": [problem.as_json() for problem in self.problems],
            "package": self.package,
            "manifest": self.manifest.as_json() if self.manifest else None,
        }


@dataclass(frozen=True)
class InspectReport:
    """What was looked at; with `choices`, which variant of each model this host would load."""

    artifacts: tuple[Inspected, ...]
    choices: tuple[Choice, ...] | None = None

    @property
    def exit_code(self) -> int:
        """A target that was never built is no error beside others that were."""
        states = {artifact.state for artifact in self.artifacts}
        if REFUSED in states:
            return ExitCode.UNFIT_ARTIFACT
        return ExitCode.OK if SOUND in states or not states else ExitCode.VERIFICATION_FAILED

    def as_json(self) -> JsonObject:
        return {
            "format": "aoti-build/inspect",
            "format_version": 1,
            "ok": self.exit_code == ExitCode.OK,
            "artifacts": [artifact.as_json() for artifact in self.artifacts],
            "host": (
                None if self.choices is None else {one.model: one.as_json() for one in self.choices}
            ),
        }


def inspect(project: Project, targets: tuple[Target, ...], *, host: bool = False) -> InspectReport:
    """The published artifacts of `targets`; with `host` also what `aoti_build.load` would make of
    every variant of their models here."""
    found = tuple(inspect_target(project, target) for target in targets)
    if not host:
        return InspectReport(found)
    models = dict.fromkeys(target.model.name for target in targets)
    built = [name for name in models if (project.artifacts / name).is_dir()]
    return InspectReport(found, tuple(explain(name, artifacts=project.artifacts) for name in built))


def inspect_target(project: Project, target: Target) -> Inspected:
    directory = artifact_directory(project, target)
    path = (directory / MODEL).relative_to(project.root).as_posix()
    manifest = read_manifest(directory)
    if isinstance(manifest, NoManifest) and not manifest.damaged:
        missing = VerificationError(
            "there is no artifact",
            target=target.name,
            hint=f"build it first: invoke build --target {target.name}",
        )
        return Inspected(target.name, path, directory / MODEL, problems=(missing,))
    problems = _damage(project, target, manifest)
    package, found = _package(directory / MODEL, target.name, check=False)
    known = manifest if isinstance(manifest, Manifest) else None
    return Inspected(target.name, path, directory / MODEL, package, known, (*problems, *found))


def inspect_file(path: Path) -> Inspected:
    """A `.pt2` file, wherever it is from. Every byte of it is read, and held against its CRC-32."""
    package, problems = _package(path, None, check=True)
    return Inspected(str(path), str(path), path, package, problems=problems)


def _package(
    path: Path, target: str | None, *, check: bool
) -> tuple[dict[str, Any] | None, tuple[AotiBuildError, ...]]:
    """The package's contents if they can be read, and all that is wrong with it."""
    package = None
    problems: list[AotiBuildError] = []
    try:
        with open_archive(path) as archive:
            try:
                archive.check_machine()
            except ArtifactError as error:
                problems.append(error)
            package = contents(archive)
            if check:
                archive.check()
    except ArtifactError as error:
        problems.append(error)
    for problem in problems:
        problem.target = target
    return package, tuple(problems)


def _damage(
    project: Project, target: Target, manifest: Manifest | NoManifest
) -> list[ArtifactError]:
    """An error for each damage of a published artifact. Every byte of its files is read."""
    directory = artifact_directory(project, target)
    damages = {MANIFEST: manifest_damage(manifest, target.name)}
    if isinstance(manifest, Manifest):
        for name, record in manifest.files.items():
            damages[name] = compare_file(directory / name, record)
    errors = []
    for name, damage in damages.items():
        if damage is not None:
            where = (directory / name).relative_to(project.root).as_posix()
            errors.append(damage.error(target.name, where))
    return errors
