"""`run`: artifacts on the reference input or on people's own, each target in a fresh process;
checked, described, timed.

What can be said of the command line without an artifact is said before anything runs. After that a
failure belongs to its target, or to its input, and ends nothing else.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from aoti_build.artifact.manifest import MODEL, REFERENCE_DATA, Manifest, tensor_inputs
from aoti_build.artifact.paths import reader_log_path, stat_cache_path
from aoti_build.artifact.reasons import Reason
from aoti_build.artifact.verification import required_tolerance
from aoti_build.commands.verdicts import VerdictKind
from aoti_build.common.directories import temporary_directory
from aoti_build.common.json_object import JsonObject
from aoti_build.common.outputs import check_output
from aoti_build.common.stat_cache import StatCache
from aoti_build.errors import (
    AotiBuildError,
    ArtifactError,
    DirectoryError,
    ExitCode,
    Interrupted,
    UsageError,
    VerificationError,
)
from aoti_build.figures import RunFigures, as_json
from aoti_build.messages import InputKind, RunJob, RunOutcome, RunRequest
from aoti_build.models_file.project import Project, Target
from aoti_build.models_file.records import target_to_json
from aoti_build.planning.plan import out_of_date, plan_target
from aoti_build.store.interface import Store
from aoti_build.store.selection import open_store
from aoti_build.work.crash import WorkerCrash
from aoti_build.work.opened import ArchitectureMissing, OpenArtifact, fit_artifact
from aoti_build.work.processes import allow_starts
from aoti_build.work.worker import CHECK_ENVIRONMENT, error_of, run_worker, yaml_positions

REFERENCE_INPUT: Final = "reference_data"
RANDOM: Final = "random"
TENSORS: Final = "tensors"
IMAGES: Final = "images"
# Each has a reader in `aoti_build._torch.data` or a writer in `aoti_build._torch.jobs.saving`.
TENSOR_SUFFIXES = (".npy", ".npz", ".safetensors", ".pt")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
OUTPUT_SUFFIXES = (".safetensors", ".npz", ".pt")
# The reference input was drawn with 0: another one shows more.
SEED = 1
REPEAT = 10
OnProgress = Callable[[Target, str], None]


@dataclass(frozen=True)
class Input:
    """One word of ``--input``: a file, or what is drawn or kept without one."""

    text: str
    kind: InputKind

    @property
    def label(self) -> str:
        """What stands for {input} in the name of an output file."""
        return Path(self.text).stem if self.kind in (TENSORS, IMAGES) else self.kind


@dataclass(frozen=True)
class Asked:
    """The command line: on what to run, where outputs go ("" for nowhere), the seed of random
    inputs, timed calls."""

    inputs: tuple[Input, ...]
    output: str
    seed: int
    repeat: int


@dataclass(frozen=True)
class Run:
    """One call of an artifact: `source` names the inputs as they were given, `result` is what the
    worker found, None if there is an error."""

    source: tuple[str, ...]
    seed: int | None
    result: RunFigures | None
    error: AotiBuildError | None = None

    @property
    def verdict(self) -> VerdictKind:
        if self.result is None:
            return VerdictKind.FAILED
        if self.result.check == "none":
            return VerdictKind.UNVERIFIED
        return VerdictKind.PASSED if self.result.passed else VerdictKind.MISMATCH

    @property
    def exit_code(self) -> int:
        if self.error is not None:
            return self.error.exit_code
        return ExitCode.VERIFICATION_FAILED if self.verdict == VerdictKind.MISMATCH else ExitCode.OK

    def as_json(self) -> JsonObject:
        common = {"source": list(self.source), "seed": self.seed, "verdict": self.verdict}
        return {
            **common,
            **(as_json(self.result) if self.result else {}),
            "error": self.error.as_json() if self.error else None,
        }


@dataclass(frozen=True)
class TargetRuns:
    """What became of one target: its runs, or the error for which there is none. `out_of_date` are
    the reasons why the artifact is not what the sources say now; `unverified` says why no build or
    verify has compared it with eager."""

    target: Target
    runs: tuple[Run, ...] = ()
    out_of_date: tuple[Reason, ...] = ()
    error: AotiBuildError | None = None
    available: bool = True
    unverified: str | None = None

    @property
    def verdict(self) -> VerdictKind:
        """The worst of its runs."""
        if self.error is not None:
            return VerdictKind.FAILED if self.available else VerdictKind.UNAVAILABLE
        found = {run.verdict for run in self.runs}
        return next(
            (
                verdict
                for verdict in (VerdictKind.FAILED, VerdictKind.MISMATCH, VerdictKind.UNVERIFIED)
                if verdict in found
            ),
            VerdictKind.PASSED,
        )

    @property
    def exit_code(self) -> int:
        """The first failure's; that of an absent device is the report's to decide on."""
        if self.error is not None:
            return self.error.exit_code if self.available else ExitCode.OK
        return next(
            (run.exit_code for run in self.runs if run.exit_code != ExitCode.OK), ExitCode.OK
        )

    def as_json(self) -> JsonObject:
        return {
            "target": self.target.name,
            "verdict": self.verdict,
            "out_of_date": [reason.as_json() for reason in self.out_of_date],
            "unverified": self.unverified,
            "runs": [run.as_json() for run in self.runs],
            "error": self.error.as_json() if self.error else None,
        }


@dataclass(frozen=True)
class RunReport:
    """Targets in the order of models.yaml."""

    targets: tuple[TargetRuns, ...]

    @property
    def exit_code(self) -> int:
        """The first failure's. An absent device is one only if no target could be run for it."""
        if self.targets and not any(target.available for target in self.targets):
            return ExitCode.UNFIT_ARTIFACT
        return next(
            (target.exit_code for target in self.targets if target.exit_code != ExitCode.OK),
            ExitCode.OK,
        )

    def as_json(self) -> JsonObject:
        return {
            "format": "aoti-build/run",
            "format_version": 2,
            "ok": self.exit_code == ExitCode.OK,
            "targets": [target.as_json() for target in self.targets],
        }


