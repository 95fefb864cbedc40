"""How far an output may be from eager mode and from float64. docs/explanation/checks.md describes
the references, docs/reference/models-yaml.md the bounds.

Two kinds of bounds exist:

- Bounds on each value: `|candidate - eager| <= atol + rtol * |eager|`. Unless models.yaml sets
  them, they follow from the dtype and from the root mean square (RMS) of eager's output. An atol
  that ignores the scale would be useless: networks return values far below any fixed atol.
- A bound on the root mean square error (RMSE) to float64: `RMSE(candidate, float64) <= factor *
  RMSE(eager, float64) + floor`. The rule comes from `torch._dynamo.utils.same`. It measures what
  reordering and other algorithms may cost. A wrong weight costs more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from aoti_build._torch.checking.tf32 import tf32_operands
from aoti_build.common.json_object import JsonObject

# `tolerance` of models.yaml: `atol`, `rtol`, `agreement` and `iou`, or None, and in `outputs` the
# same for single outputs by name.
Tolerance: TypeAlias = Mapping[str, Any]


class RelativeBounds(NamedTuple):
    """Bounds of a dtype. Both are without a unit: `rtol` is relative to the value, `rms_part` to
    the RMS of eager's output."""

    rtol: float
    rms_part: float


class ValueBounds(NamedTuple):
    """A value passes if `|candidate - eager| <= atol + rtol * |eager|`.

    `rtol` has no unit, `atol` has the unit of the output. `rule` is the name of the rule that the
    bounds belong to, as the figures state it.
    """

    rtol: float
    atol: float
    rule: str

    def limit(self, magnitude: Tensor) -> Tensor:
        """The largest error that passes at each of the magnitudes |eager|."""
        return self.atol + self.rtol * magnitude

    def __str__(self) -> str:
        return f"atol {self.atol:.3g}, rtol {self.rtol:.3g}"


TOLERANCE = "tolerance"  # models.yaml sets the bounds
ALLCLOSE = "allclose"  # the dtype does

# A few of the dtype's own roundings: the rtol is about one epsilon of a half type, and eleven of
# float32, as in torch.testing.assert_close.
_ROUNDINGS = {
    torch.float32: RelativeBounds(1.3e-6, 1e-6),
    torch.complex64: RelativeBounds(1.3e-6, 1e-6),
    torch.float16: RelativeBounds(1e-3, 1e-3),
    torch.bfloat16: RelativeBounds(8e-3, 8e-3),
}
_FLOAT64_ROUNDINGS = RelativeBounds(1e-9, 1e-9)
# For a comparison with eager mode alone. These cover reassociation and other algorithms for a
# convolution, as measured on torchvision's models. The effect of a wrong weight is far above them.
_WIDE = {
    torch.float64: _FLOAT64_ROUNDINGS,
    torch.complex128: _FLOAT64_ROUNDINGS,
    torch.float32: RelativeBounds(1e-3, 1e-4),
    torch.complex64: RelativeBounds(1e-3, 1e-4),
    torch.float16: RelativeBounds(1e-2, 1e-2),
    torch.bfloat16: RelativeBounds(5e-2, 5e-2),
}
# The same where operands may be rounded to TF32 (10 bits), as those of convolutions on CUDA may by
# torch's default. Measured with a copy whose operands are rounded: the outputs of torchvision's
# models have an RMSE of 1e-4 to 1.6e-3 of their RMS, and single values are off by at most 6e-3.
_WIDE_TF32 = RelativeBounds(5e-3, 2e-3)
# Where values are rounded to 8-bit integers or floats: one step is 1/256 of the range.
_WIDE_QUANTISED = RelativeBounds(5e-2, 5e-2)

_HALF_TYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
_FINE_TYPES = ("float64", "float32", "complex128", "complex64")
# Roundings of the dtype that are always allowed as an RMSE. Eager may be exact by luck, or because
# it adds in another order.
_FLOOR_ROUNDINGS = 4
# From so many values on, the RMSE hardly depends on chance.
_STEADY_COUNT = 1000


def is_bounded(dtype: torch.dtype) -> bool:
    """Whether outputs of the dtype are compared by bounds. Others must be equal."""
    return dtype in _WIDE


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def tf32_is_allowed(candidate: Tensor) -> bool:
    """Whether code on the candidate's device may round operands to TF32."""
    if candidate.dtype != torch.float32:
        return False
    return bool(tf32_operands(candidate.device.type))


def output_tolerance(name: str, tolerance: Tolerance) -> Tolerance:
    """The rules that models.yaml sets for one output. Empty if it sets none."""
    by_output = tolerance.get("outputs", {})
    rules: Tolerance = by_output.get(name, {})
    return rules


def declared_bounds(name: str, tolerance: Tolerance) -> Tolerance:
    """The atol and rtol that models.yaml sets for an output, or for all outputs. Empty if it sets
    neither."""
    bounds = output_tolerance(name, tolerance) or tolerance
    if bounds.get("atol") is None and bounds.get("rtol") is None:
        return {}
    return bounds


