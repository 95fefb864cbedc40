"""The `check` job: load a package in this fresh process, run all reference cases, and compare with
the eager-mode outputs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from aoti_build._torch.checking.baseline import with_verdicts
from aoti_build._torch.checking.compare import compare, needs_every_value
from aoti_build._torch.checking.compare_sketch import compare_sketch
from aoti_build._torch.checking.reference_data import (
    Case,
    Plain,
    ReferenceData,
    Value,
    inputs_digest,
)
from aoti_build._torch.checking.reference_reader import load_reference_data
from aoti_build._torch.checking.returned import as_returned, compare_plain
from aoti_build._torch.checking.sketch import Sketch
from aoti_build._torch.events import Events
from aoti_build._torch.jobs.latency import artifact_seconds
from aoti_build._torch.packages.loaded import LoadedPackage, PackageLacks
from aoti_build._torch.packages.runner import Package, open_package
from aoti_build._torch.program.inputs import from_shapes
from aoti_build._torch.program.memory_formats import in_signature_formats
from aoti_build._torch.program.permitted import set_precision
from aoti_build._torch.program.writes import computed_of
from aoti_build.artifact.reference_file import observed_names
from aoti_build.figures import CallFigures, Loss, OutputFigures, Vacuous, typed
from aoti_build.messages import CheckJob, CheckResult, Signature, Tolerance
from aoti_build.models_file.project import Model, Source


def check(job: CheckJob, events: Events) -> CheckResult:
    """Compare the package with the reference data, case by case.

    A case is `skipped`, with the reason, if the reference data had no room for it, or if nothing
    of it could be compared. If all cases are skipped, the check has not passed. `unread` lists the
    buffers that could not be read back after a call.
    """
    target = job.target
    set_precision(target)
    reference_data = load_reference_data(Path(job.reference_data))
    checker = _Checker(job, target.model, reference_data, events, observed_names(job.signature))
    cases: list[CallFigures] = []
    try:
        for calls in reference_data.sequences():
            cases += checker.sequence(calls)
    except PackageLacks as error:
        return _unavailable(error.message, events)
    outputs = [output for case in cases for output in case.outputs]
    losses = _losses(reference_data, job.tolerance)
    outputs_pass = bool(outputs) and all(output.ok for output in outputs)
    losses_pass = all(loss.ok for loss in losses or ())
    return CheckResult(
        passed=outputs_pass and losses_pass,
        cases=tuple(cases),
        no_fp64=reference_data.no_exact,
        vacuous=_vacuous(reference_data, job.signature, job.tolerance, target.device),
        baseline=losses,
        seconds=events.seconds,
        artifact_seconds=checker.artifact_seconds,
    )


def _unavailable(why: str, events: Events) -> CheckResult:
    return CheckResult(
        passed=False,
        cases=(),
        no_fp64=None,
        vacuous=(),
        seconds=events.seconds,
        unavailable=why,
    )


def _losses(reference_data: ReferenceData, tolerance: Tolerance) -> tuple[Loss, ...] | None:
    """How much the model loses against its baseline, judged by the tolerance; None without one."""
    losses = with_verdicts(reference_data.baseline, tolerance.get("baseline"))
    if losses is None:
        return None
    return tuple(typed(loss, Loss) for loss in losses)


@dataclass
class _Checker:
    """Runs sequences of calls on one package. Each sequence begins with the package's first state,
    as the eager-mode calls did."""

    job: CheckJob
    model: Model
    reference_data: ReferenceData
    events: Events
    # What is compared after a call: outputs, and the inputs and buffers that the call writes into.
    names: list[str]
    # Of one call at the example sizes.
    artifact_seconds: float | None = None
    _checked: int = 0
    _package: Package | None = None

    def sequence(self, stored: Sequence[Case]) -> list[CallFigures]:
        """The figures of each call."""
        calls = [with_inputs(case, self.model) for case in stored]
        reasons = [_missing(case, self.names, self.job.tolerance) for case in calls]
        # A call without inputs is not made. Later calls would begin with another state than the
        # eager-mode ones did, so they are not made either.
        callable_count = count_until_missing_inputs(calls)
        # Reference data is contiguous. The inputs go through what the loader does with such ones,
        # while eager mode had them in the memory format.
        callable_inputs = []
        for case in calls[:callable_count]:
            callable_inputs.append(in_signature_formats(case.inputs or [], self.job.signature))
        observed, refusals = self._observed(callable_inputs)
        figures = []
        for number, case in enumerate(calls):
            reason = reasons[number]
            if not reason and number > callable_count:
                reason = reasons[callable_count]
            if reason:
                figures.append(_figures(case, skipped=reason))
            elif number < len(observed):
                figures.append(self._compared(case, observed[number]))
            else:
                figures.append(_figures(case, refusals))
        return figures

    def _compared(self, case: Case, observed: list[Any]) -> CallFigures:
        """The figures of one call. A buffer that cannot be read back shows in later calls. If the
        call leaves nothing else to compare, it counts as skipped."""
        outputs = verdicts(case, observed, self.job.signature, self.job.tolerance)
        unread = []
        for name, reference, value in zip(self.names, case.outputs or (), observed, strict=False):
            if reference is not None and value is None:
                unread.append(name)
        if outputs or not unread:
            return _figures(case, outputs, unread=unread)
        why = f"{', '.join(unread)} cannot be read back, and the call leaves nothing else"
        return _figures(case, skipped=why)

    def _observed(self, inputs: list[list[Any]]) -> tuple[list[list[Any]], list[OutputFigures]]:
        """The values after each call. If the package refuses a call, there are none, and the
        figures say why."""
        if not inputs:
            return [], []
        if self._package is None:
            with self.events.phase("load"):
                self._package = open_package(self.job, self.reference_data.state)
        with self.events.phase("check"):
            self.events.stage("check", self._checked, len(self.reference_data.cases))
            self._checked += len(inputs)
            started = time.perf_counter()
            try:
                results = self._package.calls(inputs)
                self._time_example(inputs[0], (time.perf_counter() - started) / len(inputs))
            except RuntimeError as error:
                why = f"the package refused inputs of its range: {gist(error)}"
                return [], [OutputFigures(name="(call)", ok=False, why=why)]
            return [as_returned(result, self.job.signature) for result in results], []

    def _time_example(self, inputs: list[Any], known: float) -> None:
        """Time calls with the inputs of the first sequence, which are the example.

        A package with state would have to be loaded again, so its calls are not timed.
        """
        package = self._package
        is_example = self.artifact_seconds is None and not self.reference_data.state
        if self.job.time_calls and is_example and isinstance(package, LoadedPackage):
            device = self.job.target.device
            self.artifact_seconds = artifact_seconds(package, inputs, device, known)


def count_until_missing_inputs(calls: Sequence[Case]) -> int:
    """The number of calls before the first one whose inputs are missing."""
    for number, case in enumerate(calls):
        if case.inputs is None:
            return number
    return len(calls)


def gist(error: RuntimeError) -> str:
    """The sentence of AOTInductor's error, without the C++ trace. At most 300 characters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    about_inputs = [line for line in lines if "input_handles" in line]
    candidates = about_inputs or lines
    return candidates[0][:300] if candidates else ""


