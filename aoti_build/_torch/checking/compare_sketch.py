"""The verdict of `compare` for an output of which the reference data has only a sketch.

The rules are those of `compare`. The bounds on each value are applied three times: to the sample,
value by value; to buckets, which may be off by what such values explain; and to the RMSE over all
values. The errors to float64 are estimated from the sketches.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from aoti_build._torch.checking.bounds import (
    ALLCLOSE,
    Float64Errors,
    Tolerance,
    ValueBounds,
    allowed_rmse,
    declared_bounds,
    is_bounded,
    tf32_is_allowed,
    value_bounds,
)
from aoti_build._torch.checking.compare import (
    Figures,
    kind_figures,
    with_precision_rules,
)
from aoti_build._torch.checking.difference import largest
from aoti_build._torch.checking.sketch import Sketch

# An estimate from 2**13 buckets may be off by this factor: six standard deviations.
_ESTIMATE_SLACK = 1.05


def compare_sketch(
    name: str,
    eager: Sketch,
    candidate: Any,
    tolerance: Tolerance,
    exact: Sketch | None = None,
    rounded_rmse: float | None = None,
    computed: str | None = None,
) -> Figures:
    """As `compare`, with sketches of eager's output and of the float64 reference."""
    figures = kind_figures(name, eager.dtype, eager.shape, candidate)
    if "why" in figures:
        return figures
    sketch = candidate
    if not isinstance(candidate, Sketch):
        sketch = Sketch.of(candidate)
    figures["sampled"] = eager.sample.numel()
    if not is_bounded(eager.dtype):
        figures |= {"ok": sketch.digest == eager.digest, "by": "equal"}
        if not figures["ok"]:
            figures["why"] = "values differ; they must be equal"
        return figures
    bounds = value_bounds(
        eager.dtype,
        computed,
        eager.rms,
        declared_bounds(name, tolerance),
        has_float64=exact is not None,
        tf32=isinstance(candidate, Tensor) and tf32_is_allowed(candidate),
    )
    figures |= _floating_figures(eager, sketch, bounds)
    errors = None
    if exact is not None and bounds.rule == ALLCLOSE:
        errors = _float64_errors(
            eager,
            sketch,
            exact,
            rounded_rmse,
            computed,
        )
    return with_precision_rules(
        figures,
        errors,
        eager.dtype,
        computed,
        same_nonfinite=sketch.nonfinite == eager.nonfinite,
    )


def _float64_errors(
    eager: Sketch,
    candidate: Sketch,
    exact: Sketch,
    rounded_rmse: float | None,
    computed: str | None,
) -> Float64Errors:
    """How far the candidate and eager are from float64, and how far the candidate may be."""
    eager_rmse = eager.rmse(exact)
    allowed = allowed_rmse(
        eager.dtype,
        computed,
        count=eager.sample.numel(),
        rms=exact.rms,
        eager_rmse=eager_rmse,
        rounded_rmse=rounded_rmse,
    )
    return Float64Errors(
        candidate=candidate.rmse(exact) / _ESTIMATE_SLACK,
        eager=eager_rmse,
        rounded=rounded_rmse,
        allowed=allowed,
    )


def _floating_figures(eager: Sketch, candidate: Sketch, bounds: ValueBounds) -> Figures:
    """The verdict of the bounds on each value, with statistics of the sample."""
    expected = eager.sample.to(torch.float64)
    actual = candidate.sample.to(torch.float64)
    finite = torch.isfinite(expected) & torch.isfinite(actual)
    error = (actual[finite] - expected[finite]).abs()
    magnitude = expected[finite].abs()
    mismatched = int((error > bounds.limit(magnitude)).sum())
    rmse = candidate.rmse(eager)
    figures: Figures = {
        "ok": True,
        "by": bounds.rule,
        "atol": bounds.atol,
        "rtol": bounds.rtol,
        "mismatched": mismatched,
        "reference_rms": eager.rms,
        "rmse": rmse,
        "max_abs": largest(error),
        "needed_atol": largest(error - bounds.rtol * magnitude),
    }
    why = _failure(eager, candidate, bounds, mismatched, rmse)
    if why is not None:
        figures |= {"ok": False, "why": why}
    return figures


def _failure(
    eager: Sketch,
    candidate: Sketch,
    bounds: ValueBounds,
    mismatched: int,
    rmse: float,
) -> str | None:
    """Why the candidate cannot be within the bounds at every value. None if it may be."""
    if candidate.nonfinite != eager.nonfinite:
        return "NaN or infinity is not where eager has it"
    if mismatched:
        count = eager.sample.numel()
        return f"{mismatched} of {count} sampled values differ by more than {bounds}"
    far = eager.count_far_buckets(candidate, bounds.rtol, bounds.atol)
    if far:
        count = eager.buckets.numel()
        return f"{far} of {count} sums of values differ by more than {bounds} can explain"
    # Minkowski: the RMSE of errors within atol + rtol * |value| is at most atol + rtol * RMS.
    most = (bounds.atol + bounds.rtol * eager.rms) * _ESTIMATE_SLACK
    if rmse > most:
        return f"the RMSE over all values is {rmse:.3g}; within {bounds} it is at most {most:.3g}"
    return None
