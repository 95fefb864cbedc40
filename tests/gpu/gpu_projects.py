"""What all tests on a GPU share."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from aoti_build.host.devices import device_named

NEEDS_GPU = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not device_named("cuda").count(), reason="no CUDA device, or a torch without CUDA"
    ),
]


def inv(root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run invoke, with a compile directory of the project's own, so that builds of several projects
    do not wait for each other."""
    return subprocess.run(
        [sys.executable, "-m", "invoke", *words],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "AOTI_BUILD_CACHE": str(root / "compile")},
    )
