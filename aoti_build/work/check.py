"""Checking a package in a fresh process before it is published: what it must do, and the worker
that tries it."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from msgspec.structs import replace

from aoti_build.artifact.manifest import MODEL, REFERENCE_DATA
from aoti_build.artifact.manifest_types import CheckRecord, Requires
from aoti_build.artifact.paths import inductor_cache_root
from aoti_build.artifact.verification import required_tolerance
from aoti_build.errors import AotiBuildError, BuildError, Interrupted
from aoti_build.figures import CallFigures, Loss, OutputFigures, as_json
from aoti_build.host import compatibility
from aoti_build.messages import (
    CheckJob,
    CheckResult,
    Import,
    LocalizeJob,
    LocalizeResult,
    Signature,
)
from aoti_build.models_file.project import Project, Target
from aoti_build.models_file.records import target_to_json
from aoti_build.work.context import BuildContext, Place
from aoti_build.work.gpu import gpu_environment
from aoti_build.work.worker import OnPhase, Worker, run_worker

# AOTInductor's own checks of shapes, ranges and dtypes are off unless this is set before the first
# use.
CHECK_ENVIRONMENT = {"AOTI_RUNTIME_CHECK_INPUTS": "1"}
_DIRECTORY = "check"
_MOST_SAID = 8


class CheckAhead:
    """The process of a check, started before its package is there, because it imports torch first.

    It starts with the compile, which leaves a core idle most of the time. Where new weights are
    likely to be all that is needed, it starts with the build worker, so that both import at once
    and neither disturbs what eager mode computes later. It has loaded nothing when it gets the
    package. For code that does not run here none is started. `resources` ends it.
    """

    def __init__(
        self,
        context: BuildContext,
        place: Place,
        resources: contextlib.ExitStack,
        *,
        runs_here: bool,
    ) -> None:
        self._resources = resources
        self._root, self._place, self._runs_here = context.project.root, place, runs_here
        self.worker: Worker[CheckResult] | None = None

    def start(self) -> None:
        if self._runs_here and self.worker is None:
            directory = self._place.work / _DIRECTORY
            self.worker = self._resources.enter_context(
                Worker(
                    CheckJob,
                    self._root,
                    directory=directory,
                    log=self._place.log,
                    environment=CHECK_ENVIRONMENT,
                )
            )

    def on_phase(self, phase: str) -> None:
        """Told of the phases of the build worker."""
        if phase == "compile":
            self.start()


def check_or_say(
    context: BuildContext,
    target: Target,
    place: Place,
    package: Path,
    requires: Requires,
    signature: Signature,
    worker: Worker[CheckResult] | None = None,
) -> CheckRecord:
    """As `check_staged`; where this host cannot run code that `requires` what it lacks, a record
    that says so."""
    lacks = compatibility.lacking_architecture(requires)
    if lacks:
        return not_run(target, lacks)
    return check_staged(
        context, target, place, package, signature, worker, imports=requires.get("imports", ())
    )


def not_run(target: Target, lacks: Sequence[str]) -> CheckRecord:
    """The record of a check that this host cannot make."""
    return {
        "passed": None,
        "why": "; ".join(lacks),
        "tolerance": required_tolerance(target),
        "cases": [],
        "vacuous": [],
        "no_fp64": None,
        "seconds": 0.0,
    }


def check_staged(
    context: BuildContext,
    target: Target,
    place: Place,
    package: Path,
    signature: Signature,
    worker: Worker[CheckResult] | None = None,
    *,
    imports: Sequence[Import] = (),
) -> CheckRecord:
    """Check the package in the directory `package` and return the record for its manifest. A
    reference data file that had to leave tensors out has a whole one beside it in the workplace.

    Raises `BuildError` if its outputs are not eager's.
    """
    result = check_package(
        context.project,
        target,
        package,
        signature,
        directory=place.work / _DIRECTORY,
        log=place.log,
        on_phase=context.phases_of(target),
        worker=worker,
        reference_data=place.whole_reference_data if place.whole_reference_data.exists() else None,
        imports=imports,
    )
    if any(case.skipped is not None for case in result.cases):
        raise _incomplete(result.cases, place.log)
    if lossy := [loss for loss in result.baseline or () if not loss.ok]:
        raise _lossy(lossy, target, place.log)
    if not result.passed:
        context.on_progress(target, "localize")
        raise _failed(result.cases, place.log, _cause(context, target, place))
    return check_record(target, result)


def check_record(target: Target, result: CheckResult) -> CheckRecord:
    """The record of a check that passed, for a manifest."""
    record: CheckRecord = {
        "passed": True,
        "tolerance": required_tolerance(target),
        "cases": [as_json(_brief(case)) for case in result.cases],
        "vacuous": [as_json(output) for output in result.vacuous],
        "no_fp64": result.no_fp64,
        "seconds": round(sum(result.seconds.values()), 3),
    }
    if result.baseline is not None:
        record["baseline"] = [as_json(loss) for loss in result.baseline]
    return record


def check_package(
    project: Project,
    target: Target,
    package: Path,
    signature: Signature,
    *,
    directory: Path,
    log: Path,
    on_phase: OnPhase = lambda phase: None,
    worker: Worker[CheckResult] | None = None,
    reference_data: Path | None = None,
    runner: Path | None = None,
    limit: float | None = None,
    imports: Sequence[Import] = (),
) -> CheckResult:
    """Run the `check` job on the package in the directory `package` in a fresh process.

    `worker` is such a process that was started ahead and waits; `reference_data` a reference file
    in place of the package's own; `runner` a C++ program that calls the package in the worker's
    place; `limit` the most seconds it may take; `imports` the manifest's, of what is imported
    before the package is loaded.
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
    if (
        worker is not None and not worker.has_ended
    ):  # else a fresh one tries; what was compiled is not lost for that
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


