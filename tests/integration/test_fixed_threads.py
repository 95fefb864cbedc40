"""The number of processors changes code without `cpp.threads`, and no byte of it with."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import Finished

MODELS = """\
version: 1
inductor_configs:
  fixed: {cpp.threads: 4}
models:
  small:
    source: net.py:build
    inputs: [{shape: [64, 512]}]
    inductor_configs: [default, fixed]
"""
SOURCE = """\
from torch import nn


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(512, 512)

    def forward(self, x):
        y = nn.functional.gelu(self.linear(x)).softmax(-1)
        return y, y.sum(), (x * 2).sum(0)


def build():
    return Small()
"""


@pytest.mark.slow
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two processors")
def test_fixed_threads_give_the_same_bytes_on_other_hosts(tmp_path: Path) -> None:
    all_processors = sorted(os.sched_getaffinity(0))
    rows = [
        build(tmp_path / "all", all_processors),
        build(tmp_path / "one", all_processors[:1]),
    ]
    fixed, default = (
        [row[name]["sha256"] for row in rows] for name in ("small/cpu-fixed", "small/cpu")
    )
    assert fixed[0] == fixed[1]
    keys = [row["small/cpu-fixed"]["key"] for row in rows]
    assert keys[0] == keys[1]
    # The default does depend on them, so the test sees what it looks for.
    assert default[0] != default[1]


def build(root: Path, processors: list[int]) -> dict[str, Any]:
    """The rows of a build in a new checkout with a store of its own, by target."""
    root.mkdir()
    (root / "models.yaml").write_text(MODELS)
    (root / "net.py").write_text(SOURCE)
    (root / "tasks.py").write_text("from aoti_build.tasks import ns\n")
    code = (
        "import os, sys\n"
        f"os.sched_setaffinity(0, {processors})\n"
        "os.execv(sys.executable, [sys.executable, '-m', 'invoke', 'build', '--json'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    finished = Finished(done.returncode, done.stdout, done.stderr)
    return {row["target"]: row for row in finished.json["targets"]}
