"""`run`: calls artifacts with the reference input or with files of the user, then checks, describes
and times them.

Errors of the command line are raised before anything runs. A later failure belongs to its target or
to its input, and does not stop the others.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from aoti_build.artifact.paths import stat_cache_path
from aoti_build.commands.run.artifact import ArtifactRunner
from aoti_build.commands.run.inputs import (
    REPEAT,
    SEED,
    RunOptions,
    check_output_pattern,
    parse_inputs,
)
from aoti_build.commands.run.report import Run, RunReport, TargetRuns
from aoti_build.common.directories import temporary_directory
from aoti_build.common.stat_cache import StatCache
from aoti_build.errors import (
    AotiBuildError,
    ArtifactError,
    DirectoryError,
    Interrupted,
    VerificationError,
)
from aoti_build.models_file.project import Project, Target
from aoti_build.planning.plan import out_of_date, plan_target
from aoti_build.store.interface import Store
from aoti_build.store.selection import open_store
from aoti_build.work.opened import ArchitectureMissing, OpenArtifact, fit_artifact
from aoti_build.work.processes import allow_starts

__all__ = ["REPEAT", "SEED", "Run", "RunReport", "TargetRuns", "run"]

OnProgress = Callable[[Target, str], None]


def run(
    project: Project,
    targets: tuple[Target, ...],
    *,
    inputs: Sequence[str] = (),
    output: str = "",
    seed: int = SEED,
    repeat: int = REPEAT,
    cuda_graphs: bool = False,
    on_progress: OnProgress = lambda target, phase: None,
) -> RunReport:
    """Run the artifacts of `targets` one after another, each on every one of `inputs`.

    An input is "reference_data", "random" or a file. Without inputs the reference input is used.
    `output` is a pattern for the files to which outputs are written. `repeat` is the number of
    timed calls. With `cuda_graphs` the calls of GPU packages are replayed from CUDA graphs.

    Raises:
        UsageError: An input is absent or of no known kind, or `output` does not name one file for
            each run.
        DirectoryError: The temporary directory is unfit.
    """
    options = RunOptions(parse_inputs(inputs), output, seed, repeat, cuda_graphs)
    if output:
        check_output_pattern(options, len(targets))
    # An interrupted command in the same process has forbidden new workers.
    allow_starts()
    # An unfit temporary directory ends the command, and is no failure of a target.
    temporary_directory()
    runner = _Runner(
        project=project,
        digests=StatCache(stat_cache_path(project)),
        store=open_store(project.main_artifacts),
        options=options,
        on_progress=on_progress,
    )
    return RunReport(tuple(runner.run(target) for target in targets))


@dataclass(frozen=True)
class _Runner:
    """Runs the artifact of one target after another."""

    project: Project
    digests: StatCache
    store: Store
    options: RunOptions
    on_progress: OnProgress

    def run(self, target: Target) -> TargetRuns:
        if not target.hardware.count():
            message = f"this host has no {target.device} device"
            error: AotiBuildError = ArtifactError(message, target=target.name)
            return TargetRuns(target, error=error, available=False)
        try:
            with _open_fit_artifact(self.project, target) as artifact:
                return self._run_open(target, artifact)
        except (Interrupted, DirectoryError):
            # The user or the host is at fault, and not this artifact: the command ends.
            raise
        except ArchitectureMissing as error:
            return TargetRuns(target, error=error, available=False)
        except AotiBuildError as error:
            error.target = target.name
            return TargetRuns(target, error=error)

    def _run_open(self, target: Target, artifact: OpenArtifact) -> TargetRuns:
        step = plan_target(self.project, target, self.digests, self.store)
        runner = ArtifactRunner(
            project=self.project,
            target=target,
            artifact=artifact,
            options=self.options,
            on_phase=lambda phase: self.on_progress(target, phase),
        )
        return TargetRuns(
            target,
            runner.runs(),
            out_of_date(step),
            unverified=artifact.manifest.unverified,
            eager_seconds=artifact.manifest.check.get("latency", {}).get("eager"),
        )


@contextlib.contextmanager
def _open_fit_artifact(project: Project, target: Target) -> Iterator[OpenArtifact]:
    """`fit_artifact`, which raises `ArchitectureMissing` as well if there is no artifact because
    this host cannot build it."""
    # The body of the caller's `with` may raise VerificationError too, so it stays out of the `try`.
    with contextlib.ExitStack() as resources:
        try:
            artifact = resources.enter_context(fit_artifact(project, target))
        except VerificationError:
            obstacle = target.hardware.cannot_build(target.architecture)
            if not obstacle:
                raise
            raise ArchitectureMissing(
                "it cannot be built on this host", target=target.name, cause=obstacle
            ) from None
        yield artifact