def verdicts(
    case: Case, observed: list[Any], signature: Signature, tolerance: Tolerance
) -> list[OutputFigures]:
    """Compare all values after a call with those of eager mode. A missing or surplus output is a
    failed verdict of its own.

    `observed` holds None for what cannot be read back, such as a buffer that the package does not
    name. It shows in later calls.
    """
    expected = case.outputs or []
    names = observed_names(signature)
    if len(observed) != len(expected):
        written = sum(name.startswith(("input ", "buffer ")) for name in names)
        why = f"{len(observed) - written} outputs, expected {len(expected) - written}"
        return [OutputFigures(name="outputs", ok=False, why=why)]
    figures = []
    rows = zip(names, expected, observed, *_bases(case, signature), strict=True)
    for name, reference, candidate, *bases in rows:
        not_stored = reference is None
        unreadable = candidate is None and name.startswith("buffer ")
        # An equal number, text or None shows nothing.
        equal_constant = isinstance(reference, Plain) and reference == candidate
        if not (not_stored or unreadable or equal_constant):
            figures.append(_compared(name, reference, candidate, tolerance, *bases))
    return figures


def _compared(
    name: str,
    reference: Value,
    candidate: Any,
    tolerance: Tolerance,
    exact: Any,
    rounded_rmse: float | None,
    computed: str | None,
) -> OutputFigures:
    """Compare one value, by the way that suits how the reference data holds it."""
    assert reference is not None
    bases = exact, rounded_rmse, computed
    if isinstance(reference, Plain):
        figures = compare_plain(name, reference, candidate)
    elif isinstance(reference, Sketch):
        figures = compare_sketch(name, reference, candidate, tolerance, *bases)
    else:
        figures = compare(name, reference, candidate, tolerance, *bases)
    return typed(figures, OutputFigures)


