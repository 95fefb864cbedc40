"""`run --release`: a receiver tries the models of a bundle, without models.yaml and sources.

All files are compared first (`received.examine`). Only then are private copies of the packages
loaded, in worker processes that import nothing of the release and no source of a model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from aoti_build.artifact.manifest import Manifest
from aoti_build.artifact.reasons import Reason
from aoti_build.commands.received.examine import ExaminedBundle, examined_bundle
from aoti_build.commands.received.options import ReceiverOptions
from aoti_build.commands.received.packages import (
    empty_project,
    obstacle,
    private_copy,
    private_work,
)
from aoti_build.commands.received.release import NEXT_STEP
from aoti_build.commands.run.artifact import ArtifactRunner
from aoti_build.commands.run.inputs import (
    IMAGES,
    RANDOM,
    REPEAT,
    SEED,
    Input,
    RunOptions,
    check_output_pattern,
    parse_inputs,
)
from aoti_build.commands.run.report import RunReport, TargetRuns
from aoti_build.errors import (
    AotiBuildError,
    ArtifactError,
    DirectoryError,
    Interrupted,
    UsageError,
)
from aoti_build.models_file.project import Source, Target

OnProgress = Callable[[Target, str], None]


def run_release(
    options: ReceiverOptions,
    *,
    inputs: Sequence[str] = (),
    output: str = "",
    seed: int = SEED,
    repeat: int = REPEAT,
    cuda_graphs: bool = False,
    on_progress: OnProgress = lambda target, phase: None,
) -> RunReport:
    """Examine a bundle, and run its packages as `run` does. Files of inputs are not of the bundle.

    Nothing is compared with eager mode, and images are no inputs, because both need models.yaml.

    Raises:
        SignatureError: the signature is refused, or the files are not what was signed. Nothing was
            loaded, unless the files changed while packages were run.
        ArtifactError: the bundle cannot be read. Nothing was loaded.
        UsageError: an option is wrong, there is no usable key, or `output` lies in the bundle.
        ToolchainError: cryptography is not installed, or the host cannot run packages.
        Interrupted: Ctrl-C was pressed. Every worker has ended.
    """
    run_options = RunOptions(parse_inputs(inputs), output, seed, repeat, cuda_graphs)
    if output:
        _refuse_output_in(options.directory, output)
    with examined_bundle(options) as examined:
        targets = examined.targets(options.pattern)
        if output:
            check_output_pattern(run_options, len(targets))
        # From here on packages are loaded, in workers.
        runs = _run_packages(examined, targets, run_options, on_progress)
        examined.require_unchanged()
    return RunReport(runs, examined.release)


def _refuse_output_in(directory: Path, output: str) -> None:
    # The release would be refused at the end, because it has a file that was never signed.
    if Path(output).absolute().resolve().is_relative_to(directory.absolute().resolve()):
        raise UsageError(
            f"--output {output} lies in the release", hint="name a file outside of the release"
        )


def _run_packages(
    examined: ExaminedBundle,
    targets: Sequence[Target],
    options: RunOptions,
    on_progress: OnProgress,
) -> tuple[TargetRuns, ...]:
    with private_work() as work:
        runner = _Runner(examined, options, work, on_progress)
        return tuple(runner.run(target) for target in targets)


@dataclass(frozen=True)
class _Runner:
    """Runs the packages of one target after another. `work` is a private directory."""

    examined: ExaminedBundle
    options: RunOptions
    work: Path
    on_progress: OnProgress

    def run(self, target: Target) -> TargetRuns:
        manifest = self.examined.manifests[target.name]
        reason = obstacle(target, manifest)
        if reason is not None:
            return TargetRuns(target, error=_unfit(target, reason), available=False)
        try:
            for entry in self.options.inputs:
                _require_sourceless(entry, target)
            return self._run_copy(target, manifest)
        except (Interrupted, DirectoryError):
            raise
        except ArtifactError as error:
            # Its own hint is for those who can build the artifact again.
            error.hint = NEXT_STEP
            error.target = target.name
            return TargetRuns(target, error=error)
        except AotiBuildError as error:
            error.target = target.name
            return TargetRuns(target, error=error)

    def _run_copy(self, target: Target, manifest: Manifest) -> TargetRuns:
        with private_copy(self.examined, manifest) as artifact:
            runner = ArtifactRunner(
                project=empty_project(target, self.work),
                target=target,
                artifact=artifact,
                options=self.options,
                on_phase=lambda phase: self.on_progress(target, phase),
                has_sources=False,
            )
            # The time of eager mode is that of another host, so it is not compared with.
            return TargetRuns(target, runner.runs())


def _unfit(target: Target, reason: Reason) -> ArtifactError:
    return ArtifactError(
        f"it cannot run on this host: {reason}",
        target=target.name,
        hint="run it on a host like the one that will use it",
    )


def _require_sourceless(entry: Input, target: Target) -> None:
    """Raise `UsageError` for an input that only the sources of a model can make."""
    model = target.model.name
    if entry.kind == IMAGES:
        raise UsageError(
            f"{entry.text} is an image, and a release does not say how it becomes the input of"
            f" {model}",
            hint="write the tensor of the image to a .npz or .safetensors file, and name that",
        )
    if entry.kind == RANDOM and isinstance(target.model.inputs, Source):
        raise UsageError(
            f"random inputs of {model} are made by {target.model.inputs}, which is not in the"
            " release",
            hint="run it on reference_data, or on a file of tensors",
        )
