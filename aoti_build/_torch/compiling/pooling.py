"""Keeps a compile from giving a pooling with `ceil_mode` the output size of the example.

Lowering drops `ceil_mode` where both ways of rounding give the same size for the example, and adds
a guard for that (torch/_inductor/lowering.py, `pooling_size`; seen in 2.14). torch.compile checks
its guards. A package has none: after an export with an even size, it rounds down for all sizes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock


@contextlib.contextmanager
def exact_pooling_sizes() -> Iterator[None]:
    """Compiles inside decide such a question only where the answer is the same for all sizes."""
    from torch._inductor import lowering
    from torch._inductor.virtualized import V

    original = lowering.pooling_size

    def with_proof(
        x: Any, i: int, kernel_size: Any, stride: Any, padding: Any, ceil_mode: Any, **more: Any
    ) -> Any:
        sizes = V.graph.sizevars
        if not hasattr(sizes, "guard_or_false") or _may_start_outside(
            kernel_size[i], stride[i], padding[i], (more.get("dilation") or [1] * (i + 1))[i]
        ):
            return original(x, i, kernel_size, stride, padding, ceil_mode, **more)
        with mock.patch.object(sizes, "guard_or_false", sizes.statically_known_true):
            return original(x, i, kernel_size, stride, padding, ceil_mode, **more)

    with mock.patch.object(lowering, "pooling_size", with_proof):
        yield


def _may_start_outside(kernel: int, stride: int, padding: int, dilation: int) -> bool:
    """Whether the last window can begin behind the input, for some size.

    The size rounded up is floor((x + 2p - d(k - 1) + 2(s - 1)) / s). Its last window begins at or
    behind x + p only if s + p >= d(k - 1) + 2. Then the size must be one less, and no single
    formula has both.
    """
    return stride + padding >= dilation * (kernel - 1) + 2