def _bases(case: Case, signature: Signature) -> tuple[list[Any], list[Any], list[Any]]:
    """Three lists for `compare`, each by output: float64 references, the RMSE of other roundings
    to them, and the types that outputs are computed in."""
    computed = computed_of(signature)
    nothing = [None] * len(computed)
    return case.exact or nothing, case.rounded_rmse or nothing, computed


def _vacuous(
    reference_data: ReferenceData, signature: Signature, tolerance: Tolerance, device: str
) -> tuple[Vacuous, ...]:
    """Outputs that would also pass with other inputs or other weights. Their comparison shows
    nothing."""
    first = reference_data.cases[0]
    names = observed_names(signature)
    if first.outputs is None or len(first.outputs) != len(names):
        return ()  # the package has other outputs, and fails for that
    vacuous: dict[str, Vacuous] = {}
    for changed, outputs in reference_data.others.items():
        rows = zip(names, first.outputs, outputs, *_bases(first, signature), strict=True)
        for name, reference, other, *bases in rows:
            if name in vacuous or reference is None:
                continue
            if isinstance(other, Sketch):
                candidate: Tensor | Sketch = other
            elif isinstance(other, Tensor):
                # The comparison runs on the device, whose bounds may differ from the CPU's.
                candidate = other.to(device)
            else:
                continue
            if _compared(name, reference, candidate, tolerance, *bases).ok:
                vacuous[name] = typed({"output": name, "of": changed}, Vacuous)
    return tuple(vacuous.values())


def with_inputs(case: Case, model: Model) -> Case:
    """The case with its inputs. They are drawn again from the seed if the reference data had no
    room for them."""
    if case.inputs is not None or isinstance(model.inputs, Source):
        return case
    inputs = from_shapes(model.inputs)(case.sizes, case.seed).tensors()
    # Another release of torch may draw other numbers, and models.yaml may have changed.
    if inputs_digest(inputs) != case.inputs_digest:
        return case
    return replace(case, inputs=inputs)


def _missing(case: Case, names: Sequence[str], tolerance: Tolerance) -> str:
    """Why a case cannot be compared; empty if it can."""
    missing = []
    if case.inputs is None:
        missing.append("inputs")
    if case.outputs is None:
        missing.append("outputs")
    # models.yaml may set another tolerance than when the reference data was written.
    for name, value in zip(names, case.outputs or (), strict=False):
        if isinstance(value, Sketch) and needs_every_value(name, tolerance):
            missing.append(f"whole output {name}, which its tolerance needs")
    if not missing:
        return ""
    return (
        f"the reference data had no room for its {' and '.join(missing)}; --fresh makes them from"
        " the model's source, and a larger `reference_data: {limit: ...}` keeps them"
    )


def _figures(
    case: Case,
    outputs: Sequence[OutputFigures] = (),
    *,
    skipped: str | None = None,
    unread: Sequence[str] = (),
) -> CallFigures:
    return CallFigures(
        name=case.name,
        sizes=dict(case.sizes),
        seed=case.seed,
        call=case.call + 1 if case.call else None,
        outputs=tuple(outputs),
        skipped=skipped,
        unread=tuple(unread),
    )
