"""Corrections of cases that inductor is known to compile wrongly into a package."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from aoti_build._torch.compiling.old_values import keeping_old_values
from aoti_build._torch.compiling.pooling import exact_pooling_sizes


@contextlib.contextmanager
def corrected() -> Iterator[None]:
    """Compiles inside have all corrections."""
    with keeping_old_values(), exact_pooling_sizes():
        yield
