"""What inductor keeps from one compile to the next, in a private directory.

Inductor keeps precompiled headers, and pickled answers to its own questions, in the directory
``torchinductor_<user>`` below the temporary one (`default_cache_dir`), whatever its cache directory
is. Whoever makes that directory first decides what code is compiled, so it is moved.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch._inductor.runtime.cache_dir_utils  # noqa: F401 - so that it is there to be told

# The modules that have the function by name; what is imported later takes it from the first.
_HOLDERS = (
    "torch._inductor.runtime.cache_dir_utils",
    "torch._inductor.runtime.runtime_utils",
    "torch._inductor.codecache",
)


def keep_below(cache_root: Path) -> None:
    """Let inductor keep these files in `cache_root`, which is private. Call it before a compile."""
    directory = cache_root / "inductor"
    for name in _HOLDERS:
        if module := sys.modules.get(name):
            module.default_cache_dir = lambda: str(directory)
    if codecache := sys.modules.get("torch._inductor.codecache"):
        headers = directory / "precompiled_headers"
        codecache._HEADER_DIR = str(headers)
        codecache._HEADER_LOCK_DIR = str(headers / "locks")
