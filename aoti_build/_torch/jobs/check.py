"""The `check` job: load a package in this fresh process, run every golden case, compare with what
eager left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from aoti_build._torch.checking.baseline import judged
from aoti_build._torch.checking.compare import Figures, compare, needs_whole
from aoti_build._torch.checking.compare_sketch import compare_sketch
from aoti_build._torch.checking.golden import Case, Golden, Plain, Value, inputs_digest, load_golden
from aoti_build._torch.checking.returned import as_returned, compare_plain
from aoti_build._torch.checking.sketch import Sketch
from aoti_build._torch.compiling.settings import set_precision
from aoti_build._torch.events import Events
from aoti_build._torch.packages.runner import Package, RunnerLacks, open_package
from aoti_build._torch.program.inputs import from_shapes
from aoti_build._torch.program.writes import computed_of, observed_names
from aoti_build.models_file.project import Model, Source
from aoti_build.models_file.records import target_from_json


def check(job: Mapping[str, Any], events: Events) -> dict[str, Any]:
    """Job: model, golden (paths), target, tolerance, signature, runner (path, or null). Returns
    passed, cases, vacuous, baseline (if there is one), seconds.

    Where the package cannot be run from C++ at all, `unavailable` with the reason is all there is.

    A case for which the golden file had no room is `skipped`, with the reason, and so is one of
    which nothing could be compared; if that is every case, nothing passed. `unread` are the buffers
    that could not be read back after a call.
    """
    target = target_from_json(job["target"])
    set_precision(target)
    golden = load_golden(Path(job["golden"]))
    checker = _Checker(job, target.model, golden, events, observed_names(job["signature"]))
    try:
        checked = [figures for calls in golden.sequences() for figures in checker.sequence(calls)]
    except RunnerLacks as error:
        return {"unavailable": error.message}
    outputs = [output for verdict in checked for output in verdict["outputs"]]
    lost = judged(golden.baseline, job["tolerance"].get("baseline"))
    return {
        "passed": bool(outputs) and all(found["ok"] for found in [*outputs, *(lost or [])]),
        "cases": checked,
        "no_fp64": golden.no_exact,
        "vacuous": _vacuous(golden, job["signature"], job["tolerance"], target.device),
        **({} if lost is None else {"baseline": lost}),
        "seconds": events.seconds,
    }


@dataclass
class _Checker:
    """Runs sequences of calls on one package, which begins each of them with its first state, as
    eager did."""

    job: Mapping[str, Any]
    model: Model
    golden: Golden
    events: Events
    names: list[str]
    _package: Package | None = None

    def sequence(self, kept: Sequence[Case]) -> list[dict[str, Any]]:
        """The figures of each call."""
        calls = [_with_inputs(case, self.model) for case in kept]
        missing = [_missing(case, self.names, self.job["tolerance"]) for case in calls]
        # What cannot be called cannot leave its state for the next.
        able = next(
            (number for number, case in enumerate(calls) if case.inputs is None), len(calls)
        )
        got, refused = self._observed([case.inputs or [] for case in calls[:able]])
        figures = []
        for number, case in enumerate(calls):
            why = missing[number] or (missing[able] if number > able else "")
            if why:
                figures.append({**_head(case), "skipped": why, "outputs": []})
            elif number < len(got):
                found = verdicts(case, got[number], self.job["signature"], self.job["tolerance"])
                figures.append(
                    {**_head(case), **self._unread(case, got[number], found), "outputs": found}
                )
            else:
                figures.append({**_head(case), "outputs": [refused]})
        return figures

    def _unread(self, case: Case, got: list[Any], found: list[Figures]) -> dict[str, Any]:
        """What to say of buffers that could not be read back after a call. They show in later
        calls; if nothing else was compared, the case counts as skipped."""
        left = zip(self.names, case.outputs or (), got, strict=False)
        unread = [name for name, wanted, value in left if wanted is not None and value is None]
        if not unread:
            return {}
        if found:
            return {"unread": unread}
        return {
            "skipped": f"{', '.join(unread)} cannot be read back, and the call leaves nothing else"
        }

    def _observed(self, inputs: list[list[Any]]) -> tuple[list[list[Any]], Figures]:
        """What the package left after each call, and what to say of those that it refused."""
        if not inputs:
            return [], {}
        if self._package is None:
            with self.events.phase("load"):
                self._package = open_package(self.job, self.golden.state)
        with self.events.phase("check"):
            try:
                left = self._package.calls(inputs)
                return [as_returned(one, self.job["signature"]) for one in left], {}
            except RuntimeError as error:
                why = f"the package refused inputs of its range: {gist(error)}"
                return [], {"name": "(call)", "ok": False, "why": why}


def gist(error: RuntimeError) -> str:
    """The sentence of AOTInductor's error, without the C++ trace."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in lines if "input_handles" in line), lines[0] if lines else "")[
        :300
    ]


