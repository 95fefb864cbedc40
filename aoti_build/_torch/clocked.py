"""Imports whose time is measured. The first job module to import this one imports torch by it."""

from __future__ import annotations

import time
from importlib import import_module


def seconds_to_import(*names: str) -> float:
    """Import these modules. Returns the seconds that it took."""
    started = time.perf_counter()
    for name in names:
        import_module(name)
    return time.perf_counter() - started


# Nothing in a worker imports torch before its job's module does.
TORCH_SECONDS = seconds_to_import("torch")
