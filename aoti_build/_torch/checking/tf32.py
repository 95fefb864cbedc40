"""What TF32 may cost a model: its float64 copy, with the operands of convolutions and matrix
products rounded to TF32.

TF32 keeps 10 bits of the mantissa, so its unit roundoff is 2**-11 (NVIDIA, "A100 Tensor Core GPU
Architecture"; Fasi, Higham, Mikaitis and Pranesh, "Numerical behavior of NVIDIA tensor cores",
2021): operands are rounded to it, products are exact, and sums are kept in float32. torch's
settings allow it; whether a kernel then takes it is the library's own choice, by layout, shape and
version. Eager and compiled code, with other layouts, need not choose alike, so what eager lost does
not tell what compiled code may lose. This does, for one model and one input, and leaves no constant
to guess: by the settings, TF32 is allowed wherever eager could have taken it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

# Positions of the operands that are rounded.
Operands = Mapping[Any, tuple[int, int]]
_CONVOLUTIONS: Operands = {torch.ops.aten.convolution.default: (0, 1)}
_PRODUCTS: Operands = {
    torch.ops.aten.mm.default: (0, 1),
    torch.ops.aten.bmm.default: (0, 1),
    torch.ops.aten.addmm.default: (1, 2),
    torch.ops.aten.baddbmm.default: (1, 2),
}
_DROPPED = 52 - 10  # bits of float64's mantissa that TF32 has not


def tf32_operands(
    device: str, *, convolutions: bool | None = None, products: bool | None = None
) -> Operands:
    """The operators whose float32 operands may be rounded to TF32 on `device` ("cpu" or "cuda");
    none on a CPU.

    Whether `convolutions` and matrix `products` may is torch's setting in this process, unless it
    is given.
    """
    if device != "cuda":
        return {}
    convolutions = torch.backends.cudnn.allow_tf32 if convolutions is None else convolutions
    products = torch.backends.cuda.matmul.allow_tf32 if products is None else products
    return {**(_CONVOLUTIONS if convolutions else {}), **(_PRODUCTS if products else {})}


class InTf32(TorchDispatchMode):
    """While it is entered, the named operands of float64 operators are rounded to TF32 first."""

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
        given = list(args)
        for position in self.operands.get(func, ()):
            given[position] = to_tf32(given[position])
        return func(*given, **(kwargs or {}))


def to_tf32(value: Tensor) -> Tensor:
    """float64 values rounded to the nearest that TF32 has (ties away from zero, as PTX's
    cvt.rna.tf32 does); its range is float32's and not looked at. Values of other types as they
    are."""
    if value.dtype != torch.float64:
        return value
    bits = value.contiguous().view(torch.int64)
    nearest = (bits + (1 << (_DROPPED - 1))).bitwise_and(-1 << _DROPPED).view(torch.float64)
    return torch.where(torch.isfinite(value), nearest, value)
