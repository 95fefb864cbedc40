"""A private directory for the files that inductor keeps from one compile to the next.

Inductor keeps precompiled headers, and pickled results of its own decisions, in the directory
``torchinductor_<user>`` below the temporary one, whatever its cache directory is
(`default_cache_dir` in torch/_inductor/runtime/cache_dir_utils.py). Another user who makes that
directory first decides what code is compiled, so a private one is used instead.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch._inductor.runtime.cache_dir_utils  # noqa: F401 - so that the first module is imported

# The modules that have the function by name. Modules that are imported later take it from the
# first.
_MODULES = (
    "torch._inductor.runtime.cache_dir_utils",
    "torch._inductor.runtime.runtime_utils",
    "torch._inductor.codecache",
)


def keep_below(cache_root: Path) -> None:
    """Let inductor keep these files in `cache_root`, which is private. Call it before a compile."""
    directory = cache_root / "inductor"
    for name in _MODULES:
        module = sys.modules.get(name)
        if module is not None:
            module.default_cache_dir = lambda: str(directory)
    codecache = sys.modules.get("torch._inductor.codecache")
    if codecache is not None:
        # It computed these two from the function when it was imported.
        headers = directory / "precompiled_headers"
        codecache._HEADER_DIR = str(headers)
        codecache._HEADER_LOCK_DIR = str(headers / "locks")
