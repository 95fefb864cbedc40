"""Compares an output of a candidate with eager mode: statistics and a verdict.

The reference is eager mode in the dtype of the target and, where the model can run so, eager mode
in float64 on the same inputs. An output passes if one of two rules holds (`bounds.py`):

- every value is within a few roundings of eager's;
- the output is about as near to float64 as eager's is.

An output may be computed in a narrower type than its own (`program/precision.py`). The first rule
still uses the bounds of its own type. The second rule measures what the narrower type costs, so it
decides.

Without a float64 reference, the first rule uses wider bounds. Bounds in models.yaml replace both
rules. Integers and bools must be equal, unless models.yaml declares an agreement or an IoU. NaN and
infinity must be where eager has them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from aoti_build._torch.checking.bounds import (
    ALLCLOSE,
    Float64Errors,
    Tolerance,
    ValueBounds,
    allowed_rmse,
    declared_bounds,
    dtype_name,
    is_bounded,
    output_tolerance,
    rounding_bounds,
    rounding_note,
    tf32_is_allowed,
    value_bounds,
)
from aoti_build._torch.checking.classes import agreement, mean_iou
from aoti_build._torch.checking.difference import Difference, largest, rms_of
from aoti_build.common.json_object import JsonObject

# The fields of `aoti_build.figures.OutputFigures` that apply, as JSON values.
Figures: TypeAlias = JsonObject

# Rules of models.yaml that compare classes, and need every value of the output.
_CLASS_RULES: Mapping[str, Callable[[Tensor, Tensor], float]] = {
    "agreement": agreement,
    "iou": mean_iou,
}
# Between two runs of the same operators, this many times the usual roundings.
_NEARLY_FACTOR = 4


def compare(
    name: str,
    eager: Tensor,
    candidate: Any,
    tolerance: Tolerance,
    exact: Tensor | None = None,
    rounded_rmse: float | None = None,
    computed: str | None = None,
) -> Figures:
    """Statistics of one output as JSON values, with `ok`, `by` (the rule that decided) and, if not
    ok, `why`.

    `tolerance` is that of models.yaml. `exact` is the float64 reference, of the shape of the
    output. `rounded_rmse` is the RMSE to `exact`, in the unit of the output, of the model with
    other roundings: in TF32 where that is allowed, or with quantised values on the next step.
    `computed` is the narrower type in which the output is computed, if there is one.
    """
    figures = kind_figures(name, eager.dtype, eager.shape, candidate)
    if "why" in figures:
        return figures
    tf32 = tf32_is_allowed(candidate)
    eager = eager.cpu()
    candidate = candidate.cpu()
    declared_rules = output_tolerance(name, tolerance)
    for rule, measure in _CLASS_RULES.items():
        least = declared_rules.get(rule)
        if least is not None:
            return figures | _class_figures(rule, measure(eager, candidate), least)
    if not is_bounded(eager.dtype):
        return figures | _equality_figures(eager, candidate)
    difference = Difference.between(eager, candidate)
    rms = rms_of(difference.magnitude)
    bounds = value_bounds(
        eager.dtype,
        computed,
        rms,
        declared_bounds(name, tolerance),
        has_float64=exact is not None,
        tf32=tf32,
    )
    figures |= _floating_figures(difference, bounds, rms)
    errors = None
    if exact is not None and bounds.rule == ALLCLOSE:
        errors = _float64_errors(
            difference,
            exact,
            eager.dtype,
            rounded_rmse,
            computed,
        )
    return with_precision_rules(
        figures,
        errors,
        eager.dtype,
        computed,
        same_nonfinite=not difference.misplaced.any(),
    )


def kind_figures(
    name: str,
    dtype: torch.dtype,
    shape: Sequence[int],
    candidate: Any,
) -> Figures:
    """Name, dtype and shape. `why` is set if the candidate is not a tensor, or has another dtype or
    shape."""
    if not hasattr(candidate, "dtype"):
        why = f"not a tensor but {type(candidate).__name__}"
        return {"name": name, "ok": False, "why": why}
    figures: Figures = {
        "name": name,
        "dtype": dtype_name(dtype),
        "shape": list(shape),
    }
    if tuple(candidate.shape) != tuple(shape):
        why = f"shape {list(candidate.shape)}, expected {list(shape)}"
        return figures | {"ok": False, "why": why}
    if candidate.dtype != dtype:
        why = f"dtype {dtype_name(candidate.dtype)}, expected {dtype_name(dtype)}"
        return figures | {"ok": False, "why": why}
    return figures


def needs_every_value(name: str, tolerance: Tolerance) -> bool:
    """Whether models.yaml has a rule for the output that a sketch cannot decide."""
    declared_rules = output_tolerance(name, tolerance)
    return any(declared_rules.get(rule) is not None for rule in _CLASS_RULES)


def nearly(name: str, eager: Tensor, candidate: Tensor) -> Figures:
    """`compare` by a few roundings alone, for the same operators run twice."""
    relative = rounding_bounds(eager.dtype)
    rms = 0.0
    if eager.is_floating_point():
        finite = eager[torch.isfinite(eager)]
        rms = rms_of(finite.to(torch.float64))
    tolerance = {
        "rtol": _NEARLY_FACTOR * relative.rtol,
        "atol": _NEARLY_FACTOR * relative.rms_part * rms,
    }
    return compare(name, eager, candidate, tolerance)


def _class_figures(rule: str, actual: float, least: float) -> Figures:
    """The verdict of a class rule: `actual` must be at least `least`, both from 0 to 1."""
    figures: Figures = {
        "ok": actual >= least,
        "by": rule,
        rule: actual,
    }
    if not figures["ok"]:
        figures["why"] = f"{rule} {actual:.4g} is less than {least:.4g}"
    return figures


def _equality_figures(eager: Tensor, candidate: Tensor) -> Figures:
    """The verdict on integers, bools and 8-bit floats, which must be equal."""
    is_different = eager != candidate
    count = int(is_different.sum())
    figures: Figures = {
        "ok": count == 0,
        "by": "equal",
        "mismatched": count,
        "agreement": agreement(eager, candidate),
    }
    if count:
        first = is_different.nonzero()[0]
        index = tuple(first.tolist())
        figures["worst"] = {
            "index": list(index),
            "expected": int(eager[index]),
            "got": int(candidate[index]),
        }
        figures["why"] = f"{count} of {eager.numel()} values differ; they must be equal"
    return figures


def _floating_figures(
    difference: Difference,
    bounds: ValueBounds,
    rms: float,
) -> Figures:
    """The verdict of the bounds on each value, with statistics. `rms` is that of eager's finite
    values, in the unit of the output."""
    misplaced_count = int(difference.misplaced.sum())
    beyond_bounds = difference.error > bounds.limit(difference.magnitude)
    mismatched = int(beyond_bounds.sum()) + misplaced_count
    # The atol with which all finite values would pass at this rtol.
    needed_atol = largest(difference.error - bounds.rtol * difference.magnitude)
    figures: Figures = {
        "ok": mismatched == 0,
        "by": bounds.rule,
        "atol": bounds.atol,
        "rtol": bounds.rtol,
        "mismatched": mismatched,
        "reference_rms": rms,
        "needed_atol": needed_atol,
        **difference.statistics(rms),
    }
    worst = difference.worst()
    if worst is not None:
        figures["worst"] = worst
    if not mismatched:
        return figures
    count = difference.expected.numel()
    undefined = difference.undefined_count()
    if mismatched == undefined:
        # torch's fast paths for attention return NaN for a row in which everything is masked.
        # Other code does not.
        figures["eager_nan"] = undefined
        figures["why"] = (
            f"eager is NaN in {undefined} of {count} values where compiled code is finite, and all"
            " others agree: attention in eager mode returns NaN for a row that is masked completely"
        )
        return figures
    figures["why"] = f"{mismatched} of {count} values differ by more than {bounds}"
    if misplaced_count:
        figures["why"] += f", {misplaced_count} of them NaN or infinity in one only"
    return figures


def _float64_errors(
    difference: Difference,
    exact: Tensor,
    dtype: torch.dtype,
    rounded_rmse: float | None,
    computed: str | None,
) -> Float64Errors:
    """How far the candidate and eager are from float64, and how far the candidate may be."""
    distances = difference.distances_to(exact)
    allowed = allowed_rmse(
        dtype,
        computed,
        count=difference.expected.numel(),
        rms=distances.rms,
        eager_rmse=distances.eager_rmse,
        rounded_rmse=rounded_rmse,
    )
    return Float64Errors(
        candidate=distances.candidate_rmse,
        eager=distances.eager_rmse,
        rounded=rounded_rmse,
        allowed=allowed,
    )


def with_precision_rules(
    figures: Figures,
    errors: Float64Errors | None,
    dtype: torch.dtype,
    computed: str | None,
    *,
    same_nonfinite: bool,
) -> Figures:
    """The figures after the rules that every comparison ends with.

    If the bounds refused the output, the float64 rule decides by its `errors`. Then the type in
    which the output is computed is added. `same_nonfinite` says that NaN and infinity are where
    eager mode has them. Without that, no rule can accept the output.
    """
    if errors is not None:
        figures = {**figures, "fp64": errors.as_json()}
        if not figures["ok"] and same_nonfinite:
            figures = _with_float64_verdict(figures, errors)
    return _with_precision(figures, dtype, computed, same_nonfinite=same_nonfinite)


def _with_float64_verdict(figures: Figures, errors: Float64Errors) -> Figures:
    """The figures of an output that its bounds refused, with the verdict of the float64 rule."""
    why = figures["why"]
    decided = {**figures, "by": "fp64", "ok": errors.ok}
    if errors.ok:
        del decided["why"]
    else:
        decided["why"] = f"{why}, and {errors}"
    return decided


def _with_precision(
    figures: Figures,
    dtype: torch.dtype,
    computed: str | None,
    *,
    same_nonfinite: bool,
) -> Figures:
    """The figures with the type in which the output is computed. If the output failed by no more
    than roundings to a half type, `why` names the option that avoids them. `same_nonfinite`: NaN
    and infinity are where eager has them."""
    if computed is not None:
        figures = {**figures, "computed_in": computed}
    if figures["ok"] or not same_nonfinite:
        return figures
    note = rounding_note(
        dtype,
        computed,
        rmse=figures["rmse"],
        reference_rms=figures["reference_rms"],
    )
    if note is None:
        return figures
    return {**figures, "why": f"{figures['why']}; {note}"}
