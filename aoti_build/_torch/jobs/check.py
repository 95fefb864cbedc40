"""The `check` job: load a package in this fresh process, run every reference case, compare with
what eager left."""

from __future__ import annotations

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
from aoti_build._torch.compiling.settings import set_precision
from aoti_build._torch.events import Events
from aoti_build._torch.packages.runner import Package, RunnerLacks, open_package
from aoti_build._torch.program.inputs import from_shapes
from aoti_build._torch.program.writes import computed_of, observed_names
from aoti_build.figures import CallFigures, Loss, OutputFigures, Vacuous, typed
from aoti_build.messages import CheckJob, CheckResult, Signature, Tolerance
from aoti_build.models_file.project import Model, Source


def check(job: CheckJob, events: Events) -> CheckResult:
    """A case for which the reference data had no room is `skipped`, with the reason, and so is one
    of which nothing could be compared; if that is every case, nothing passed. `unread` are the
    buffers that could not be read back after a call.
    """
    target = job.target
    set_precision(target)
    reference_data = load_reference_data(Path(job.reference_data))
    checker = _Checker(job, target.model, reference_data, events, observed_names(job.signature))
    try:
        cases = [
            figures for calls in reference_data.sequences() for figures in checker.sequence(calls)
        ]
    except RunnerLacks as error:
        return _unavailable(error.message, events)
    outputs = [output for case in cases for output in case.outputs]
    losses = _losses(reference_data, job.tolerance)
    return CheckResult(
        passed=bool(outputs) and all(found.ok for found in [*outputs, *(losses or ())]),
        cases=tuple(cases),
        no_fp64=reference_data.no_exact,
        vacuous=_vacuous(reference_data, job.signature, job.tolerance, target.device),
        baseline=losses,
        seconds=events.seconds,
    )


def _unavailable(why: str, events: Events) -> CheckResult:
    return CheckResult(
        passed=False, cases=(), no_fp64=None, vacuous=(), seconds=events.seconds, unavailable=why
    )


def _losses(reference_data: ReferenceData, tolerance: Tolerance) -> tuple[Loss, ...] | None:
    found = with_verdicts(reference_data.baseline, tolerance.get("baseline"))
    return None if found is None else tuple(typed(loss, Loss) for loss in found)


@dataclass
class _Checker:
    """Runs sequences of calls on one package, which begins each of them with its first state, as
    eager did."""

    job: CheckJob
    model: Model
    reference_data: ReferenceData
    events: Events
    names: list[str]
    _package: Package | None = None

    def sequence(self, kept: Sequence[Case]) -> list[CallFigures]:
        """The figures of each call."""
        calls = [_with_inputs(case, self.model) for case in kept]
        missing = [_missing(case, self.names, self.job.tolerance) for case in calls]
        # What cannot be called cannot leave its state for the next.
        able = next(
            (number for number, case in enumerate(calls) if case.inputs is None), len(calls)
        )
        got, refused = self._observed([case.inputs or [] for case in calls[:able]])
        figures = []
        for number, case in enumerate(calls):
            why = missing[number] or (missing[able] if number > able else "")
            if why:
                figures.append(_figures(case, skipped=why))
            elif number < len(got):
                figures.append(self._compared(case, got[number]))
            else:
                figures.append(_figures(case, refused))
        return figures

    def _compared(self, case: Case, got: list[Any]) -> CallFigures:
        """Buffers that could not be read back show in later calls; if nothing else was compared,
        the case counts as skipped."""
        found = verdicts(case, got, self.job.signature, self.job.tolerance)
        left = zip(self.names, case.outputs or (), got, strict=False)
        unread = [name for name, wanted, value in left if wanted is not None and value is None]
        if found or not unread:
            return _figures(case, found, unread=unread)
        why = f"{', '.join(unread)} cannot be read back, and the call leaves nothing else"
        return _figures(case, skipped=why)

    def _observed(self, inputs: list[list[Any]]) -> tuple[list[list[Any]], list[OutputFigures]]:
        """What the package left after each call, and what to say of those that it refused."""
        if not inputs:
            return [], []
        if self._package is None:
            with self.events.phase("load"):
                self._package = open_package(self.job, self.reference_data.state)
        with self.events.phase("check"):
            try:
                left = self._package.calls(inputs)
                return [as_returned(one, self.job.signature) for one in left], []
            except RuntimeError as error:
                why = f"the package refused inputs of its range: {gist(error)}"
                return [], [OutputFigures(name="(call)", ok=False, why=why)]


