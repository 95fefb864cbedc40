"""Compares a package with eager mode in a fresh process, before it is published."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from msgspec.structs import replace

from aoti_build.artifact.manifest import MODEL, REFERENCE_DATA
from aoti_build.artifact.manifest_types import CheckRecord, Requires
from aoti_build.artifact.verification import required_tolerance
from aoti_build.figures import CallFigures, as_json
from aoti_build.host import compatibility
from aoti_build.messages import CheckJob, CheckResult, Import, Signature
from aoti_build.models_file.project import Project, Target
from aoti_build.models_file.records import target_to_json
from aoti_build.work.check_failure import (
    baseline_error,
    comparison_error,
    find_cause_quickly,
    skipped_cases_error,
)
from aoti_build.work.context import BuildContext, Staging
from aoti_build.work.worker import (
    CHECK_ENVIRONMENT,
    OnDetail,
    OnPhase,
    Worker,
    ignore_detail,
    ignore_phase,
    run_worker,
)


class Checker:
    """Checks the package of one target before it is published. Leaving the context ends the worker.

    A worker imports torch first, so it may be started before the package exists. A compile leaves a
    core idle most of the time, and the worker starts with it. If probably only weights will be
    replaced, it starts with the build worker. Both then import torch at the same time, and neither
    disturbs what eager mode computes later.
    """

    def __init__(self, context: BuildContext, target: Target, staging: Staging) -> None:
        self._context = context
        self._target = target
        self._staging = staging
        self._directory = staging.directory / "check"
        self._worker: Worker[CheckResult] | None = None

    def __enter__(self) -> Checker:
        return self

    def __exit__(self, *error: object) -> None:
        if self._worker is not None:
            self._worker.__exit__(*error)

    def start_worker(self) -> None:
        """Start the worker now, unless it has been started or this host cannot run the code."""
        if self._worker is not None or missing_architecture(self._target):
            return
        self._worker = Worker(
            CheckJob,
            self._context.project.root,
            directory=self._directory,
            log=self._staging.log,
            on_detail=self._context.details_of(self._target),
            environment=CHECK_ENVIRONMENT,
        )

    def on_phase(self, phase: str) -> None:
        """Call this with each phase of the build worker."""
        if phase == "compile":
            self.start_worker()

    def check(
        self,
        package: Path,
        requires: Requires,
        signature: Signature,
        *,
        eager_seconds: float | None = None,
    ) -> CheckRecord:
        """Check the package in the directory `package`, and return the record for its manifest.

        `eager_seconds` is what a call takes in eager mode, which the record compares with the
        package. If this host lacks the architecture that the code `requires`, nothing is checked
        and the record says so. Raises `BuildError` if the package fails the check.
        """
        host = compatibility.this_host(self._target.device)
        missing = compatibility.missing_for_architecture(requires, host)
        if missing:
            return _unverified_record(self._target, missing)
        # The artifact's own file may have no room for all reference data.
        reference_data = self._staging.whole_reference_data
        result = check_package(
            self._context.project,
            self._target,
            package,
            signature,
            directory=self._directory,
            log=self._staging.log,
            on_phase=self._context.phases_of(self._target),
            on_detail=self._context.details_of(self._target),
            worker=self._worker,
            reference_data=reference_data if reference_data.exists() else None,
            imports=requires.get("imports", ()),
            time_calls=True,
        )
        self._raise_failure(result)
        record = check_record(self._target, result)
        if result.artifact_seconds is not None:
            record["latency"] = {"artifact": result.artifact_seconds, "eager": eager_seconds}
        return record

    def _raise_failure(self, result: CheckResult) -> None:
        target, log = self._target, self._staging.log
        if any(case.skipped is not None for case in result.cases):
            raise skipped_cases_error(result.cases, log)
        excessive = [loss for loss in result.baseline or () if not loss.ok]
        if excessive:
            raise baseline_error(excessive, target, log)
        if not result.passed:
            self._context.watcher.phase(target, "localize")
            explanation = find_cause_quickly(self._context, target, self._staging)
            raise comparison_error(result.cases, log, explanation)


def missing_architecture(target: Target) -> list[str]:
    """What this host lacks to run the target's code, as sentences."""
    host = compatibility.this_host(target.device)
    requires = compatibility.requirements(target.device, target.architecture, host)
    return compatibility.missing_for_architecture(requires, host)


def _unverified_record(target: Target, missing: Sequence[str]) -> CheckRecord:
    """The record of a check that this host cannot make, with what it is `missing`."""
    return {
        "passed": None,
        "why": "; ".join(missing),
        "tolerance": required_tolerance(target),
        "cases": [],
        "vacuous": [],
        "no_fp64": None,
        "seconds": 0.0,
    }


def check_record(target: Target, result: CheckResult) -> CheckRecord:
    """The record of a check that passed, for a manifest."""
    record: CheckRecord = {
        "passed": True,
        "tolerance": required_tolerance(target),
        "cases": [as_json(_without_histograms(case)) for case in result.cases],
        "vacuous": [as_json(output) for output in result.vacuous],
        "no_fp64": result.no_fp64,
        "seconds": round(sum(result.seconds.values()), 3),
    }
    if result.baseline is not None:
        record["baseline"] = [as_json(loss) for loss in result.baseline]
    return record


def _without_histograms(case: CallFigures) -> CallFigures:
    """Histograms are large, and no reader of a manifest uses them."""
    outputs = [replace(output, histogram=None) for output in case.outputs]
    return replace(case, outputs=tuple(outputs))


def check_package(
    project: Project,
    target: Target,
    package: Path,
    signature: Signature,
    *,
    directory: Path,
    log: Path,
    on_phase: OnPhase = ignore_phase,
    on_detail: OnDetail = ignore_detail,
    worker: Worker[CheckResult] | None = None,
    reference_data: Path | None = None,
    runner: Path | None = None,
    cuda_graphs: bool = False,
    limit: float | None = None,
    imports: Sequence[Import] = (),
    time_calls: bool = False,
) -> CheckResult:
    """Run the `check` job on the package in the directory `package`.

    Args:
        directory: for the files of the job.
        worker: a process that was started for this job and waits. None: a fresh one is started.
        reference_data: a reference data file that replaces the package's own.
        runner: a C++ program that calls the package. None: the worker calls it.
        cuda_graphs: whether the worker replays calls from CUDA graphs.
        limit: the most seconds that a fresh worker may take.
        imports: the manifest's record of modules to import before the package is loaded.
        time_calls: whether a few calls are timed.

    Raises what `run_worker` raises. A failed comparison is part of the result.
    """
    job = CheckJob(
        root=str(project.root),
        python_path=project.import_directories,
        model=str(package / MODEL),
        reference_data=str(reference_data or package / REFERENCE_DATA),
        target_document=target_to_json(target),
        tolerance=required_tolerance(target),
        signature=signature,
        imports=tuple(imports),
        runner=str(runner) if runner else None,
        cuda_graphs=cuda_graphs,
        time_calls=time_calls,
    )
    # If the waiting process has died, a fresh one checks, so that the compile is not wasted.
    if worker is not None and not worker.has_ended:
        worker.give(job)
        return worker.follow(on_phase)
    return run_worker(
        job,
        directory=directory,
        log=log,
        on_phase=on_phase,
        on_detail=on_detail,
        environment=CHECK_ENVIRONMENT,
        limit=limit,
    )