def verdicts(
    case: Case, got: list[Any], signature: Mapping[str, Any], tolerance: Mapping[str, Any]
) -> list[Figures]:
    """`compare` over all that a call left; a missing or surplus output is a failed verdict of its
    own.

    None among `got` is what cannot be read back, such as a buffer that the package does not name:
    it shows in later calls.
    """
    expected, names = case.outputs or [], observed_names(signature)
    if len(got) != len(expected):
        beside = sum(name.startswith(("input ", "buffer ")) for name in names)
        why = f"{len(got) - beside} outputs, expected {len(expected) - beside}"
        return [{"name": "outputs", "ok": False, "why": why}]
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
    tolerance: Mapping[str, Any],
    exact: Any,
    rounded_rmse: float | None,
    computed: str | None,
) -> Figures:
    if isinstance(reference, Plain):
        return compare_plain(name, reference, candidate)
    if isinstance(reference, Sketch):
        return compare_sketch(name, reference, candidate, tolerance, exact, rounded_rmse, computed)
    assert reference is not None
    return compare(name, reference, candidate, tolerance, exact, rounded_rmse, computed)


def _bases(case: Case, signature: Mapping[str, Any]) -> tuple[list[Any], list[Any], list[Any]]:
    """What `compare` takes beside eager's outputs, by output: the float64 references, how far other
    roundings are from them, and the types that outputs are computed in."""
    computed = computed_of(signature)
    nothing = [None] * len(computed)
    return case.exact or nothing, case.rounded_rmse or nothing, computed


def _vacuous(
    golden: Golden, signature: Mapping[str, Any], tolerance: Mapping[str, Any], device: str
) -> list[dict[str, str]]:
    """Outputs that would pass with other inputs, or other weights: their comparison shows
    nothing."""
    first, names = golden.cases[0], observed_names(signature)
    found: dict[str, str] = {}
    if first.outputs is None or len(first.outputs) != len(names):
        return []  # the package has other outputs, which fails anyway
    for of, others in golden.others.items():
        for name, mine, other, *bases in zip(
            names, first.outputs, others, *_bases(first, signature), strict=True
        ):
            if not isinstance(other, Tensor | Sketch) or mine is None or name in found:
                continue
            # On the device, which may have bounds of its own.
            moved = other if isinstance(other, Sketch) else other.to(device)
            if _compared(name, mine, moved, tolerance, *bases)["ok"]:
                found[name] = of
    return [{"output": name, "of": of} for name, of in found.items()]


def _with_inputs(case: Case, model: Model) -> Case:
    """The case with inputs drawn again from the seed, where the golden file had no room for
    them."""
    if case.inputs is not None or isinstance(model.inputs, Source):
        return case
    inputs = from_shapes(model.inputs)(case.sizes, case.seed).tensors()
    # Another release of torch may draw other numbers, and models.yaml may have changed.
    return replace(case, inputs=inputs) if inputs_digest(inputs) == case.inputs_digest else case


def _missing(case: Case, names: Sequence[str], tolerance: Mapping[str, Any]) -> str:
    """Why a case cannot be compared; empty if it can."""
    sides = {"inputs": case.inputs, "outputs": case.outputs}
    absent = [name for name, there in sides.items() if there is None]
    # models.yaml may have got another tolerance since the file was written.
    for name, value in zip(names, case.outputs or (), strict=False):
        if isinstance(value, Sketch) and needs_whole(name, tolerance):
            absent.append(f"whole output {name}, which its tolerance needs")
    if not absent:
        return ""
    return (
        f"the golden file had no room for its {' and '.join(absent)}; --fresh makes them from the"
        " source, and a larger `golden: {limit: ...}` keeps them"
    )


def _head(case: Case) -> dict[str, Any]:
    call = {"call": case.call + 1} if case.call else {}
    return {"name": case.name, "sizes": dict(case.sizes), "seed": case.seed, **call}
