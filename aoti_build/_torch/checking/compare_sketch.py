"""The verdict of `compare` for an output of which only a sketch was kept (`sketch.py`).

The rules are those of `compare`, over all values at once, over buckets of them, and over the sample
one by one: a value that is off by more than its bound, in the sample; a bucket that is further off
than such values explain; or an error whose root mean square is more than such bounds allow, over
all. Beside float64, the candidate's error is estimated from the sketches, and so is eager's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from aoti_build._torch.checking.compare import (
    PLAIN,
    Figures,
    allowed_rmse,
    by_exact,
    kind_figures,
    own_bounds,
    rule_of,
    tf32_is_allowed,
    with_precision,
)
from aoti_build._torch.checking.sketch import Sketch

# What an estimate from 2**13 buckets may be off by: six standard deviations.
_SLACK = 1.05


def compare_sketch(
    name: str,
    eager: Sketch,
    candidate: Any,
    tolerance: Mapping[str, Any],
    exact: Sketch | None = None,
    rounded_rmse: float | None = None,
    computed: str | None = None,
) -> Figures:
    """As `compare`, with sketches of eager's output and of the float64 reference."""
    found = kind_figures(name, eager.dtype, eager.shape, candidate)
    if "why" in found:
        return found
    got = candidate if isinstance(candidate, Sketch) else Sketch.of(candidate)
    found["sampled"] = eager.sample.numel()
    if eager.dtype not in PLAIN:
        same = got.digest == eager.digest
        verdict = {"ok": same, "by": "equal"}
        return (
            {**found, **verdict}
            if same
            else {**found, **verdict, "why": "values differ; they must be equal"}
        )
    bounds = own_bounds(name, tolerance)
    tf32 = isinstance(candidate, Tensor) and tf32_is_allowed(candidate)
    rtol, atol, rule = rule_of(
        eager.dtype, computed, eager.rms, bounds, exact is not None, tf32=tf32
    )
    found |= _figures(eager, got, rtol, atol, rule)
    if exact is not None and rule == "allclose":
        count = eager.sample.numel()
        allowed = allowed_rmse(
            eager.dtype, computed, count, eager.rmse(exact), rounded_rmse, exact.rms
        )
        found["fp64"] = {"candidate_rmse": got.rmse(exact) / _SLACK, **allowed}
        if not found["ok"] and got.nonfinite == eager.nonfinite:
            found = by_exact(found)
    return with_precision(found, eager.dtype, computed)


def _figures(eager: Sketch, got: Sketch, rtol: float, atol: float, rule: str) -> Figures:
    expected, sampled = eager.sample.to(torch.float64), got.sample.to(torch.float64)
    finite = torch.isfinite(expected) & torch.isfinite(sampled)
    error, magnitude = (sampled[finite] - expected[finite]).abs(), expected[finite].abs()
    over = int((error > atol + rtol * magnitude).sum())
    rmse, most = got.rmse(eager), (atol + rtol * eager.rms) * _SLACK
    figures: Figures = {
        "ok": True,
        "by": rule,
        "atol": atol,
        "rtol": rtol,
        "mismatched": over,
        "reference_rms": eager.rms,
        "rmse": rmse,
        "max_abs": _largest(error),
        "needed_atol": max(0.0, _largest(error - rtol * magnitude)),
    }
    if got.nonfinite != eager.nonfinite:
        return {**figures, "ok": False, "why": "NaN or infinity is not where eager has it"}
    if over:
        why = (
            f"{over} of {expected.numel()} sampled values differ by more than atol {atol:.3g}, rtol"
            f" {rtol:.3g}"
        )
        return {**figures, "ok": False, "why": why}
    far = eager.far(got, rtol, atol)
    if far:
        bound = f"atol {atol:.3g}, rtol {rtol:.3g}"
        why = f"{far} of {eager.buckets.numel()} sums of values differ by more than {bound} explain"
        return {**figures, "ok": False, "why": why}
    if rmse > most:
        why = (
            f"the RMSE over all values is {rmse:.3g}, and at most {most:.3g} within atol"
            f" {atol:.3g}, rtol {rtol:.3g}"
        )
        return {**figures, "ok": False, "why": why}
    return figures


def _largest(values: Tensor) -> float:
    return float(values.max()) if values.numel() else 0.0
