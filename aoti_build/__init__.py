"""A build system for PyTorch AOTInductor artifacts: from models.yaml to checked `.pt2` packages.

`load`, `explain` and `CudaGraphs` are for services; they are in `aoti_build.runtime`. The commands
are for scripts; they are in `aoti_build.api`. Either module is imported at the first use of one of
its names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aoti_build.api import build as build
    from aoti_build.api import load_project as load_project
    from aoti_build.api import release as release
    from aoti_build.api import release_diff as release_diff
    from aoti_build.api import release_pull as release_pull
    from aoti_build.api import release_push as release_push
    from aoti_build.api import run as run
    from aoti_build.api import run_release as run_release
    from aoti_build.api import status as status
    from aoti_build.api import verify as verify
    from aoti_build.api import verify_release as verify_release
    from aoti_build.runtime import CudaGraphs as CudaGraphs
    from aoti_build.runtime import explain as explain
    from aoti_build.runtime import load as load

__version__ = "0.1.0"

_FOR_SERVICES = ("CudaGraphs", "explain", "load")
_FOR_SCRIPTS = (
    "build",
    "load_project",
    "release",
    "release_diff",
    "release_pull",
    "release_push",
    "run",
    "run_release",
    "status",
    "verify",
    "verify_release",
)


def __getattr__(name: str) -> Any:
    if name in _FOR_SERVICES:
        module = "aoti_build.runtime"
    elif name in _FOR_SCRIPTS:
        module = "aoti_build.api"
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # Builds import this package and must not import the runtime, and services not the commands.
    import importlib

    return getattr(importlib.import_module(module), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_FOR_SERVICES, *_FOR_SCRIPTS})
