"""`run`: load one artifact in a fresh process, run it on the golden or given input, check, describe and time it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aoti_build import toolchain
from aoti_build.errors import OK, VERIFICATION_FAILED, ArtifactError, UsageError, VerificationError
from aoti_build.layout import artifact_directory, reader_log_path
from aoti_build.manifest import GOLDEN, MODEL
from aoti_build.plan import tolerance
from aoti_build.spec.project import Project, Source, Target
from aoti_build.spec.records import target_to_json
from aoti_build.verbs.verify import fit_artifact
from aoti_build.work.check import CHECK_ENVIRONMENT
from aoti_build.work.target import places
from aoti_build.work.worker import WorkerCrash, allow_starts, run_worker

OnProgress = Callable[[Target, str], None]


@dataclass(frozen=True)
class RunReport:
    """What the `run` job of a worker found; see `aoti_build._torch.run`."""

    target: Target
    result: dict[str, Any]

    @property
    def exit_code(self) -> int:
        return OK if self.result["passed"] else VERIFICATION_FAILED

    def as_json(self) -> dict[str, Any]:
        shown = {name: self.result[name] for name in ("inputs", "outputs", "check", "passed", "verdicts", "seconds")}
        return {
            "format": "aoti-build/run",
            "format_version": 1,
            "ok": self.exit_code == OK,
            "target": self.target.name,
            **shown,
        }


def run(
    project: Project,
    target: Target,
    *,
    input_file: Path | None = None,
    on_progress: OnProgress = lambda target, phase: None,
) -> RunReport:
    """Run `target`'s artifact.

    Raises:
        UsageError: the input file is absent, unreadable or does not fit.
        VerificationError, ArtifactError: there is no artifact, or it must not be loaded here.
    """
    if not toolchain.has_device(target.device):
        raise ArtifactError(f"this host has no {target.device} device", target=target.name)
    if input_file is not None and not input_file.is_file():
        raise UsageError(f"there is no file {input_file}", target=target.name)
    manifest = fit_artifact(project, target)
    allow_starts()
    directory = artifact_directory(project, target)
    job = {
        "root": str(project.root),
        "model": str(directory / MODEL),
        "golden": str(directory / GOLDEN),
        "device": target.device,
        "tolerance": tolerance(target),
        "signature": dict(manifest.signature),
        "input": str(input_file.absolute()) if input_file else None,
        "target": target_to_json(target) if _source_is_here(project, target) else None,
        "where": places(project, target),
    }
    try:
        with tempfile.TemporaryDirectory(prefix="aoti_build-") as work:
            result = run_worker(
                "run",
                job,
                directory=Path(work),
                log=reader_log_path(project, target, "run"),
                on_phase=lambda phase: on_progress(target, phase),
                environment=CHECK_ENVIRONMENT,
            )
    except WorkerCrash as crash:
        raise VerificationError(
            f"running it failed: {crash.message}", target=target.name, cause=crash.cause, hint=crash.hint, log=crash.log
        ) from crash
    return RunReport(target, result)


def _source_is_here(project: Project, target: Target) -> bool:
    """Whether a reference can be made: files are there, and modules are left to the import to find."""
    files = [
        model.path for model in (target.model.source, target.model.inputs) if isinstance(model, Source) and model.path
    ]
    files += [target.model.weights] if target.model.weights else []
    return all((project.root / file).is_file() for file in files)