def run(
    project: Project,
    targets: tuple[Target, ...],
    *,
    inputs: Sequence[str] = (),
    output: str = "",
    seed: int = SEED,
    repeat: int = REPEAT,
    on_progress: OnProgress = lambda target, phase: None,
) -> RunReport:
    """Run the artifacts of `targets` one after another, each on every one of `inputs` ("reference
    data", "random" or a file; none means the reference input).

    Raises: UsageError: an input is absent or of no known kind, or `output` is not the name of one
        file for each run. DirectoryError: the temporary directory is unfit.
    """
    asked = Asked(
        tuple(map(_input, inputs)) or (Input(REFERENCE_INPUT, REFERENCE_INPUT),),
        output,
        seed,
        repeat,
    )
    if output:
        _check_output(asked, len(targets))
    allow_starts()
    temporary_directory()
    digests, store = StatCache(stat_cache_path(project)), open_store(project.artifacts)
    return RunReport(
        tuple(
            _run_target(project, target, asked, digests, store, on_progress) for target in targets
        )
    )


def _input(text: str) -> Input:
    if text == REFERENCE_INPUT:
        return Input(text, REFERENCE_INPUT)
    if text == RANDOM:
        return Input(text, RANDOM)
    suffix = Path(text).suffix.lower()
    if suffix not in (*TENSOR_SUFFIXES, *IMAGE_SUFFIXES):
        raise UsageError(
            f"--input {text}: no kind of input has this suffix",
            hint=(
                f"tensors are read from {', '.join(TENSOR_SUFFIXES)} files, images from "
                f"{', '.join(IMAGE_SUFFIXES)}; random and reference_data need no file"
            ),
        )
    if not Path(text).is_file():
        raise UsageError(
            f"there is no file {text}" if not Path(text).exists() else f"{text} is no regular file"
        )
    return Input(text, IMAGES if suffix in IMAGE_SUFFIXES else TENSORS)


def _check_output(asked: Asked, targets: int) -> None:
    """Is ``--output`` one file for each run, of a kind that can be written?"""
    pattern = f"--output {asked.output}"
    if Path(asked.output).suffix.lower() not in OUTPUT_SUFFIXES:
        raise UsageError(f"{pattern}: outputs are written to {', '.join(OUTPUT_SUFFIXES)} files")
    for count, what, placeholder in (
        (targets, "targets", "{target}"),
        (len(asked.inputs), "inputs", "{input}"),
    ):
        if count > 1 and placeholder not in asked.output:
            raise UsageError(
                f"{pattern}: {count} {what} would be written to one file",
                hint=(
                    f"write {placeholder} where the name belongs, as in"
                    " outputs/{target}/{input}.npz"
                ),
            )
    labels = [given.label for given in asked.inputs]
    if twice := next((label for label in labels if labels.count(label) > 1), None):
        raise UsageError(
            f"{pattern}: two inputs would be written as {twice}", hint="rename one of the files"
        )


def _run_target(
    project: Project,
    target: Target,
    asked: Asked,
    digests: StatCache,
    store: Store,
    on_progress: OnProgress,
) -> TargetRuns:
    if not target.hardware.count():
        lacks = ArtifactError(f"this host has no {target.device} device", target=target.name)
        return TargetRuns(target, error=lacks, available=False)
    try:
        with _fit_artifact(project, target) as artifact:
            manifest = artifact.manifest
            groups = list(_groups(project, target, asked.inputs, manifest))
            outputs = [_output_path(target, asked, group) for group in groups]
            step = plan_target(project, target, digests, store)
            job = _job(project, target, artifact, asked, groups, outputs)
            found = _worked(project, target, job, on_progress)
    except (Interrupted, DirectoryError):
        raise
    except ArchitectureMissing as error:
        return TargetRuns(target, error=error, available=False)
    except AotiBuildError as error:
        error.target = target.name
        return TargetRuns(target, error=error)
    log = reader_log_path(project, target, "run")
    runs = (
        _run(group, asked.seed, result, target, log)
        for group, result in zip(groups, found, strict=True)
    )
    return TargetRuns(target, tuple(runs), out_of_date(step), unverified=manifest.unverified)


