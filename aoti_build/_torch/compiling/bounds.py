"""The lower bounds in a package's own input checks: those that models.yaml declares, dim by dim.

Lowering may assume "not 1" of a size where it picks strides, and the range that it generates the
check from then begins at 2, whatever was declared: the package refuses a batch of 1 that it answers
rightly. inductor's only setting for that (`aot_inductor.check_lowerbound`) turns the lower bounds
of *all* dims off, so that a sequence of 1 is answered where 2 was the least. Here each check begins
at the declared minimum. That sizes down to it are answered rightly is what the reference cases at
the ends of every range show.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any
from unittest import mock


@contextlib.contextmanager
def declared_bounds(minimums: Mapping[str, int]) -> Iterator[None]:
    """Compiles inside check these minimums, given by the names of torch's symbols for sizes."""
    from torch._inductor.codegen.cpp_wrapper_cpu import CppWrapperCpu
    from torch._inductor.virtualized import V

    original = CppWrapperCpu.generate_input_output_runtime_checks

    def with_minimums(wrapper: Any) -> None:
        ranges = V.graph.sizevars.shape_env.var_to_range
        narrowed = {symbol: ranges[symbol] for symbol in ranges if str(symbol) in minimums}
        for symbol, found in narrowed.items():
            ranges[symbol] = type(found)(minimums[str(symbol)], found.upper)
        try:
            original(wrapper)
        finally:
            ranges.update(narrowed)

    with mock.patch.object(CppWrapperCpu, "generate_input_output_runtime_checks", with_minimums):
        yield