def gist(error: RuntimeError) -> str:
    """The sentence of AOTInductor's error, without the C++ trace."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in lines if "input_handles" in line), lines[0] if lines else "")[
        :300
    ]


def verdicts(
    case: Case, got: list[Any], signature: Signature, tolerance: Tolerance
) -> list[OutputFigures]:
    """`compare` over all that a call left; a missing or surplus output is a failed verdict of its
    own.

    None among `got` is what cannot be read back, such as a buffer that the package does not name:
    it shows in later calls.
    """
    expected, names = case.outputs or [], observed_names(signature)
    if len(got) != len(expected):
        beside = sum(name.startswith(("input ", "buffer ")) for name in names)
        why = f"{len(got) - beside} outputs, expected {len(expected) - beside}"
        return [OutputFigures(name="outputs", ok=False, why=why)]
    return [
        _compared(name, reference, candidate, tolerance, *bases)
        for name, reference, candidate, *bases in zip(
            names, expected, got, *_bases(case, signature), strict=True
        )
        if reference is not None
        and not (candidate is None and name.startswith("buffer "))
        and not (isinstance(reference, Plain) and reference == candidate)  # which shows nothing
    ]


def _compared(
    name: str,
    reference: Value,
    candidate: Any,
    tolerance: Tolerance,
    exact: Any,
    rounded_rmse: float | None,
    computed: str | None,
) -> OutputFigures:
    assert reference is not None
    bases = exact, rounded_rmse, computed
    if isinstance(reference, Plain):
        found = compare_plain(name, reference, candidate)
    elif isinstance(reference, Sketch):
        found = compare_sketch(name, reference, candidate, tolerance, *bases)
    else:
        found = compare(name, reference, candidate, tolerance, *bases)
    return typed(found, OutputFigures)


def _bases(case: Case, signature: Signature) -> tuple[list[Any], list[Any], list[Any]]:
    """What `compare` takes beside eager's outputs, by output: the float64 references, how far other
    roundings are from them, and the types that outputs are computed in."""
    computed = computed_of(signature)
    nothing = [None] * len(computed)
    return case.exact or nothing, case.rounded_rmse or nothing, computed


def _vacuous(
    reference_data: ReferenceData, signature: Signature, tolerance: Tolerance, device: str
) -> tuple[Vacuous, ...]:
    """Outputs that would pass with other inputs, or other weights: their comparison shows
    nothing."""
    first, names = reference_data.cases[0], observed_names(signature)
    found: dict[str, str] = {}
    if first.outputs is None or len(first.outputs) != len(names):
        return ()  # the package has other outputs, which fails anyway
    for of, others in reference_data.others.items():
        for name, mine, other, *bases in zip(
            names, first.outputs, others, *_bases(first, signature), strict=True
        ):
            if not isinstance(other, Tensor | Sketch) or mine is None or name in found:
                continue
            # On the device, which may have bounds of its own.
            moved = other if isinstance(other, Sketch) else other.to(device)
            if _compared(name, mine, moved, tolerance, *bases).ok:
                found[name] = of
    return tuple(typed({"output": name, "of": of}, Vacuous) for name, of in found.items())


def _with_inputs(case: Case, model: Model) -> Case:
    """The case with inputs drawn again from the seed, where the reference data had no room for
    them."""
    if case.inputs is not None or isinstance(model.inputs, Source):
        return case
    inputs = from_shapes(model.inputs)(case.sizes, case.seed).tensors()
    # Another release of torch may draw other numbers, and models.yaml may have changed.
    return replace(case, inputs=inputs) if inputs_digest(inputs) == case.inputs_digest else case


def _missing(case: Case, names: Sequence[str], tolerance: Tolerance) -> str:
    """Why a case cannot be compared; empty if it can."""
    sides = {"inputs": case.inputs, "outputs": case.outputs}
    absent = [name for name, there in sides.items() if there is None]
    # models.yaml may have got another tolerance since the file was written.
    for name, value in zip(names, case.outputs or (), strict=False):
        if isinstance(value, Sketch) and needs_every_value(name, tolerance):
            absent.append(f"whole output {name}, which its tolerance needs")
    if not absent:
        return ""
    return (
        f"the reference data had no room for its {' and '.join(absent)}; --fresh makes them from"
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