@contextlib.contextmanager
def _fit_artifact(project: Project, target: Target) -> Iterator[OpenArtifact]:
    """As `fit_artifact`. Raises `ArchitectureMissing` as well where there is no artifact because
    none can be built here."""
    with contextlib.ExitStack() as opened:
        try:
            artifact = opened.enter_context(fit_artifact(project, target))
        except VerificationError:
            if why := target.hardware.cannot_build(target.architecture):
                message = "it cannot be built on this host"
                raise ArchitectureMissing(message, target=target.name, cause=why) from None
            raise
        yield artifact


def _groups(
    project: Project, target: Target, inputs: tuple[Input, ...], manifest: Manifest
) -> Iterator[tuple[Input, ...]]:
    """What goes into one call: each input by itself, but images that follow one another fill a
    fixed batch."""
    for is_image, group in groupby(inputs, key=lambda given: given.kind == IMAGES):
        given = tuple(group)
        if is_image and target.model.image is None:
            raise _no_image(project, target, given[0])
        size = _fixed_batch(manifest) if is_image else 1
        for start in range(0, len(given), size):
            yield given[start : start + size]


def _fixed_batch(manifest: Manifest) -> int:
    shapes = [entry["shape"] for entry in tensor_inputs(manifest.signature)]
    size = shapes[0][0] if len(shapes) == 1 and shapes[0] else 1
    return max(size, 1) if isinstance(size, int) else 1


def _no_image(project: Project, target: Target, given: Input) -> UsageError:
    return UsageError(
        f"{given.text} is an image, and models.yaml does not say how it becomes the input of"
        f" {target.model.name}",
        where=project.location(target.model),
        hint=(
            "add to the model one of\n  image: torchvision.models:ResNet18_Weights.DEFAULT\n "
            " image: {resize: 256, crop: 224, mean: [0.485, 0.456, 0.406], std: [0.229, 0.224,"
            " 0.225], classes: classes.txt}"
        ),
    )


def _output_path(target: Target, asked: Asked, group: tuple[Input, ...]) -> str | None:
    """The file for the outputs of one call. Raises `UsageError` if it is one of the inputs, or a
    directory."""
    if not asked.output:
        return None
    # Of images that fill a batch the first gives the name: labels differ, and no image is in
    # two batches.
    path = Path(
        asked.output.replace("{target}", target.name).replace("{input}", group[0].label)
    ).absolute()
    if path.resolve() in {Path(given.text).resolve() for given in asked.inputs}:
        raise UsageError(f"--output {asked.output} would overwrite the input {path.name}")
    check_output(path)
    return str(path)


def _job(
    project: Project,
    target: Target,
    artifact: OpenArtifact,
    asked: Asked,
    groups: list[tuple[Input, ...]],
    outputs: list[str | None],
) -> RunJob:
    return RunJob(
        root=str(project.root),
        target_document=target_to_json(target),
        model=str(artifact.files / MODEL),
        reference_data=str(artifact.files / REFERENCE_DATA),
        tolerance=required_tolerance(target),
        signature=artifact.manifest.signature,
        imports=tuple(artifact.manifest.imports),
        where={**yaml_positions(project, target), "image": project.location(target.model, "image")},
        seed=asked.seed,
        repeat=asked.repeat,
        runs=tuple(_request(group, output) for group, output in zip(groups, outputs, strict=True)),
    )


def _request(group: tuple[Input, ...], output: str | None) -> RunRequest:
    files = [given.text for given in group if given.kind in (TENSORS, IMAGES)]
    paths = tuple(str(Path(file).absolute()) for file in files)
    return RunRequest(kind=group[0].kind, paths=paths, output=output)


def _worked(
    project: Project, target: Target, job: RunJob, on_progress: OnProgress
) -> tuple[RunOutcome, ...]:
    try:
        with tempfile.TemporaryDirectory(prefix="aoti_build-") as work:
            result = run_worker(
                job,
                directory=Path(work),
                log=reader_log_path(project, target, "run"),
                on_phase=lambda phase: on_progress(target, phase),
                environment=CHECK_ENVIRONMENT,
            )
    except WorkerCrash as crash:
        raise VerificationError(
            f"running it failed: {crash.message}", cause=crash.cause, hint=crash.hint, log=crash.log
        ) from crash
    return result.runs


def _run(
    group: tuple[Input, ...], seed: int, outcome: RunOutcome, target: Target, log: Path
) -> Run:
    source = tuple(given.text for given in group)
    drawn = seed if group[0].kind == RANDOM else None
    if outcome.error is None:
        return Run(source, drawn, outcome.figures)
    error = error_of(replace(outcome.error, target=target.name), log)
    return Run(source, drawn, None, error)
