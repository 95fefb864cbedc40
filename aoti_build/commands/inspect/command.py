"""`inspect`: the contents of an artifact or a package, read without torch and without loading it.

Of a target it shows the package and its manifest, and compares each with the other. Of any `.pt2`
file it shows what the file itself says. A file that is damaged, or made for another machine, is
refused (exit code 4) and shown as far as it can be read. Nothing is changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from aoti_build.artifact.damage import compare_file, manifest_damage
from aoti_build.artifact.manifest import MANIFEST, MODEL, Manifest, NoManifest, read_manifest
from aoti_build.artifact.paths import artifact_directory
from aoti_build.artifact.pt2.contents import contents
from aoti_build.artifact.pt2.package import open_archive
from aoti_build.commands.conclusion import (
    Failure,
    concluding_error,
    error_class,
    head,
    of_total,
    one_line,
    target_option,
)
from aoti_build.commands.json_values import json_list, json_or_none
from aoti_build.common.json_object import JsonObject
from aoti_build.errors import AotiBuildError, ArtifactError, ExitCode, UsageError, VerificationError
from aoti_build.models_file.project import Project, Target
from aoti_build.runtime.choose import Choice, explain

SOUND = "sound"
REFUSED = "refused"
MISSING = "missing"


@dataclass(frozen=True)
class Inspected:
    """One package.

    `name` is the target, or the path on the command line. `path` names the file, for a target
    relative to the root. `package` (see `artifact.pt2.contents`) and `manifest` are None if they
    cannot be read.
    """

    name: str
    path: str
    file: Path
    package: JsonObject | None = None
    manifest: Manifest | None = None
    problems: tuple[AotiBuildError, ...] = ()

    @property
    def state(self) -> str:
        # The only error of this class says that there is no artifact.
        if any(isinstance(problem, VerificationError) for problem in self.problems):
            return MISSING
        return REFUSED if self.problems else SOUND

    def as_json(self) -> JsonObject:
        return {
            "name": self.name,
            "path": self.path,
            "state": self.state,
            "problems": json_list(self.problems),
            "package": self.package,
            "manifest": json_or_none(self.manifest),
        }


@dataclass(frozen=True)
class InspectReport:
    """The packages, and with --host the variant of each model that this host would load
    (`choices`)."""

    artifacts: tuple[Inspected, ...]
    choices: tuple[Choice, ...] | None = None

    @property
    def exit_code(self) -> int:
        """4 if a package was refused, 3 if there is no artifact at all, else 0.

        A target that was never built is no error if another one was.
        """
        states = {artifact.state for artifact in self.artifacts}
        if REFUSED in states:
            return ExitCode.UNFIT_ARTIFACT
        if SOUND in states or not states:
            return ExitCode.OK
        return ExitCode.VERIFICATION_FAILED

    @property
    def error(self) -> AotiBuildError | None:
        """The error that ends the task; None if nothing was refused and there is an artifact."""
        code = self.exit_code
        if code == ExitCode.OK:
            return None
        refused = code == ExitCode.UNFIT_ARTIFACT
        bad_state = REFUSED if refused else MISSING
        failed = [artifact for artifact in self.artifacts if artifact.state == bad_state]
        verb = "refused" if refused else "missing"
        return problems_error(code, failed, len(self.artifacts), verb)

    def as_json(self) -> JsonObject:
        host = None
        if self.choices is not None:
            host = {choice.model: choice.as_json() for choice in self.choices}
        return {
            **head("aoti-build/inspect", 1, self.error),
            "artifacts": json_list(self.artifacts),
            "host": host,
        }


def problems_error(code: int, failed: Sequence[Inspected], total: int, verb: str) -> AotiBuildError:
    """The error with this exit code for packages with problems. Its next step is that of the
    first problem."""
    first = failed[0].problems[0]
    hints = [first.hint] if first.hint else []
    # The name of a package that belongs to no target is its path.
    targets = [artifact.name for artifact in failed if artifact.name != artifact.path]
    if targets and not (first.hint and "invoke" in first.hint):
        hints.append(f"`invoke build{target_option(targets)}` builds again")
    hint = "\n".join(hints) or "copy the file again from where it was made"
    failures = [Failure(artifact.name, _why(artifact)) for artifact in failed]
    count = of_total(len(failed), total, "artifact")
    return concluding_error(
        error_class(code),
        f"{count} {'is' if len(failed) == 1 else 'are'} {verb}",
        failures,
        hint=hint,
    )


def _why(artifact: Inspected) -> str:
    """The first problem in one line. The place is left out if it is the artifact's name."""
    problem = artifact.problems[0]
    if problem.where == artifact.name:
        return problem.message.replace("\n", " ")
    return one_line(problem)


def inspect(project: Project, targets: tuple[Target, ...], *, host: bool = False) -> InspectReport:
    """Inspect the published artifacts of `targets`. With `host`, also explain what
    `aoti_build.load` would make of every variant of their models on this host."""
    artifacts = tuple(inspect_target(project, target) for target in targets)
    if not host:
        return InspectReport(artifacts)
    choices = []
    # Several targets have the same model.
    for name in dict.fromkeys(target.model.name for target in targets):
        if (project.artifacts / name).is_dir():
            choices.append(explain(name, artifacts=project.artifacts))
    return InspectReport(artifacts, tuple(choices))


def inspect_target(project: Project, target: Target) -> Inspected:
    """Inspect the published artifact of `target`. Every byte of it is read."""
    directory = artifact_directory(project, target)
    file = directory / MODEL
    path = project.shown(file)
    manifest = read_manifest(directory)
    if isinstance(manifest, NoManifest) and not manifest.damaged:
        missing = VerificationError(
            "there is no artifact",
            target=target.name,
            hint=f"build it first: invoke build --target {target.name}",
        )
        return Inspected(target.name, path, file, problems=(missing,))
    damages = _damages(project, target, manifest)
    # The package may be readable although the artifact is damaged.
    package, problems = _read_package(file, target.name)
    return Inspected(
        target.name,
        path,
        file,
        package,
        manifest if isinstance(manifest, Manifest) else None,
        problems=(*damages, *problems),
    )


def inspect_file(path: Path) -> Inspected:
    """Inspect a `.pt2` file of any origin. Every byte of it is read and compared with its
    CRC-32.

    Raises UsageError if there is no such file.
    """
    if not path.exists():
        raise UsageError(
            f"there is no file {path}",
            hint="correct the path, which begins at the current directory",
        )
    package, problems = _read_package(path, None, check_bytes=True)
    return Inspected(
        str(path),
        str(path),
        path,
        package,
        problems=problems,
    )


def _read_package(
    path: Path, target: str | None, *, check_bytes: bool = False
) -> tuple[JsonObject | None, tuple[AotiBuildError, ...]]:
    """The contents of the package, if they can be read, and all problems of it.

    `check_bytes` compares every member with its CRC-32. The package of a target does not need it,
    because its digest was compared with the manifest.
    """
    package = None
    problems: list[AotiBuildError] = []
    try:
        with open_archive(path) as archive:
            # A package for another machine can be shown all the same.
            try:
                archive.check_machine()
            except ArtifactError as error:
                problems.append(error)
            package = contents(archive)
            if check_bytes:
                archive.check()
    except ArtifactError as error:
        problems.append(error)
    for problem in problems:
        problem.target = target
    return package, tuple(problems)


def _damages(
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
            path = project.shown(directory / name)
            errors.append(damage.error(target.name, path))
    return errors
