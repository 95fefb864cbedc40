"""Compares the packages of a bundle with their reference data, after its files were examined."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from aoti_build.artifact.bundle import layout
from aoti_build.artifact.manifest import MODEL, Manifest
from aoti_build.commands.received.packages import (
    empty_project,
    obstacle,
    private_copy,
    private_work,
)
from aoti_build.commands.verdicts import VerdictKind
from aoti_build.commands.verify.command import (
    CPP,
    CUDA_GRAPHS,
    PYTHON,
    Verdict,
    VerifyReport,
    verdict_of,
)
from aoti_build.commands.verify.comparison import Comparison, VerifyOptions
from aoti_build.errors import AotiBuildError, DirectoryError, Interrupted
from aoti_build.models_file.project import Target
from aoti_build.work.opened import OpenArtifact
from aoti_build.work.runner import compiled_runner

if TYPE_CHECKING:
    from aoti_build.commands.received.examine import ExaminedBundle
    from aoti_build.commands.verify_release.options import VerifyReleaseOptions

OnProgress = Callable[[Target, str], None]


def compare_packages(
    examined: ExaminedBundle,
    targets: Sequence[Target],
    options: VerifyReleaseOptions,
    on_progress: OnProgress,
) -> VerifyReport:
    """The verdicts on the packages of `targets`, one after the other.

    Raises:
        Interrupted: Ctrl-C was pressed. Every worker has ended.
        ToolchainError: the C++ runner cannot be compiled.
        DirectoryError: the temporary directory is unfit.
    """
    with private_work() as work:
        receiver = _Receiver(examined, options, work, on_progress)
        verdicts = tuple(receiver.verdict(target) for target in targets)
    return VerifyReport(verdicts, options.strict, options.runtime)


@dataclass(frozen=True)
class _Receiver:
    """Compares one package after the other. `work` is a private directory."""

    examined: ExaminedBundle
    options: VerifyReleaseOptions
    work: Path
    on_progress: OnProgress

    def verdict(self, target: Target) -> Verdict:
        manifest = self.examined.manifests[target.name]
        verdict = self._compared(target, manifest)
        return replace(
            verdict,
            package=manifest.files[MODEL],
            path=f"{layout.artifact_path(target.name)}/{MODEL}",
            runtime=self._runtime(target),
        )

    def _runtime(self, target: Target) -> str:
        if self.options.runtime == CUDA_GRAPHS and not target.hardware.has_graphs:
            return PYTHON
        return self.options.runtime

    def _compared(self, target: Target, manifest: Manifest) -> Verdict:
        reason = obstacle(target, manifest)
        if reason is not None:
            return Verdict(target, VerdictKind.UNAVAILABLE, (reason,))
        try:
            with private_copy(self.examined, manifest) as artifact:
                return self._comparison(target, artifact).verdict()
        except (Interrupted, DirectoryError):
            raise
        except AotiBuildError as error:
            error.target = target.name
            return Verdict(target, verdict_of(error), error=error)

    def _comparison(self, target: Target, artifact: OpenArtifact) -> Comparison:
        project = empty_project(target, self.work)
        runtime = self._runtime(target)
        runner = None
        if runtime == CPP:
            self.on_progress(target, "runner")
            runner = compiled_runner(target.device)
        return Comparison(
            project=project,
            target=target,
            artifact=artifact,
            options=VerifyOptions(
                fresh=False,
                seeds=1,
                limit=self.options.limit,
                localize=False,
                repro=None,
                runtime=self.options.runtime,
            ),
            runner=runner,
            cuda_graphs=runtime == CUDA_GRAPHS,
            work=self.work / target.name,
            on_phase=lambda phase: self.on_progress(target, phase),
        )