def _brief(case: CallFigures) -> CallFigures:
    """Without histograms, which a manifest need not carry."""
    return replace(case, outputs=tuple(replace(output, histogram=None) for output in case.outputs))


def find_cause(
    project: Project,
    target: Target,
    package: Path | None,
    alignment: int | None,
    *,
    directory: Path,
    log: Path,
    bisect: bool = False,
    limit: float | None = None,
    on_phase: OnPhase = lambda phase: None,
) -> LocalizeResult:
    """The `localize` job: where the artifact differs from its model. Needs the model's source.

    `package` is a directory whose weights are looked at too, if they lie apart with `alignment`;
    with `bisect`, prefixes of the program are compiled.
    """
    job = LocalizeJob(
        root=str(project.root),
        target_document=target_to_json(target),
        where=places(project, target),
        architecture_options=target.compile_options,
        cache_root=str(inductor_cache_root()),
        model=str(package / MODEL) if package else None,
        alignment=alignment,
        bisect=bisect,
    )
    environment = {**CHECK_ENVIRONMENT, **gpu_environment(target, None)}
    return run_worker(
        job,
        directory=directory,
        log=log,
        on_phase=on_phase,
        environment=environment,
        limit=limit,
    )


def _cause(context: BuildContext, target: Target, place: Place) -> str | None:
    """What the localization says, without a compile; None if it finds nothing, or cannot be
    made."""
    try:
        found = find_cause(
            context.project, target, None, None, directory=place.work / "localize", log=place.log
        )
    except Interrupted:
        raise
    except AotiBuildError:
        return None  # an explanation is welcome and never needed
    return None if found.stage == "none" else found.said


def places(project: Project, target: Target) -> dict[str, str]:
    """Where in models.yaml each thing is that can turn out wrong only in a worker."""
    fields = {
        "source": ("source",),
        "kwargs": ("kwargs", "source"),
        "weights": ("weights",),
        "method": ("method",),
        "inputs": ("inputs",),
        "dtype": ("dtype",),
        "baseline": ("baseline",),
        "inductor_configs": ("inductor_configs",),
        "imports": ("imports",),
    }
    fields |= {f"dims.{dim.name}": (f"dims.{dim.name}", "dims") for dim in target.model.dims}
    return {name: project.where(target.model, *path) for name, path in fields.items()}


def _incomplete(cases: Sequence[CallFigures], log: Path) -> BuildError:
    """A published artifact is checked again, and its reference data does not hold all that
    decides."""
    skipped = [f"{case.name}: {case.skipped}" for case in cases if case.skipped is not None]
    return BuildError(
        f"{len(skipped)} of {len(cases)} cases cannot be compared with eager",
        cause="\n".join(skipped[:_MOST_SAID]),
        hint=(
            "build it with --force, which compares before anything is left out;"
            " `reference_data: {limit: ...}` keeps more"
        ),
        log=log,
    )


def _lossy(losses: Sequence[Loss], target: Target, log: Path) -> BuildError:
    """The model itself is further from its baseline than models.yaml allows."""
    limit = required_tolerance(target)["baseline"]
    said = [
        f"{loss.name}: relative RMSE {loss.relative_rmse:.3g} ({loss.sqnr_db:.1f} dB),"
        f" {limit:.3g} is allowed"
        for loss in losses
    ]
    return BuildError(
        "the model loses more against its baseline than `limit` allows, so it was not published",
        cause="\n".join(said[:_MOST_SAID]),
        hint="quantise less of the model, or calibrate it with inputs like these; or raise `limit`",
        log=log,
    )


def _failed(cases: Sequence[CallFigures], log: Path, found: str | None) -> BuildError:
    failed = [(case.name, output) for case in cases for output in case.outputs if not output.ok]
    failures = [f"{case} inputs: {output.name}: {output.why}" for case, output in failed]
    more = len(failures) - _MOST_SAID
    if more > 0:
        failures = [*failures[:_MOST_SAID], f"and {more} more"]
    return BuildError(
        "the compiled artifact does not do what the model does in eager mode, so it was not"
        " published",
        cause="\n".join([*failures, *([found] if found else [])]),
        hint=_advice([output for _, output in failed]),
        log=log,
    )


def _advice(failed: Sequence[OutputFigures]) -> str:
    """The next step after outputs that `failed`: a tolerance is of no use where it is not the size
    of a number."""
    if failed and all(output.eager_nan is not None for output in failed):
        return (
            "this is no fault of the compiler: draw masks that leave something of each row,"
            " `probability: 1` for a bool input, or make the mask in an inputs callable"
        )
    if not all(_is_of_size(output) for output in failed):
        return (
            "no tolerance allows this: the compiled code is at fault, and the log says more than"
            " fits here"
        )
    if any("NaN or infinity" in (output.why or "") for output in failed):
        return (
            "no tolerance allows this: give inputs that the model is made for (`low` and `high`, or"
            " a callable); a mask that hides a whole row, for one, is NaN in some of eager's"
            " attention and not in compiled code"
        )
    return (
        "set `tolerance` for this model if differences of this size are expected; else this is a"
        " compiler fault"
    )


def _is_of_size(output: OutputFigures) -> bool:
    """Whether values were compared, so that how far they may be apart is a question."""
    return any(part is not None for part in (output.mismatched, output.agreement, output.iou))
