"""A build system for PyTorch AOTInductor artifacts: from models.yaml to checked `.pt2` packages.

`load`, `explain` and `CudaGraphs` are for services. They are in `aoti_build.runtime`, which is
imported at the first use of one of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aoti_build.runtime import CudaGraphs as CudaGraphs
    from aoti_build.runtime import explain as explain
    from aoti_build.runtime import load as load

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in ("CudaGraphs", "explain", "load"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # Builds import this package and must not import the runtime.
    import importlib

    runtime = importlib.import_module("aoti_build.runtime")
    return getattr(runtime, name)
