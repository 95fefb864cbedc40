"""The build system for PyTorch AOTInductor artifacts: models.yaml in, checked `.pt2` packages out.

`load` and `explain` are for services: see `aoti_build.runtime`, which is imported when one of them
is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aoti_build.runtime import explain as explain
    from aoti_build.runtime import load as load

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in ("explain", "load"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module("aoti_build.runtime"), name)
