"""Compares a package with eager mode in a fresh process, before it is published."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from aoti_build.artifact.manifest import MODEL, REFERENCE_DATA
from aoti_build.artifact.verification import required_tolerance
from aoti_build.common.json_object import JsonObject
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
from aoti_build.work.worker import CHECK_ENVIRONMENT, OnPhase, Worker, ignore_phase, run_worker

_DIRECTORY = "check"


class EarlyCheckWorker:
    """The worker of a check, started before the package exists, because it imports torch first.

    A compile leaves a core idle most of the time, so the worker starts with it. It starts with the
    build worker if probably only weights will be replaced. Both then import torch at the same time,
    and neither disturbs what eager mode computes later.

    The worker has loaded nothing when it gets the package. `resources` ends it.
    """

    def __init__(
        self,
        context: BuildContext,
        staging: Staging,
        resources: contextlib.ExitStack,
        *,
        runs_here: bool,
    ) -> None:
        """No worker is started unless the code `runs_here`."""
        self.worker: Worker[CheckResult] | None = None
        self._root = context.project.root
        self._staging = staging
        self._resources = resources
        self._runs_here = runs_here

    def start(self) -> None:
        """Start the worker if there is none yet."""
        if self.worker is not None or not self._runs_here:
            return
        worker = Worker(
            CheckJob,
            self._root,
            directory=self._staging.directory / _DIRECTORY,
            log=self._staging.log,
            environment=CHECK_ENVIRONMENT,
        )
        self.worker = self._resources.enter_context(worker)

    def on_phase(self, phase: str) -> None:
        """Call this with each phase of the build worker."""
        if phase == "compile":
            self.start()


def check_if_possible(
    context: BuildContext,
    target: Target,
    staging: Staging,
    package: Path,
    requires: Mapping[str, Any],
    signature: Signature,
    worker: Worker[CheckResult] | None = None,
) -> JsonObject:
    """Check the package in the directory `package`, and return the record for its manifest.

    If this host lacks the architecture that the code `requires`, nothing is checked and the record
    says so. `worker` is as for `check_package`.

    Raises `BuildError` if the package fails the check.
    """
    missing = compatibility.lacking_architecture(requires)
    if missing:
        return _unverified_record(target, missing)
    # The artifact's own file may have no room for all reference data.
    reference_data = staging.whole_reference_data
    result = check_package(
        context.project,
        target,
        package,
        signature,
        directory=staging.directory / _DIRECTORY,
        log=staging.log,
        on_phase=context.phases_of(target),
        worker=worker,
        reference_data=reference_data if reference_data.exists() else None,
        imports=requires.get("imports", ()),
    )
    _raise_failure(context, target, staging, result)
    return check_record(target, result)


def _raise_failure(
    context: BuildContext,
    target: Target,
    staging: Staging,
    result: CheckResult,
) -> None:
    if any(case.skipped is not None for case in result.cases):
        raise skipped_cases_error(result.cases, staging.log)
    excessive = [loss for loss in result.baseline or () if not loss.ok]
    if excessive:
        raise baseline_error(excessive, target, staging.log)
    if not result.passed:
        context.on_progress(target, "localize")
        explanation = find_cause_quickly(context, target, staging)
        raise comparison_error(result.cases, staging.log, explanation)


def _unverified_record(target: Target, missing: Sequence[str]) -> JsonObject:
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


def check_record(target: Target, result: CheckResult) -> JsonObject:
    """The record of a check that passed, for a manifest."""
    record = {
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
    worker: Worker[CheckResult] | None = None,
    reference_data: Path | None = None,
    runner: Path | None = None,
    limit: float | None = None,
    imports: Sequence[Import] = (),
) -> CheckResult:
    """Run the `check` job on the package in the directory `package`.

    Args:
        directory: for the files of the job.
        worker: a process that was started for this job and waits. None: a fresh one is started.
        reference_data: a reference data file that replaces the package's own.
        runner: a C++ program that calls the package. None: the worker calls it.
        limit: the most seconds that a fresh worker may take.
        imports: the manifest's record of modules to import before the package is loaded.

    Raises what `run_worker` raises. A failed comparison is part of the result.
    """
    job = CheckJob(
        root=str(project.root),
        model=str(package / MODEL),
        reference_data=str(reference_data or package / REFERENCE_DATA),
        target_document=target_to_json(target),
        tolerance=required_tolerance(target),
        signature=signature,
        imports=tuple(imports),
        runner=str(runner) if runner else None,
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
        environment=CHECK_ENVIRONMENT,
        limit=limit,
    )
