"""`bench` on a GPU: every way, with times by events and the clock rates of the GPU."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from gpu_projects import NEEDS_GPU, inv

pytestmark = NEEDS_GPU

SOURCE = """
from torch import nn


def build():
    layers = [layer for _ in range(8) for layer in (nn.Linear(2048, 2048), nn.ReLU())]
    return nn.Sequential(*layers)
"""
MODELS = """
version: 1
models:
  stack:
    source: net.py:build
    dims: {batch: {min: 1, max: 64, example: 8}}
    inputs: [{shape: [batch, 2048]}]
    devices: [cuda]
"""
WEIGHT_BYTES = 8 * 2048 * 2048 * 4


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bench")
    (root / "net.py").write_text(SOURCE)
    (root / "models.yaml").write_text(MODELS)
    (root / "tasks.py").write_text("from aoti_build.tasks import ns\n")
    finished = inv(root, "build", "--strict")
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return root


def test_every_way_of_a_gpu_is_measured(root: Path) -> None:
    finished = inv(root, "bench", "--json", "--samples", "1", "--seconds", "0.2")
    assert finished.returncode == 0, finished.stdout + finished.stderr
    (target,) = json.loads(finished.stdout)["targets"]
    print(json.dumps(target, indent=1))
    rows = {(row["way"], row["cache"]): row for row in target["bench"]["rows"]}
    assert {way for way, _ in rows} == {
        "artifact",
        "artifact, CUDA graphs",
        "aoti_load_package",
        "eager",
        "torch.compile",
        "torch.compile, reduce-overhead",
    }
    assert not {name: row["error"] for name, row in rows.items() if "error" in row}
    (sample,) = rows["artifact", "used"]["samples"]
    assert [steady["sizes"]["batch"] for steady in sample["steady"]] == [8, 1, 64]
    assert all(0 < steady["p50"] < 1 for steady in sample["steady"])
    assert min(sample.get("clocks", [1])) > 0
    # A package allocates its weights beside torch's allocator, which may have 32 MiB for cuBLAS.
    for row in rows.values():
        for taken in row["samples"]:
            assert WEIGHT_BYTES < taken["peak_memory"] < WEIGHT_BYTES + (1 << 30)
    facts = target["bench"]["machine"]["facts"]
    assert facts["gpu"]


def test_replayed_calls_are_compared_with_those_of_a_base(root: Path) -> None:
    exported = inv(root, "export", str(root / "v1"))
    assert exported.returncode == 0, exported.stderr
    finished = inv(
        root, "bench", "--json", "--cuda-graphs", "--seconds", "0.2", "--against", str(root / "v1")
    )
    (target,) = json.loads(finished.stdout)["targets"]
    assert "worse" not in {row["verdict"] for row in target["bench"]["base"]["comparisons"]}
    assert {row["way"] for row in target["bench"]["rows"]} == {"artifact, CUDA graphs"}
