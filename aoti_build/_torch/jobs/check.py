"""The `check` job: load a package in this fresh process, run every golden case, compare with what eager gave."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from aoti_build._torch.checking.compare import Figures, compare
from aoti_build._torch.checking.golden import Case, Golden, inputs_digest, load_golden
from aoti_build._torch.compiling.settings import set_precision
from aoti_build._torch.events import Events
from aoti_build._torch.packages.runner import Package, open_package
from aoti_build._torch.program.inputs import from_shapes
from aoti_build.spec.project import Model, Source
from aoti_build.spec.records import target_from_json


def check(job: Mapping[str, Any], events: Events) -> dict[str, Any]:
    """Job: model, golden (paths), target, tolerance, outputs (names), runner (path, or null). Returns
    passed, cases, vacuous, seconds.

    A case for which the golden file had no room is `skipped`, with the reason; if that is every case, nothing passed.
    """
    target = target_from_json(job["target"])
    set_precision(target)
    golden = load_golden(Path(job["golden"]))
    checked = []
    for kept in golden.cases:
        case = _with_inputs(kept, target.model)
        if why := _missing(case):
            checked.append({**_head(case), "skipped": why, "outputs": []})
            continue
        # Loaded for each case: a model may keep state in its buffers, and eager began each case anew.
        with events.phase("load"):
            package = open_package(job, target)
        with events.phase("check"):
            outputs = _outputs(package, case, job)
            checked.append({**_head(case), "outputs": outputs})
    run = [verdict for verdict in checked if "skipped" not in verdict]
    return {
        "passed": bool(run) and all(output["ok"] for verdict in run for output in verdict["outputs"]),
        "cases": checked,
        "no_fp64": golden.no_exact,
        "vacuous": _vacuous(golden, job["outputs"], job["tolerance"], target.device),
        "seconds": events.seconds,
    }


def _outputs(package: Package, case: Case, job: Mapping[str, Any]) -> list[Figures]:
    try:
        got = package(case.inputs or [])
    except RuntimeError as error:
        return [{"name": "(call)", "ok": False, "why": f"the package refused inputs of its range: {gist(error)}"}]
    return verdicts(case, got, job["outputs"], job["tolerance"])


def gist(error: RuntimeError) -> str:
    """The sentence of AOTInductor's error, without the C++ trace."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in lines if "input_handles" in line), lines[0] if lines else "")[:300]


def verdicts(case: Case, got: list[Any], names: list[str], tolerance: Mapping[str, Any]) -> list[Figures]:
    """`compare` over a case's flattened outputs; a missing or surplus output is a failed verdict of its own."""
    expected = case.outputs or []
    if len(got) != len(expected):
        return [{"name": "outputs", "ok": False, "why": f"{len(got)} outputs, expected {len(expected)}"}]
    return [
        compare(name, reference, candidate, tolerance, *bases)
        for name, reference, candidate, *bases in zip(names, expected, got, *_bases(case, len(got)), strict=True)
        if reference is not None
    ]


def _bases(case: Case, count: int) -> tuple[list[Any], list[Any]]:
    """What `compare` takes beside eager's outputs, by output: the float64 references, and how far TF32 is from them."""
    return case.exact or [None] * count, case.tf32_rmse or [None] * count


def _vacuous(golden: Golden, names: list[str], tolerance: Mapping[str, Any], device: str) -> list[dict[str, str]]:
    """Outputs that would pass with other inputs, or other weights: their comparison shows nothing."""
    first = golden.cases[0]
    found: dict[str, str] = {}
    if first.outputs is None or len(first.outputs) != len(names):
        return []  # the package has other outputs, which fails anyway
    for of, others in golden.others.items():
        for name, mine, other, *bases in zip(names, first.outputs, others, *_bases(first, len(others)), strict=True):
            if mine is None or other is None or name in found:
                continue
            # On the device, which may have bounds of its own.
            if compare(name, mine, other.to(device), tolerance, *bases)["ok"]:
                found[name] = of
    return [{"output": name, "of": of} for name, of in found.items()]


def _with_inputs(case: Case, model: Model) -> Case:
    """The case with inputs drawn again from the seed, where the golden file had no room for them."""
    if case.inputs is not None or isinstance(model.inputs, Source):
        return case
    inputs = from_shapes(model.inputs)(case.sizes, case.seed).tensors()
    # Another release of torch may draw other numbers, and models.yaml may have changed.
    return replace(case, inputs=inputs) if inputs_digest(inputs) == case.inputs_digest else case


def _missing(case: Case) -> str:
    what = " and ".join(name for name, there in (("inputs", case.inputs), ("outputs", case.outputs)) if there is None)
    return f"the golden file had no room for its {what}; --fresh makes them from the source" if what else ""


def _head(case: Case) -> dict[str, Any]:
    return {"name": case.name, "sizes": dict(case.sizes), "seed": case.seed}
