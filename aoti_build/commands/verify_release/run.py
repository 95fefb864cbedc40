"""Compares the packages of a bundle with their reference data, after its files were verified.

Workers get private copies whose digests are those of the manifests. They run in an empty private
directory, so nothing of the bundle is on their import path. They need torch and what the manifests
list in `requires.imports`, and nothing else that the model was built with.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from aoti_build.artifact.bundle import layout
from aoti_build.artifact.bundle.opened import OpenBundle
from aoti_build.artifact.manifest import MODEL, Manifest
from aoti_build.artifact.reasons import Reason, ReasonKind
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
from aoti_build.common.directories import temporary_directory
from aoti_build.errors import AotiBuildError, DirectoryError, Interrupted
from aoti_build.host import compatibility
from aoti_build.models_file.places import Layout
from aoti_build.models_file.project import Project, Target
from aoti_build.work.opened import OpenArtifact, copied_artifact
from aoti_build.work.processes import allow_starts, stop_all
from aoti_build.work.runner import compiled_runner

if TYPE_CHECKING:
    from aoti_build.commands.verify_release.options import ReceiverOptions

OnProgress = Callable[[Target, str], None]


def compare_packages(
    bundle: OpenBundle,
    manifests: Mapping[str, Manifest],
    targets: Sequence[Target],
    options: ReceiverOptions,
    on_progress: OnProgress,
) -> VerifyReport:
    """The verdicts on the packages of `targets`, one after the other.

    Raises:
        Interrupted: Ctrl-C was pressed. Every worker has ended.
        ToolchainError: the C++ runner cannot be compiled.
        DirectoryError: the temporary directory is unfit.
    """
    # An interrupted command in the same process has forbidden new workers.
    allow_starts()
    temporary = temporary_directory()
    with tempfile.TemporaryDirectory(dir=temporary, prefix="aoti_build-") as work:
        receiver = _Receiver(bundle, manifests, options, Path(work), on_progress)
        try:
            verdicts = tuple(receiver.verdict(target) for target in targets)
        except KeyboardInterrupt:
            stop_all()
            raise Interrupted("interrupted") from None
    return VerifyReport(verdicts, options.strict, options.runtime)


@dataclass(frozen=True)
class _Receiver:
    """Compares one package after the other. `work` is a private directory."""

    bundle: OpenBundle
    manifests: Mapping[str, Manifest]
    options: ReceiverOptions
    work: Path
    on_progress: OnProgress

    def verdict(self, target: Target) -> Verdict:
        manifest = self.manifests[target.name]
        folder = layout.artifact_path(target.name)
        verdict = self._compared(target, manifest, folder)
        return replace(
            verdict,
            package=manifest.files[MODEL],
            path=f"{folder}/{MODEL}",
            runtime=self._runtime(target),
        )

    def _runtime(self, target: Target) -> str:
        if self.options.runtime == CUDA_GRAPHS and not target.hardware.has_graphs:
            return PYTHON
        return self.options.runtime

    def _compared(self, target: Target, manifest: Manifest, folder: str) -> Verdict:
        # A release may have variants for other hosts than this one.
        obstacle = obstacle_of(target, manifest)
        if obstacle is not None:
            return Verdict(target, VerdictKind.UNAVAILABLE, (obstacle,))
        directory = self.bundle.path / folder
        try:
            with contextlib.ExitStack() as resources:
                opened = self.bundle.opened / folder
                copied = copied_artifact(directory, opened, manifest)
                return self._comparison(target, resources.enter_context(copied)).verdict()
        except (Interrupted, DirectoryError):
            raise
        except AotiBuildError as error:
            error.target = target.name
            return Verdict(target, verdict_of(error), error=error)

    def _comparison(self, target: Target, artifact: OpenArtifact) -> Comparison:
        work = self.work / target.name
        work.mkdir(parents=True)
        # Relative paths of the manifest lead into this empty directory.
        root = work / "root"
        root.mkdir()
        runtime = self._runtime(target)
        runner = None
        if runtime == CPP:
            self.on_progress(target, "runner")
            runner = compiled_runner(target.device)
        return Comparison(
            project=Project(root / "models.yaml", (target,), layout=Layout(python_path=())),
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
            work=work,
            on_phase=lambda phase: self.on_progress(target, phase),
        )


def obstacle_of(target: Target, manifest: Manifest) -> Reason | None:
    """Why this host cannot run a package. None if it can."""
    if not target.hardware.count():
        return Reason(ReasonKind.NO_DEVICE, target.device)
    host = compatibility.this_host(target.device)
    missing = compatibility.missing(manifest.requires, host)
    if missing:
        return Reason(ReasonKind.LACKS_ARCHITECTURE, "; ".join(missing))
    return None
