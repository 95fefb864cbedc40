"""The `check` job: load a package in this fresh process, run every golden case, compare with what eager gave."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from aoti_build._torch.compare import compare
from aoti_build._torch.events import Events
from aoti_build._torch.golden import Case, load_golden
from aoti_build._torch.loaded import LoadedPackage


def check(job: Mapping[str, Any], events: Events) -> dict[str, Any]:
    """Job: model, golden (paths), device, tolerance, outputs (names). Returns passed, cases, seconds."""
    cases = load_golden(Path(job["golden"]))
    checked = []
    for case in cases:
        # Loaded for each case: a model may keep state in its buffers, and eager began each case anew.
        with events.phase("load"):
            package = LoadedPackage(Path(job["model"]), job["device"])
        with events.phase("check"):
            checked.append(check_case(package, case, job["outputs"], job["tolerance"]))
    return {
        "passed": all(output["ok"] for verdict in checked for output in verdict["outputs"]),
        "cases": checked,
        "seconds": events.seconds,
    }


def check_case(
    package: LoadedPackage, case: Case, names: list[str], tolerance: Mapping[str, float | None]
) -> dict[str, Any]:
    """The verdict for each tensor output of one case."""
    got = package(case.inputs)
    return {"name": case.name, "outputs": verdicts(case.outputs, got, names, tolerance)}


def verdicts(
    expected: list[torch.Tensor | None], got: list[Any], names: list[str], tolerance: Mapping[str, float | None]
) -> list[dict[str, Any]]:
    """`compare` over flattened outputs; a missing or surplus output is a failed verdict of its own."""
    if len(got) != len(expected):
        return [{"name": "outputs", "ok": False, "why": f"{len(got)} outputs, expected {len(expected)}"}]
    return [
        compare(name, reference, candidate, tolerance)
        for name, reference, candidate in zip(names, expected, got, strict=True)
        if reference is not None
    ]
