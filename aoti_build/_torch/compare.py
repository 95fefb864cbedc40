"""Is the candidate what the reference is? Per-output error statistics and the verdict.

The criterion is numpy's allclose, |candidate - reference| <= atol + rtol * |reference|. Where models.yaml does not
give a bound it is chosen from the dtype, and atol is relative to the reference's own root mean square: randomly
initialised networks often put out values far below any fixed atol, under which every artifact would pass. Integers and
bools must be equal. NaN and infinity must be where the reference has them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

# dtype -> (rtol, atol as a fraction of the reference's RMS): about 100 times the dtype's own rounding, which covers
# reassociation and other algorithms for a convolution, and stays far below the effect of a wrong weight.
_RELATIVE = {
    torch.float64: (1e-9, 1e-9),
    torch.complex128: (1e-9, 1e-9),
    torch.float32: (1e-3, 1e-4),
    torch.complex64: (1e-3, 1e-4),
    torch.float16: (1e-2, 1e-2),
    torch.bfloat16: (5e-2, 5e-2),
}
# On CUDA, cuDNN convolutions of float32 round their operands to TF32 (10 bits, torch.backends.cudnn.allow_tf32, on by
# default) in eager and in compiled code alike, each with its own algorithm: resnet18's outputs differ by up to 4e-4 of
# their RMS on an H100.
_RELATIVE_TF32 = (5e-3, 2e-3)


def compare(
    name: str, reference: torch.Tensor, candidate: Any, tolerance: Mapping[str, float | None]
) -> dict[str, Any]:
    """Statistics of one output as JSON, with `ok` and, where it is false, `why`. `tolerance` holds atol and rtol or
    None."""
    if not isinstance(candidate, torch.Tensor):
        return {"name": name, "ok": False, "why": f"no tensor but {type(candidate).__name__}"}
    found: dict[str, Any] = {
        "name": name,
        "dtype": str(reference.dtype).removeprefix("torch."),
        "shape": list(reference.shape),
    }
    if candidate.shape != reference.shape:
        return {**found, "ok": False, "why": f"shape {list(candidate.shape)}, expected {list(reference.shape)}"}
    if candidate.dtype != reference.dtype:
        return {**found, "ok": False, "why": f"dtype {candidate.dtype}, expected {reference.dtype}"}
    relative = _relative(candidate)
    reference, candidate = reference.cpu(), candidate.cpu()
    if relative is None:
        wrong = int((reference != candidate).sum())
        return {**found, "ok": wrong == 0, "mismatched": wrong, **_why(wrong, reference.numel(), "exact equality")}
    return {**found, **_floating(reference, candidate, relative, tolerance)}


def _floating(
    reference: torch.Tensor,
    candidate: torch.Tensor,
    relative: tuple[float, float],
    tolerance: Mapping[str, float | None],
) -> dict[str, Any]:
    wide = torch.complex128 if reference.is_complex() else torch.float64
    expected, got = reference.to(wide), candidate.to(wide)
    finite = torch.isfinite(expected) & torch.isfinite(got)
    misplaced = int((~_same_nonfinite(expected, got)).sum())
    magnitude = expected[finite].abs()
    rms = float(magnitude.square().mean().sqrt()) if magnitude.numel() else 0.0
    rtol, atol = _bounds(relative, rms, tolerance)
    error = (got[finite] - expected[finite]).abs()
    over = int((error > atol + rtol * magnitude).sum()) + misplaced
    return {
        "ok": over == 0,
        "atol": atol,
        "rtol": rtol,
        "max_abs": float(error.max()) if error.numel() else 0.0,
        "max_rel": _finite_or_none(float((error / magnitude.clamp_min(rms * 1e-12)).max()))
        if error.numel() and rms
        else 0.0,
        "rmse": float(error.square().mean().sqrt()) if error.numel() else 0.0,
        "reference_rms": rms,
        "mismatched": over,
        **_why(over, reference.numel(), f"atol {atol:.3g}, rtol {rtol:.3g}", misplaced),
    }


def _relative(candidate: torch.Tensor) -> tuple[float, float] | None:
    """(rtol, atol in units of the reference's RMS) for the candidate's dtype and device; None for exact dtypes."""
    if candidate.dtype == torch.float32 and candidate.is_cuda and torch.backends.cudnn.allow_tf32:
        return _RELATIVE_TF32
    return _RELATIVE.get(candidate.dtype)


def _bounds(relative: tuple[float, float], rms: float, tolerance: Mapping[str, float | None]) -> tuple[float, float]:
    rtol, atol = tolerance.get("rtol"), tolerance.get("atol")
    return relative[0] if rtol is None else rtol, relative[1] * rms if atol is None else atol


def _same_nonfinite(expected: torch.Tensor, got: torch.Tensor) -> torch.Tensor:
    """True where both are finite, both are NaN, or both the same infinity."""
    both_finite = torch.isfinite(expected) & torch.isfinite(got)
    return both_finite | (torch.isnan(expected) & torch.isnan(got)) | (expected == got)


def _why(over: int, total: int, bound: str, misplaced: int = 0) -> dict[str, str]:
    if not over:
        return {}
    nonfinite = f", {misplaced} of them NaN or infinity in one only" if misplaced else ""
    return {"why": f"{over} of {total} values differ by more than {bound}{nonfinite}"}


def _finite_or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None  # JSON has no infinity
