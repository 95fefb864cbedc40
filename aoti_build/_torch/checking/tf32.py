"""What TF32 may cost a model: its float64 copy, with the operands of convolutions and matrix
products rounded to TF32.

TF32 has 10 bits of mantissa, so its unit roundoff is 2**-11. Operands are rounded to it, products
are exact, and sums are in float32 (NVIDIA, "A100 Tensor Core GPU Architecture"; Fasi, Higham,
Mikaitis and Pranesh, "Numerical behavior of NVIDIA tensor cores", 2021).

torch's settings allow TF32. Whether a kernel uses it is the choice of the library, by layout, shape
and version. Eager and compiled code have other layouts and need not choose alike. The error of
eager therefore does not show what compiled code may lose. The rounded copy shows it for one model
and one input, without a constant to guess: it rounds wherever the settings would have allowed it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

# Operator -> positions of the operands that are rounded.
Operands: TypeAlias = Mapping[Any, tuple[int, int]]

_CONVOLUTIONS: Operands = {torch.ops.aten.convolution.default: (0, 1)}
_PRODUCTS: Operands = {
    torch.ops.aten.mm.default: (0, 1),
    torch.ops.aten.bmm.default: (0, 1),
    torch.ops.aten.addmm.default: (1, 2),
    torch.ops.aten.baddbmm.default: (1, 2),
}
_MANTISSA_BITS = 10
_DROPPED_BITS = 52 - _MANTISSA_BITS  # of float64's mantissa


def tf32_operands(
    device: str,
    *,
    convolutions: bool | None = None,
    products: bool | None = None,
) -> Operands:
    """The operators whose float32 operands may be rounded to TF32 on `device` ("cpu" or "cuda").
    None of them on a CPU.

    `convolutions` and `products` (of matrices) say for which of the two TF32 is allowed. The
    default is torch's setting in this process.
    """
    if device != "cuda":
        return {}
    if convolutions is None:
        convolutions = _convolutions_may_round()
    if products is None:
        products = _products_may_round()
    operands: dict[Any, tuple[int, int]] = {}
    if convolutions:
        operands.update(_CONVOLUTIONS)
    if products:
        operands.update(_PRODUCTS)
    return operands


# torch has two sets of switches. The older ones raise RuntimeError once user code has set newer
# ones to values that they cannot express (aten/src/ATen/Context.cpp).


def _convolutions_may_round() -> bool:
    try:
        return bool(torch.backends.cudnn.allow_tf32)
    except RuntimeError:
        return bool(torch.backends.cudnn.conv.fp32_precision == "tf32")


def _products_may_round() -> bool:
    try:
        return bool(torch.backends.cuda.matmul.allow_tf32)
    except RuntimeError:
        return bool(torch.backends.cuda.matmul.fp32_precision == "tf32")


class InTf32(TorchDispatchMode):
    """While it is entered, the listed operands of float64 operators are first rounded to TF32."""

    def __init__(self, operands: Operands) -> None:
        super().__init__()
        self.operands = operands

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        rounded = list(args)
        for position in self.operands.get(func, ()):
            rounded[position] = to_tf32(rounded[position])
        return func(*rounded, **(kwargs or {}))


def to_tf32(value: Tensor) -> Tensor:
    """float64 values rounded to the nearest TF32 value, ties away from zero, as PTX's
    cvt.rna.tf32 does. The range of TF32 is that of float32 and is not enforced. Values of other
    types stay as they are."""
    if value.dtype != torch.float64:
        return value
    bits = value.contiguous().view(torch.int64)
    half_step = 1 << (_DROPPED_BITS - 1)
    kept_bits = -1 << _DROPPED_BITS
    rounded = (bits + half_step) & kept_bits
    nearest = rounded.view(torch.float64)
    # The addition may turn infinity into NaN, and NaN into a number.
    return torch.where(torch.isfinite(value), nearest, value)
