"""Two tensors of one shape, how they differ, and statistics of that."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from aoti_build.common.json_object import JsonObject

# Histograms count errors from 10**-12 to 10**1.
_DECADES = range(-12, 2)


class Float64Distances(NamedTuple):
    """RMSEs of the candidate and of eager to the float64 reference, and the RMS of the reference,
    in the unit of the output."""

    candidate_rmse: float
    eager_rmse: float
    rms: float


@dataclass(frozen=True)
class Difference:
    """Eager's values and a candidate's, both in float64 or complex128.

    `expected` (eager), `actual` (the candidate) and the masks have the shape of the output.
    `finite` is True where both are finite. `misplaced` is True where NaN or an infinity is in one
    only. `error` (|actual - expected|) and `magnitude` (|expected|) hold the finite positions
    alone, in one dimension, in the unit of the output.
    """

    expected: Tensor
    actual: Tensor
    finite: Tensor
    misplaced: Tensor
    error: Tensor
    magnitude: Tensor

    @classmethod
    def between(cls, eager: Tensor, candidate: Tensor) -> Difference:
        wide = torch.complex128 if eager.is_complex() else torch.float64
        expected = eager.to(wide)
        actual = candidate.to(wide)
        finite = torch.isfinite(expected) & torch.isfinite(actual)
        both_nan = torch.isnan(expected) & torch.isnan(actual)
        same_infinity = expected == actual
        signed_error = actual[finite] - expected[finite]
        return cls(
            expected=expected,
            actual=actual,
            finite=finite,
            misplaced=~(finite | both_nan | same_infinity),
            error=signed_error.abs(),
            magnitude=expected[finite].abs(),
        )

    def undefined_count(self) -> int:
        """How many values are NaN in eager mode and finite in the candidate."""
        is_undefined = torch.isnan(self.expected) & torch.isfinite(self.actual)
        return int(is_undefined.sum())

    def distances_to(self, exact: Tensor) -> Float64Distances:
        """How far both are from `exact`, over the positions where all three are finite."""
        exact = exact.cpu().to(self.expected.dtype)
        finite = torch.isfinite(exact) & self.finite
        exact = exact[finite]
        return Float64Distances(
            candidate_rmse=rms_of(self.actual[finite] - exact),
            eager_rmse=rms_of(self.expected[finite] - exact),
            rms=rms_of(exact),
        )

    def statistics(self, rms: float) -> JsonObject:
        """The statistics of the finite positions that reports show. `rms` is that of eager."""
        rmse = rms_of(self.error)
        peak = largest(self.magnitude)
        expected = self.expected[self.finite]
        actual = self.actual[self.finite]
        return {
            "max_abs": largest(self.error),
            "max_rel": self._largest_relative_error(rms),
            "rmse": rmse,
            "cosine": _cosine(expected, actual),
            "snr_db": _decibels(rms, rmse),
            "psnr_db": _decibels(peak, rmse),
            "histogram": _histogram(self.error),
        }

    def _largest_relative_error(self, rms: float) -> float | None:
        """The largest |error| / |expected|. None if it is infinite, which JSON does not have."""
        if not rms:
            return 0.0
        # At values of 0 any error would be infinite.
        smallest_magnitude = rms * 1e-12
        magnitude = self.magnitude.clamp_min(smallest_magnitude)
        relative = largest(self.error / magnitude)
        if not math.isfinite(relative):
            return None
        return relative

    def worst(self) -> JsonObject | None:
        """The position at which the two are furthest apart, and both values. A misplaced NaN or
        infinity comes before any number. None if the two are equal."""
        error = (self.actual - self.expected).abs()
        error = torch.nan_to_num(error, nan=0.0, posinf=0.0)
        error = torch.where(self.misplaced, math.inf, error)
        if not error.numel() or float(error.max()) == 0:
            return None
        position = torch.unravel_index(error.argmax(), error.shape)
        index = tuple(int(coordinate) for coordinate in position)
        return {
            "index": list(index),
            "expected": _json_number(self.expected[index]),
            "got": _json_number(self.actual[index]),
        }


def rms_of(values: Tensor) -> float:
    """The root mean square. 0 if there are no values."""
    if not values.numel():
        return 0.0
    return float(values.abs().square().mean().sqrt())


def largest(values: Tensor) -> float:
    """The largest of the values. 0 if there are none or all are negative."""
    if not values.numel():
        return 0.0
    return max(0.0, float(values.max()))


def _cosine(expected: Tensor, actual: Tensor) -> float | None:
    """The cosine of the angle between the two as vectors. None if one of them is zero."""
    expected_norm = expected.abs().square().sum().sqrt()
    actual_norm = actual.abs().square().sum().sqrt()
    norms = float(expected_norm * actual_norm)
    if not norms:
        return None
    product = (expected.conj() * actual).sum()
    return min(1.0, float(product.real) / norms)


def _decibels(signal: float, noise: float) -> float | None:
    """20 log10(signal / noise). None if either is 0."""
    if not signal or not noise:
        return None
    return round(20 * math.log10(signal / noise), 2)


def _histogram(error: Tensor) -> JsonObject:
    """Counts of absolute errors by decade, from 10**decade to below the next. The first and the
    last decade also count what lies beyond them."""
    first = _DECADES[0]
    last = _DECADES[-1]
    positive = error[error > 0]
    decades = positive.log10().floor().clamp(first, last)
    positions = decades.to(torch.int64) - first
    counts = torch.bincount(positions, minlength=len(_DECADES))
    return {
        "decades": list(_DECADES),
        "counts": counts.tolist(),
        "zero": error.numel() - positive.numel(),
    }


def _json_number(value: Tensor) -> float | str:
    """The value for JSON, which has no NaN, infinity or complex numbers: those become text."""
    number = value.item()
    if isinstance(number, float) and math.isfinite(number):
        return number
    return str(number)
