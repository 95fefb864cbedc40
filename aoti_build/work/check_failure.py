"""Failed checks: the error with its remedy, and where the artifact differs from its model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from aoti_build.artifact.manifest import MODEL
from aoti_build.artifact.paths import inductor_cache_root
from aoti_build.artifact.verification import required_tolerance
from aoti_build.errors import AotiBuildError, BuildError, Interrupted
from aoti_build.figures import CallFigures, Loss, OutputFigures
from aoti_build.messages import LocalizeJob, LocalizeResult
from aoti_build.models_file.project import Project, Target
from aoti_build.models_file.records import target_to_json
from aoti_build.work.context import BuildContext, Staging
from aoti_build.work.gpu import gpu_environment
from aoti_build.work.worker import (
    CHECK_ENVIRONMENT,
    OnPhase,
    ignore_phase,
    run_worker,
    yaml_positions,
)

_MAX_LINES = 8  # of a cause; the log has all of them


def skipped_cases_error(cases: Sequence[CallFigures], log: Path) -> BuildError:
    """A published artifact is checked again, and its reference data lack tensors for some cases."""
    skipped = [f"{case.name}: {case.skipped}" for case in cases if case.skipped is not None]
    return BuildError(
        f"{len(skipped)} of {len(cases)} cases cannot be compared with eager mode",
        cause="\n".join(skipped[:_MAX_LINES]),
        hint=(
            "build the target with --force, which compares all tensors;"
            " `reference_data: {limit: ...}` sets how many of them are stored"
        ),
        log=log,
    )


def baseline_error(losses: Sequence[Loss], target: Target, log: Path) -> BuildError:
    """The model itself differs more from its baseline than models.yaml allows."""
    limit = required_tolerance(target)["baseline"]
    lines = []
    for loss in losses[:_MAX_LINES]:
        error = f"relative RMSE {loss.relative_rmse:.3g} ({loss.sqnr_db:.1f} dB)"
        lines.append(f"{loss.name}: {error}, {limit:.3g} is allowed")
    return BuildError(
        "the model loses more against its baseline than `limit` allows, so it was not published",
        cause="\n".join(lines),
        hint="quantise less of the model, calibrate it with inputs like these, or raise `limit`",
        log=log,
    )


def comparison_error(
    cases: Sequence[CallFigures], log: Path, explanation: str | None
) -> BuildError:
    """The outputs of some cases differ from eager mode. `explanation` is a sentence from
    `localize`."""
    lines = [
        f"{case.name} inputs: {output.name}: {output.why}"
        for case, output in _failed_outputs(cases)
    ]
    omitted = len(lines) - _MAX_LINES
    if omitted > 0:
        lines = [*lines[:_MAX_LINES], f"and {omitted} more"]
    if explanation:
        lines.append(explanation)
    return BuildError(
        "the compiled artifact does not do what the model does in eager mode, so it was not"
        " published",
        cause="\n".join(lines),
        hint=_remedy([output for _, output in _failed_outputs(cases)]),
        log=log,
    )


def _failed_outputs(cases: Sequence[CallFigures]) -> Iterator[tuple[CallFigures, OutputFigures]]:
    for case in cases:
        for output in case.outputs:
            if not output.ok:
                yield case, output


def _remedy(failed: Sequence[OutputFigures]) -> str:
    """What to do about these outputs."""
    if failed and all(output.eager_nan is not None for output in failed):
        return (
            "only eager mode gives NaN here, which is no fault of the compiler: draw masks that"
            " leave a value in each row. Set `probability: 1` for a bool input, or make the mask in"
            " an inputs callable"
        )
    # torch's words for a result with other strides than at the sizes of the example.
    if any(", stride " in (output.why or "") for output in failed):
        return (
            "an operator of torch lays out its result differently at these sizes than at those of"
            " the example, as small 3-D convolutions do at a batch of 1. Raise `min` of the dim, or"
            " remove `memory_format`"
        )
    # A tolerance bounds differences of values. It is of no use if none were compared.
    if not all(_values_were_compared(output) for output in failed):
        return (
            "no tolerance allows this: the compiled code is at fault, and the log has the details"
        )
    if any("NaN or infinity" in (output.why or "") for output in failed):
        return (
            "no tolerance allows this: use inputs that the model is made for (`low` and `high`, or"
            " a callable). For example, a mask that hides a whole row gives NaN in some attention"
            " code of eager mode, and none in compiled code"
        )
    return (
        "set `tolerance` for this model if differences of this size are expected; otherwise the"
        " compiler is at fault"
    )


def _values_were_compared(output: OutputFigures) -> bool:
    measures = (output.mismatched, output.agreement, output.iou)
    return any(measure is not None for measure in measures)


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
    on_phase: OnPhase = ignore_phase,
) -> LocalizeResult:
    """Run the `localize` job. It needs the model's source.

    Args:
        package: a directory whose weights are compared as well, if they are external.
        alignment: of external weights in the package, in bytes.
        directory: for the files of the job.
        bisect: compile prefixes of the program to find the first module that differs.
        limit: the most seconds that the job may take.
    """
    job = LocalizeJob(
        root=str(project.root),
        python_path=project.import_directories,
        target_document=target_to_json(target),
        where=yaml_positions(project, target),
        architecture_options=target.compile_options,
        cache_root=str(inductor_cache_root()),
        model=str(package / MODEL) if package else None,
        alignment=alignment,
        bisect=bisect,
    )
    return run_worker(
        job,
        directory=directory,
        log=log,
        on_phase=on_phase,
        environment={**CHECK_ENVIRONMENT, **gpu_environment(target, None)},
        limit=limit,
    )


def find_cause_quickly(context: BuildContext, target: Target, staging: Staging) -> str | None:
    """A sentence about the cause, found without a compile; None if there is no result."""
    try:
        result = find_cause(
            context.project,
            target,
            None,
            None,
            directory=staging.directory / "localize",
            log=staging.log,
        )
    except Interrupted:
        raise
    except AotiBuildError:
        # The target has failed with an error of its own, and this only explains that.
        return None
    return None if result.stage == "none" else result.said
