"""The lower bounds in a package's own input checks: those that models.yaml declares, dim by dim.

Lowering may assume that a size is not 1 when it picks strides. The check is generated from the
resulting range, which begins at 2 whatever was declared, so the package refuses a batch of 1 that
it would compute correctly. inductor has one setting for that, `aot_inductor.check_lowerbound`. It
turns the lower bounds of *all* dims off: a sequence of 1 would be computed where the minimum is 2.

Here each check begins at the declared minimum. The reference cases at the ends of every range show
that sizes down to it are computed correctly.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any
from unittest import mock

_GENERATOR = "generate_input_output_runtime_checks"


@contextlib.contextmanager
def declared_bounds(minimums: Mapping[str, int]) -> Iterator[None]:
    """Compiles inside check these minimums, by the names of torch's symbols for sizes."""
    from torch._inductor.codegen.cpp_wrapper_cpu import CppWrapperCpu
    from torch._inductor.virtualized import V

    original = getattr(CppWrapperCpu, _GENERATOR)

    def generate_with_minimums(wrapper: Any) -> None:
        # The generator takes its bounds from these ranges. Nothing else may see the changed ones:
        # lowering has already relied on the original ones.
        ranges = V.graph.sizevars.shape_env.var_to_range
        originals = {}
        for symbol, limits in ranges.items():
            if str(symbol) in minimums:
                originals[symbol] = limits
        for symbol, limits in originals.items():
            ranges[symbol] = type(limits)(minimums[str(symbol)], limits.upper)
        try:
            original(wrapper)
        finally:
            ranges.update(originals)

    with mock.patch.object(CppWrapperCpu, _GENERATOR, generate_with_minimums):
        yield
