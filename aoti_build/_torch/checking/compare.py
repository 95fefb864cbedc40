"""Is the candidate what the reference is? Statistics of one output, and the verdict.

The reference is eager in the target's own dtype and, where the model can run so, eager in float64
on the same inputs. An output passes if either holds:

- every value is within a few roundings of eager's: |candidate - eager| <= atol + rtol * |eager|,
  with atol relative to the root mean square (RMS) of eager's output, since networks put out values
  far below any fixed atol;
- it is about as near to float64 as eager is: RMSE(candidate, float64) <= m * RMSE(eager, float64) +
  floor. m = 2, more for half types and for few values (the rule of torch._dynamo.utils.same). That
  is the measure of what reordering and other algorithms may cost: a wrong weight costs more. Where
  TF32 is allowed, eager counts as no nearer to float64 than the model in TF32 is (`tf32.py`), since
  eager and compiled code choose for themselves where they take it. Quantised models count as no
  nearer to float64 than with some values rounded to the next step (`widened.py`).

An output may be computed in a narrower type than its own (`precision.py`). The bounds of the first
rule are those of its own type all the same; the second, which measures what computing so narrowly
costs, decides.

Without a float64 reference wider bounds stand in. What models.yaml says of an output, or of the
model, replaces all of this. Integers and bools must be equal unless models.yaml says otherwise. NaN
and infinity must be where eager has them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from aoti_build._torch.checking.tf32 import tf32_operands

Figures = dict[str, Any]
# dtype -> (rtol, atol in units of eager's RMS): a few of the dtype's own roundings.
_NEAR = {
    torch.float32: (1.3e-6, 1e-6),
    torch.complex64: (1.3e-6, 1e-6),
    torch.float16: (1e-3, 1e-3),
    torch.bfloat16: (8e-3, 8e-3),
}
# Where there is nothing better than eager to compare with: reassociation and other algorithms for a
# convolution, seen on torchvision's models, and still far below the effect of a wrong weight.
PLAIN = {
    torch.float64: (1e-9, 1e-9),
    torch.complex128: (1e-9, 1e-9),
    torch.float32: (1e-3, 1e-4),
    torch.complex64: (1e-3, 1e-4),
    torch.float16: (1e-2, 1e-2),
    torch.bfloat16: (5e-2, 5e-2),
}
# The same where operands may be rounded to TF32 (10 bits), as those of convolutions on CUDA may
# unless told otherwise. By a copy with rounded operands, outputs of torchvision's models are off by
# 1e-4 to 1.6e-3 of their RMS in the root mean square, and by 6e-3 at most.
_PLAIN_TF32 = (5e-3, 2e-3)
# Where values are rounded to 8-bit integers or floats, by which one step is 1/256 of the range.
_PLAIN_QUANTISED = (5e-2, 5e-2)
# Of the dtype's own rounding, in the root mean square: eager may be exact by luck, or by another
# order of adding up.
_FLOOR = 4
_AGAIN = 4
_HALF = (torch.float16, torch.bfloat16)
_HALF_NAMES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
_FINE = ("float64", "float32", "complex128", "complex64")
_MANY = 1000  # values, of which the root mean square is steady
_DECADES = range(-12, 2)


def compare(
    name: str,
    eager: Tensor,
    candidate: Any,
    tolerance: Mapping[str, Any],
    exact: Tensor | None = None,
    rounded_rmse: float | None = None,
    computed: str | None = None,
) -> Figures:
    """Statistics of one output as JSON values, with `ok`, `by` (the rule that decided) and, if not
    ok, `why`.

    `tolerance` holds atol and rtol (or None) and `outputs`, exceptions by name; `exact` is the
    float64 reference, and `rounded_rmse` how far the model is from it where it is rounded
    otherwise: in TF32 where that is allowed, to other steps where it quantises. `computed` is the
    narrower type that the output is computed in, if it is.
    """
    found = kind_figures(name, eager.dtype, eager.shape, candidate)
    if "why" in found:
        return found
    own = tolerance.get("outputs", {}).get(name, {})
    tf32 = tf32_is_allowed(candidate)
    eager, candidate = eager.cpu(), candidate.cpu()
    for rule, measure in (("agreement", _agreement), ("iou", _iou)):
        if own.get(rule) is not None:
            part = measure(eager, candidate)
            why = (
                {}
                if part >= own[rule]
                else {"why": f"{rule} {part:.4g} is less than {own[rule]:.4g}"}
            )
            return {**found, "ok": not why, "by": rule, rule: part, **why}
    if eager.dtype not in PLAIN:
        return {**found, **_equal(eager, candidate)}
    bounds = own_bounds(name, tolerance)
    figures = _floating(eager, candidate, exact, bounds, rounded_rmse, computed, tf32=tf32)
    return {**found, **with_precision(figures, eager.dtype, computed)}


def kind_figures(name: str, dtype: torch.dtype, shape: Sequence[int], candidate: Any) -> Figures:
    """Name, dtype and shape; with `why` where the candidate is no tensor, or one of another dtype
    or shape."""
    if not hasattr(candidate, "dtype"):
        return {"name": name, "ok": False, "why": f"no tensor but {type(candidate).__name__}"}
    found: Figures = {"name": name, "dtype": _spelt(dtype), "shape": list(shape)}
    if tuple(candidate.shape) != tuple(shape):
        why = f"shape {list(candidate.shape)}, expected {list(shape)}"
        return {**found, "ok": False, "why": why}
    if candidate.dtype != dtype:
        why = f"dtype {_spelt(candidate.dtype)}, expected {_spelt(dtype)}"
        return {**found, "ok": False, "why": why}
    return found


def own_bounds(name: str, tolerance: Mapping[str, Any]) -> Mapping[str, Any]:
    """The atol and rtol that models.yaml gives an output, or all of them; empty where it gives
    neither."""
    bounds = tolerance.get("outputs", {}).get(name, {}) or tolerance
    explicit = bounds.get("atol") is not None or bounds.get("rtol") is not None
    return bounds if explicit else {}


def needs_whole(name: str, tolerance: Mapping[str, Any]) -> bool:
    """Whether models.yaml has a rule for the output that a sketch cannot decide."""
    own = tolerance.get("outputs", {}).get(name, {})
    return any(own.get(rule) is not None for rule in ("agreement", "iou"))


def tf32_is_allowed(candidate: Tensor) -> bool:
    return candidate.dtype == torch.float32 and bool(tf32_operands(candidate.device.type))


def nearly(name: str, eager: Tensor, candidate: Tensor) -> Figures:
    """`compare` by a few roundings alone, for the same operators run twice."""
    rtol, part = _NEAR.get(eager.dtype, (1e-9, 1e-9))
    rms = _rms(eager[torch.isfinite(eager)].to(torch.float64)) if eager.is_floating_point() else 0.0
    return compare(name, eager, candidate, {"rtol": _AGAIN * rtol, "atol": _AGAIN * part * rms})


def _equal(eager: Tensor, candidate: Tensor) -> Figures:
    wrong = eager != candidate
    count = int(wrong.sum())
    figures: Figures = {
        "ok": count == 0,
        "by": "equal",
        "mismatched": count,
        "agreement": _agreement(eager, candidate),
    }
    if count:
        index = [int(place) for place in wrong.nonzero()[0]]
        worst = {
            "index": index,
            "expected": int(eager[tuple(index)]),
            "got": int(candidate[tuple(index)]),
        }
        figures |= {
            "worst": worst,
            "why": f"{count} of {eager.numel()} values differ; they must be equal",
        }
    return figures


def _floating(
    eager: Tensor,
    candidate: Tensor,
    exact: Tensor | None,
    bounds: Mapping[str, Any],
    rounded_rmse: float | None,
    computed: str | None,
    *,
    tf32: bool,
) -> Figures:
    wide = torch.complex128 if eager.is_complex() else torch.float64
    expected, got = eager.to(wide), candidate.to(wide)
    finite = torch.isfinite(expected) & torch.isfinite(got)
    misplaced = ~_same_nonfinite(expected, got)
    magnitude, error = expected[finite].abs(), (got[finite] - expected[finite]).abs()
    rms = _rms(magnitude)
    rtol, atol, rule = rule_of(eager.dtype, computed, rms, bounds, exact is not None, tf32=tf32)
    over = int((error > atol + rtol * magnitude).sum()) + int(misplaced.sum())
    figures = {
        "ok": over == 0,
        "by": rule,
        "atol": atol,
        "rtol": rtol,
        "mismatched": over,
        "reference_rms": rms,
        "needed_atol": _largest(error - rtol * magnitude),
        **_statistics(expected[finite], got[finite], error, magnitude, rms),
        **_worst(expected, got, misplaced),
    }
    if over:
        nonfinite = (
            f", {int(misplaced.sum())} of them NaN or infinity in one only"
            if misplaced.any()
            else ""
        )
        bound = f"atol {atol:.3g}, rtol {rtol:.3g}"
        figures["why"] = f"{over} of {eager.numel()} values differ by more than {bound}{nonfinite}"
    undefined = int((torch.isnan(expected) & torch.isfinite(got)).sum())
    if over and over == undefined:
        # torch's fast paths for attention make NaN of a row in which everything is masked; other
        # code does not.
        figures["eager_nan"] = undefined
        figures["why"] = (
            f"eager is NaN in {undefined} of {eager.numel()} values where compiled code is finite,"
            " and all others agree: eager's attention gives NaN for a row that a mask leaves"
            " nothing of"
        )
    if exact is not None and rule == "allclose":
        figures["fp64"] = _to_exact(
            expected, got, exact.cpu().to(wide), eager.dtype, computed, rounded_rmse
        )
        if over and not misplaced.any():
            return by_exact(figures)
    return figures


def _to_exact(
    expected: Tensor,
    got: Tensor,
    exact: Tensor,
    dtype: torch.dtype,
    computed: str | None,
    rounded_rmse: float | None,
) -> Figures:
    """How far eager and the candidate are from float64, and how far the candidate may be."""
    finite = torch.isfinite(exact) & torch.isfinite(expected) & torch.isfinite(got)
    candidate_rmse, eager_rmse = (
        _rms(got[finite] - exact[finite]),
        _rms(expected[finite] - exact[finite]),
    )
    allowed = allowed_rmse(
        dtype, computed, expected.numel(), eager_rmse, rounded_rmse, _rms(exact[finite])
    )
    return {"candidate_rmse": candidate_rmse, **allowed}


def allowed_rmse(
    dtype: torch.dtype,
    computed: str | None,
    count: int,
    eager_rmse: float,
    rounded_rmse: float | None,
    rms: float,
) -> Figures:
    """The RMSE to float64 that is allowed, and what it follows from; `rms` is of the float64
    reference."""
    floor = _FLOOR * torch.finfo(dtype).eps * rms
    if computed in _HALF_NAMES and count < _MANY:
        # Few values may be exact in eager by luck; where there are many, eager's error says what
        # the type costs.
        floor = max(floor, torch.finfo(_HALF_NAMES[computed]).eps / 2 * rms)
    allowed = _multiplier(dtype, computed, count) * max(eager_rmse, rounded_rmse or 0.0) + floor
    found = {"reference_rmse": eager_rmse, "allowed": allowed}
    return found if rounded_rmse is None else {**found, "rounded_rmse": rounded_rmse}


def with_precision(figures: Figures, dtype: torch.dtype, computed: str | None) -> Figures:
    """The figures with the type that the output is computed in; of a failure that is no more than
    roundings to a half type between operators, with what makes compiled code round there."""
    if computed is not None:
        figures = {**figures, "computed_in": computed}
    half = _HALF_NAMES.get(computed or _spelt(dtype))
    if (
        figures["ok"]
        or half is None
        or figures["rmse"] > _FLOOR * torch.finfo(half).eps * figures["reference_rms"]
    ):
        return figures
    why = (
        f"; these are roundings to {_spelt(half)}, which eager makes after every operator, a"
        " compiled kernel at its end: inductor's `emulate_precision_casts: true` makes them as"
        " eager does"
    )
    return {**figures, "why": figures["why"] + why}


def by_exact(figures: Figures) -> Figures:
    """The figures with the verdict of the float64 rule, where the bounds did not hold."""
    fp64 = figures["fp64"]
    # Nothing finite to compare makes 0 of both.
    if 0 < fp64["allowed"] >= fp64["candidate_rmse"]:
        return {
            **{key: value for key, value in figures.items() if key != "why"},
            "by": "fp64",
            "ok": True,
        }
    eager = f"eager's is {fp64['reference_rmse']:.3g}"
    if "rounded_rmse" in fp64:
        eager += f", rounded otherwise {fp64['rounded_rmse']:.3g}"
    why = (
        f"its RMSE to float64 is {fp64['candidate_rmse']:.3g}: {eager}, {fp64['allowed']:.3g} is"
        " allowed"
    )
    return {**figures, "by": "fp64", "why": f"{figures['why']}, and {why}"}


def rule_of(
    dtype: torch.dtype,
    computed: str | None,
    rms: float,
    bounds: Mapping[str, Any],
    has_exact: bool,
    *,
    tf32: bool,
) -> tuple[float, float, str]:
    """rtol, atol and the name of the rule they belong to."""
    plain = _plain(dtype, computed, tf32=tf32)
    if bounds:
        rtol, atol = bounds.get("rtol"), bounds.get("atol")
        return (
            plain[0] if rtol is None else rtol,
            plain[1] * rms if atol is None else atol,
            "tolerance",
        )
    relative = _NEAR[dtype] if has_exact and dtype in _NEAR else plain
    return relative[0], relative[1] * rms, "allclose"


def _plain(dtype: torch.dtype, computed: str | None, *, tf32: bool) -> tuple[float, float]:
    """The wider bounds for an output of a dtype, by the narrower one that it is computed in."""
    own = _PLAIN_TF32 if tf32 else PLAIN[dtype]
    if computed is None:
        return own
    narrower = PLAIN.get(getattr(torch, computed), _PLAIN_QUANTISED)
    return max(own[0], narrower[0]), max(own[1], narrower[1])


def _multiplier(dtype: torch.dtype, computed: str | None, count: int) -> float:
    """How many times eager's own error is allowed; few values make an unsteady RMSE
    (torch._dynamo.utils.same)."""
    coarse = dtype in _HALF or (computed is not None and computed not in _FINE)
    if count <= 10:
        return 10.0
    if count <= 500:
        return 8.0
    if count < _MANY or coarse:
        return 3.0
    return 2.0


def _statistics(
    expected: Tensor, got: Tensor, error: Tensor, magnitude: Tensor, rms: float
) -> Figures:
    rmse, peak = _rms(error), _largest(magnitude)
    norms = float(expected.abs().square().sum().sqrt() * got.abs().square().sum().sqrt())
    product = float((expected.conj() * got).sum().real) if expected.numel() else 0.0
    return {
        "max_abs": _largest(error),
        "max_rel": (
            _finite_or_none(_largest(error / magnitude.clamp_min(rms * 1e-12))) if rms else 0.0
        ),
        "rmse": rmse,
        "cosine": min(1.0, product / norms) if norms else None,
        "snr_db": round(20 * math.log10(rms / rmse), 2) if rms and rmse else None,
        "psnr_db": round(20 * math.log10(peak / rmse), 2) if peak and rmse else None,
        "histogram": _histogram(error),
    }


def _histogram(error: Tensor) -> dict[str, Any]:
    """Counts of absolute errors by decade, from 10**decade to below the next; the ends hold what
    lies beyond."""
    positive = error[error > 0]
    decades = (
        positive.log10().floor().clamp(_DECADES[0], _DECADES[-1]).to(torch.int64) - _DECADES[0]
    )
    counts = torch.bincount(decades, minlength=len(_DECADES))
    return {
        "decades": list(_DECADES),
        "counts": counts.tolist(),
        "zero": error.numel() - positive.numel(),
    }


def _worst(expected: Tensor, got: Tensor, misplaced: Tensor) -> Figures:
    """Where the two are furthest apart; a misplaced NaN or infinity before any number. Empty if
    they are equal."""
    error = torch.where(
        misplaced, math.inf, torch.nan_to_num((got - expected).abs(), nan=0.0, posinf=0.0)
    )
    if not error.numel() or float(error.max()) == 0:
        return {}
    index = tuple(int(place) for place in torch.unravel_index(error.argmax(), error.shape))
    return {
        "worst": {
            "index": list(index),
            "expected": _shown(expected[index]),
            "got": _shown(got[index]),
        }
    }


def _shown(value: Tensor) -> float | str:
    """JSON has neither NaN and infinity nor complex numbers: those as text."""
    number = value.item()
    return float(number) if isinstance(number, float) and math.isfinite(number) else str(number)


def _agreement(eager: Tensor, candidate: Tensor) -> float:
    """The part of equal values; for floating point, of equal classes."""
    equal = _classes(eager) == _classes(candidate)
    return float(equal.to(torch.float64).mean()) if equal.numel() else 1.0


def _iou(eager: Tensor, candidate: Tensor) -> float:
    """Mean intersection over union of the classes that either has (Jaccard index)."""
    one, other = _classes(eager), _classes(candidate)
    found = []
    for label in torch.unique(torch.cat([one.reshape(-1), other.reshape(-1)])):
        both, either = (one == label) & (other == label), (one == label) | (other == label)
        found.append(float(both.sum()) / float(either.sum()))
    return sum(found) / len(found) if found else 1.0


def _classes(value: Tensor) -> Tensor:
    """The largest class of scores [N, C, ...]; other values as they are."""
    if not value.is_floating_point() or value.dim() < 1:
        return value
    if value.dtype.itemsize == 1:
        value = value.float()  # the 8-bit types have no argmax
    return value.argmax(dim=1 if value.dim() > 1 else 0)


def _same_nonfinite(expected: Tensor, got: Tensor) -> Tensor:
    """True where both are finite, both are NaN, or both the same infinity."""
    both_finite = torch.isfinite(expected) & torch.isfinite(got)
    return both_finite | (torch.isnan(expected) & torch.isnan(got)) | (expected == got)


def _rms(values: Tensor) -> float:
    return float(values.abs().square().mean().sqrt()) if values.numel() else 0.0


def _largest(values: Tensor) -> float:
    """The largest of the values, 0 if there is none or all are negative."""
    return max(0.0, float(values.max())) if values.numel() else 0.0


def _finite_or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None  # JSON has no infinity


def _spelt(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
