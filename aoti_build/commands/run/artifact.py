"""Runs one open artifact on every input, in a worker process."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

from aoti_build.artifact.manifest import MODEL, REFERENCE_DATA
from aoti_build.artifact.paths import reader_log_path
from aoti_build.artifact.verification import required_tolerance
from aoti_build.commands.run.inputs import (
    RANDOM,
    InputGroup,
    RunOptions,
    group_inputs,
    output_path,
)
from aoti_build.commands.run.report import Run
from aoti_build.errors import VerificationError
from aoti_build.messages import RunJob, RunOutcome, RunRequest
from aoti_build.models_file.project import Project, Target
from aoti_build.models_file.records import target_to_json
from aoti_build.work.crash import WorkerCrash
from aoti_build.work.opened import OpenArtifact
from aoti_build.work.worker import CHECK_ENVIRONMENT, error_of, run_worker, yaml_positions


@dataclass(frozen=True)
class ArtifactRunner:
    """Runs one artifact.

    Without `has_sources` no code of the model's project is imported, and nothing is compared with
    eager mode.
    """

    project: Project
    target: Target
    artifact: OpenArtifact
    options: RunOptions
    on_phase: Callable[[str], None]
    has_sources: bool = True

    def runs(self) -> tuple[Run, ...]:
        """The runs on all inputs.

        Raises:
            UsageError: an input does not suit the model, or an output cannot be written. Nothing
                was run.
            VerificationError: the worker ended without a result.
        """
        groups = list(
            group_inputs(
                self.project,
                self.target,
                self.options.inputs,
                self.artifact.manifest,
            )
        )
        # Every output path is checked before the first call.
        requests = []
        for group in groups:
            output = output_path(self.target, self.options, group)
            requests.append(_request(group, output))
        outcomes = self._outcomes(self._job(requests))
        runs = []
        for group, outcome in zip(groups, outcomes, strict=True):
            runs.append(self._run_of(group, outcome))
        return tuple(runs)

    def _job(self, requests: Sequence[RunRequest]) -> RunJob:
        target, manifest = self.target, self.artifact.manifest
        image_position = self.project.location(target.model, "image")
        return RunJob(
            root=str(self.project.root),
            python_path=self.project.import_directories,
            target_document=target_to_json(target),
            model=str(self.artifact.files / MODEL),
            reference_data=str(self.artifact.files / REFERENCE_DATA),
            tolerance=required_tolerance(target),
            signature=manifest.signature,
            imports=tuple(manifest.imports),
            where={**yaml_positions(self.project, target), "image": image_position},
            cuda_graphs=self.options.cuda_graphs and target.hardware.has_graphs,
            seed=self.options.seed,
            repeat=self.options.repeat,
            runs=tuple(requests),
            has_sources=self.has_sources,
        )

    def _outcomes(self, job: RunJob) -> tuple[RunOutcome, ...]:
        try:
            with tempfile.TemporaryDirectory(prefix="aoti_build-") as directory:
                result = run_worker(
                    job,
                    directory=Path(directory),
                    log=self._log,
                    on_phase=self.on_phase,
                    environment=CHECK_ENVIRONMENT,
                )
        # A crash is a failed verification (exit code 3), and not a failed build.
        except WorkerCrash as crash:
            raise VerificationError(
                f"running it failed: {crash.message}",
                cause=crash.cause,
                hint=crash.hint,
                log=crash.log,
            ) from crash
        return result.runs

    def _run_of(self, group: InputGroup, outcome: RunOutcome) -> Run:
        source = tuple(entry.text for entry in group)
        seed = self.options.seed if group[0].kind == RANDOM else None
        if outcome.error is None:
            return Run(source, seed, outcome.figures)
        record = replace(outcome.error, target=self.target.name)
        return Run(source, seed, None, error_of(record, self._log))

    @property
    def _log(self) -> Path:
        return reader_log_path(self.project, self.target, "run")


def _request(group: InputGroup, output: str | None) -> RunRequest:
    # The worker has another current directory, so the paths are absolute.
    paths = []
    for entry in group:
        if entry.is_file:
            paths.append(str(Path(entry.text).absolute()))
    return RunRequest(kind=group[0].kind, paths=tuple(paths), output=output)
