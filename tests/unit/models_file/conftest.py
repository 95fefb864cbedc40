from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the files that the specs here name."""
    root = tmp_path_factory.mktemp("project")
    for name in ("examples/encoder.py", "weights/encoder.safetensors", "weights/e.pt", "x.py"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).touch()
    return root
