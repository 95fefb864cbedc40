"""A correction: a pooling with `ceil_mode` must not get the output size of the example.

`pooling_size` in torch/_inductor/lowering.py drops `ceil_mode` where both ways of rounding give the
same size for the example, and adds a guard for that (torch 2.14). torch.compile checks its guards.
A package has none: after an export with an even size, it rounds down for all sizes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock


@contextlib.contextmanager
def exact_pooling_sizes() -> Iterator[None]:
    """Compiles inside drop `ceil_mode` only where that is right for all sizes."""
    from torch._inductor import lowering
    from torch._inductor.virtualized import V

    original = lowering.pooling_size

    def pooling_size(
        x: Any,
        i: int,
        kernel_size: Any,
        stride: Any,
        padding: Any,
        ceil_mode: Any,
        **options: Any,
    ) -> Any:
        arguments = (x, i, kernel_size, stride, padding, ceil_mode)
        dilation = (options.get("dilation") or [1] * (i + 1))[i]
        sizes = V.graph.sizevars
        can_prove = hasattr(sizes, "guard_or_false")
        if not can_prove or _may_start_outside(kernel_size[i], stride[i], padding[i], dilation):
            return original(*arguments, **options)
        # The function asks with `guard_or_false`, which answers for the example.
        with mock.patch.object(sizes, "guard_or_false", sizes.statically_known_true):
            return original(*arguments, **options)

    with mock.patch.object(lowering, "pooling_size", pooling_size):
        yield


def _may_start_outside(kernel: int, stride: int, padding: int, dilation: int) -> bool:
    """Whether the last window can begin behind the input, for some size.

    The size rounded up is floor((x + 2p - d(k - 1) + 2(s - 1)) / s). Its last window begins at or
    behind x + p only if s + p >= d(k - 1) + 2. Then the size must be one less, and no single
    formula has both.
    """
    return stride + padding >= dilation * (kernel - 1) + 2