def value_bounds(
    dtype: torch.dtype,
    computed: str | None,
    rms: float,
    declared: Tolerance,
    *,
    has_float64: bool,
    tf32: bool,
) -> ValueBounds:
    """The bounds on each value of an output.

    `rms` is that of eager's finite values, in the unit of the output. `computed` is the narrower
    type in which the output is computed, if there is one. `declared` comes from `declared_bounds`.
    """
    wide = _wide_bounds(dtype, computed, tf32=tf32)
    if declared:
        # A bound that models.yaml does not set is the wide one.
        rtol = declared.get("rtol")
        if rtol is None:
            rtol = wide.rtol
        atol = declared.get("atol")
        if atol is None:
            atol = wide.rms_part * rms
        return ValueBounds(rtol, atol, TOLERANCE)
    relative = wide
    if has_float64 and dtype in _ROUNDINGS:
        # A narrower type of computation does not widen these: the float64 rule, which measures
        # what that type costs, then decides.
        relative = _ROUNDINGS[dtype]
    return ValueBounds(
        rtol=relative.rtol,
        atol=relative.rms_part * rms,
        rule=ALLCLOSE,
    )


def rounding_bounds(dtype: torch.dtype) -> RelativeBounds:
    """A few roundings of a dtype, for the same operators run twice."""
    return _ROUNDINGS.get(dtype, _FLOAT64_ROUNDINGS)


def _wide_bounds(
    dtype: torch.dtype,
    computed: str | None,
    *,
    tf32: bool,
) -> RelativeBounds:
    """The bounds for a comparison with eager mode alone."""
    bounds = _WIDE[dtype]
    if tf32:
        bounds = _WIDE_TF32
    if computed is None:
        return bounds
    narrower = _WIDE.get(getattr(torch, computed), _WIDE_QUANTISED)
    return RelativeBounds(
        rtol=max(bounds.rtol, narrower.rtol),
        rms_part=max(bounds.rms_part, narrower.rms_part),
    )


@dataclass(frozen=True)
class Float64Errors:
    """RMSEs to the float64 reference, in the unit of the output.

    `eager` is the error of eager mode, `rounded` that of the model with other roundings, if that
    was measured: in TF32, or with quantised values on the next step. `allowed` is the bound for
    the candidate.
    """

    candidate: float
    eager: float
    allowed: float
    rounded: float | None

    @property
    def ok(self) -> bool:
        # Without finite values both are 0, which shows nothing.
        return self.allowed > 0 and self.candidate <= self.allowed

    def as_json(self) -> JsonObject:
        figures: JsonObject = {
            "candidate_rmse": self.candidate,
            "reference_rmse": self.eager,
            "allowed": self.allowed,
        }
        if self.rounded is not None:
            figures["rounded_rmse"] = self.rounded
        return figures

    def __str__(self) -> str:
        parts = [f"eager mode: {self.eager:.3g}"]
        if self.rounded is not None:
            parts.append(f"rounded otherwise: {self.rounded:.3g}")
        parts.append(f"allowed: {self.allowed:.3g}")
        return f"its RMSE to float64 is {self.candidate:.3g} ({', '.join(parts)})"


def allowed_rmse(
    dtype: torch.dtype,
    computed: str | None,
    count: int,
    rms: float,
    eager_rmse: float,
    rounded_rmse: float | None,
) -> float:
    """The largest RMSE to float64 that passes, in the unit of the output.

    `count` is the number of values compared, `rms` the RMS of the float64 reference.
    """
    floor = _FLOOR_ROUNDINGS * torch.finfo(dtype).eps * rms
    if computed in _HALF_TYPES and count < _STEADY_COUNT:
        # Eager may hit few values exactly by luck. With many values, its error shows what the type
        # costs.
        one_rounding = torch.finfo(_HALF_TYPES[computed]).eps / 2
        floor = max(floor, one_rounding * rms)
    # Eager and compiled code choose for themselves where they use TF32, and which step a value
    # near the middle of two is rounded to. Eager therefore counts as no nearer to float64 than the
    # model with those roundings.
    expected_rmse = max(eager_rmse, rounded_rmse or 0.0)
    return _allowed_factor(dtype, computed, count) * expected_rmse + floor


def _allowed_factor(
    dtype: torch.dtype,
    computed: str | None,
    count: int,
) -> float:
    """How many times eager's own error is allowed. The fewer values, the more the RMSE depends on
    chance. The numbers are those of `torch._dynamo.utils.same`."""
    if count <= 10:
        return 10.0
    if count <= 500:
        return 8.0
    is_half = dtype in _HALF_TYPES.values()
    is_coarse = is_half or (computed is not None and computed not in _FINE_TYPES)
    if count < _STEADY_COUNT or is_coarse:
        return 3.0
    return 2.0


def rounding_note(
    dtype: torch.dtype,
    computed: str | None,
    rmse: float,
    reference_rms: float,
) -> str | None:
    """The cause of a failure that is no larger than roundings to a half type between operators.
    None for any other failure."""
    half = _HALF_TYPES.get(computed or dtype_name(dtype))
    if half is None:
        return None
    roundings = _FLOOR_ROUNDINGS * torch.finfo(half).eps
    if rmse > roundings * reference_rms:
        return None
    return (
        f"the difference is within roundings to {dtype_name(half)}: eager mode rounds after every"
        " operator, a compiled kernel at its end. To round as eager mode does, set the inductor"
        " option `emulate_precision_casts: true`"
    )
