"""Calls the packages of two releases with the same inputs, for `release-diff --run`.

As in `verify --release`, workers get private copies and run in an empty directory. A package is
called in a process of its own. The inputs are those in the reference data of the old release.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from aoti_build.artifact.bundle.described import target_of
from aoti_build.artifact.manifest import MODEL, REFERENCE_DATA, Manifest, tensor_inputs
from aoti_build.artifact.paths import reader_log_path
from aoti_build.artifact.reasons import Reason, ReasonKind
from aoti_build.artifact.reference_file import ReferenceFile, observed_names
from aoti_build.artifact.verification import required_tolerance
from aoti_build.commands.received.packages import (
    empty_project,
    obstacle,
    private_copy,
    private_work,
)
from aoti_build.commands.release.changes import ChangeKind
from aoti_build.commands.release_diff.drift import Reference, drift_of
from aoti_build.commands.release_diff.opened import OpenSide, RunOptions
from aoti_build.commands.release_diff.packages import PackageDrift
from aoti_build.commands.release_diff.report import ReleaseDiff, TargetDiff
from aoti_build.errors import AotiBuildError, Interrupted, ToolchainError
from aoti_build.messages import OutputsJob
from aoti_build.models_file.project import Target
from aoti_build.models_file.records import target_to_json
from aoti_build.work.opened import OpenArtifact
from aoti_build.work.worker import CHECK_ENVIRONMENT, run_worker

OnProgress = Callable[[Target, str], None]
# What must be equal of an input for a call of both packages to have a meaning.
_INPUT_FIELDS = ("name", "dtype", "shape")
_OLD, _NEW = "old", "new"


def run_packages(
    diff: ReleaseDiff,
    old: OpenSide,
    new: OpenSide,
    options: RunOptions,
    on_progress: OnProgress,
) -> ReleaseDiff:
    """`diff` with the drift of the packages that both releases have.

    Raises:
        Interrupted: Ctrl-C was pressed. Every worker has ended.
        ToolchainError: the host has no room for copies, or is otherwise unfit.
    """
    with private_work() as work:
        runner = _Runner({_OLD: old, _NEW: new}, options, work, on_progress)
        targets = tuple(runner.compared(target) for target in diff.targets)
    return replace(diff, targets=targets, has_run=True)


@dataclass(frozen=True)
class _Answers:
    """What one package answered: the file with its outputs, and why cases have none."""

    reference: Reference
    missing: Mapping[str, str]


@dataclass(frozen=True)
class _Runner:
    """Calls the packages of one target after the other. `work` is a private directory."""

    sides: Mapping[str, OpenSide]
    options: RunOptions
    work: Path
    on_progress: OnProgress

    def compared(self, target: TargetDiff) -> TargetDiff:
        """The target with the drift of its packages, if both releases have it."""
        if target.change.kind in (ChangeKind.ADDED, ChangeKind.REMOVED):
            return target
        return replace(target, packages=self._packages(target.name))

    def _packages(self, name: str) -> PackageDrift:
        manifests = {age: side.manifest(name) for age, side in self.sides.items()}
        if _package_files(manifests[_OLD]) == _package_files(manifests[_NEW]):
            return PackageDrift(is_same=True)
        why = _obstacle(manifests)
        if why is not None:
            return PackageDrift(why=why)
        try:
            return self._called(manifests)
        except (Interrupted, ToolchainError):
            # The user or the host is at fault, and not a package.
            raise
        except AotiBuildError as error:
            return PackageDrift(error=error)

    def _called(self, manifests: Mapping[str, Manifest]) -> PackageDrift:
        copies = {
            age: private_copy(side.examined, manifests[age]) for age, side in self.sides.items()
        }
        with copies[_OLD] as old_copy, copies[_NEW] as new_copy:
            artifacts = {_OLD: old_copy, _NEW: new_copy}
            why = _unreadable(artifacts)
            if why is not None:
                return PackageDrift(why=why)
            inputs = artifacts[_OLD].files / REFERENCE_DATA
            old = self._answers(_OLD, artifacts[_OLD], inputs)
            new = self._answers(_NEW, artifacts[_NEW], inputs)
        missing = {**old.missing, **new.missing}
        return PackageDrift(drift_of(old.reference, new.reference, missing))

    def _answers(self, age: str, artifact: OpenArtifact, inputs: Path) -> _Answers:
        """Call one package with all inputs, in a worker."""
        manifest = artifact.manifest
        target = target_of(manifest)
        work = self.work / age
        project = empty_project(target, work)
        outputs = work / target.name / "outputs.safetensors"
        job = OutputsJob(
            root=str(project.root),
            target_document=target_to_json(target),
            model=str(artifact.files / MODEL),
            reference_data=str(artifact.files / REFERENCE_DATA),
            tolerance=required_tolerance(target),
            signature=manifest.signature,
            imports=tuple(manifest.imports),
            inputs=str(inputs),
            outputs=str(outputs),
        )
        try:
            result = run_worker(
                job,
                directory=work / target.name / "outputs",
                log=reader_log_path(project, target, f"release-diff-{age}"),
                on_phase=lambda phase: self.on_progress(target, f"{age}: {phase}"),
                environment=CHECK_ENVIRONMENT,
                limit=self.options.limit,
            )
        except AotiBuildError as error:
            error.message = f"the package of the {age} release failed: {error.message}"
            raise
        missing = {case: f"{age} release: {why}" for case, why in result.missing.items()}
        return _Answers(Reference(outputs, observed_names(manifest.signature)), missing)


def _package_files(manifest: Manifest) -> Mapping[str, object]:
    """The files of an artifact that decide what it answers."""
    files = manifest.files.items()
    return {name: record for name, record in files if name != REFERENCE_DATA}


def _obstacle(manifests: Mapping[str, Manifest]) -> str | None:
    """Why the packages are not called. None if they can be."""
    for age, manifest in manifests.items():
        reason = obstacle(target_of(manifest), manifest)
        if reason is not None:
            return f"this host cannot run the package of the {age} release: {_in_words(reason)}"
    if _inputs(manifests[_OLD]) != _inputs(manifests[_NEW]):
        return "the packages take different inputs"
    return None


def _unreadable(artifacts: Mapping[str, OpenArtifact]) -> str | None:
    """Why workers cannot read the reference data. None if they can. Its format may have changed."""
    for age, artifact in artifacts.items():
        try:
            with ReferenceFile(artifact.files / REFERENCE_DATA):
                pass
        except (OSError, ValueError) as error:
            return f"the reference data of the {age} release cannot be read: {error}"
    return None


def _in_words(reason: Reason) -> str:
    if reason.reason == ReasonKind.NO_DEVICE:
        return f"it has no {reason.what} device"
    return str(reason.what)


def _inputs(manifest: Manifest) -> list[list[object]]:
    """The names, dtypes and shapes of the tensors that a package takes."""
    inputs = []
    for entry in tensor_inputs(manifest.signature):
        inputs.append([entry.get(field) for field in _INPUT_FIELDS])
    return inputs
