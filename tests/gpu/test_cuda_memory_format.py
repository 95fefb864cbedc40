"""Models on a GPU whose channels are last in memory, and `tune` for one of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from gpu_projects import NEEDS_GPU, inv

pytestmark = NEEDS_GPU

SOURCE = """
import torch
from torch import nn


class Image(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 32, 3, padding=1)
        self.norm = nn.BatchNorm2d(32)
        self.deep = nn.Conv2d(32, 32, 3, padding=1)
        self.head = nn.Linear(32, 5)

    def forward(self, x):
        x = torch.relu(self.norm(self.first(x)))
        x = torch.relu(self.deep(x))
        return x, self.head(x.mean((2, 3)))
"""
MODELS = """
version: 1
models:
  image:
    source: net.py:Image
    memory_format: channels_last
    dims: {batch: {min: 1, max: 8, example: 4}}
    inputs: [{shape: [batch, 3, 24, 20]}]
    devices: [cuda]
  contiguous:
    source: net.py:Image
    inputs: [{shape: [4, 3, 24, 20]}]
    devices: [cuda]
    inductor_configs: [default, tuned]
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("layouts")
    (root / "net.py").write_text(SOURCE)
    (root / "models.yaml").write_text(MODELS)
    (root / "tasks.py").write_text("from aoti_build.tasks import ns\n")
    finished = inv(root, "build", "--strict", "--target", "image")
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return root


@pytest.mark.parametrize("graphs", [False, True], ids=["calls", "graphs"])
def test_every_layout_gives_the_output_of_eager_mode(root: Path, graphs: bool) -> None:
    import torch

    import aoti_build

    scope: dict[str, Any] = {}
    exec(SOURCE, scope)  # noqa: S102
    torch.manual_seed(0)
    model = scope["Image"]().eval().cuda()
    layouts = {
        "contiguous": lambda x: x,
        "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
        "in a wider one": lambda x: torch.stack((x, x), -1)[..., 0],
    }
    options: dict[str, Any] = {"cuda_graphs": True} if graphs else {}
    artifacts = root / "artifacts"
    with (
        aoti_build.load("image", artifacts=artifacts, device="cuda", **options) as loaded,
        torch.no_grad(),
    ):
        for batch in (1, 4, 8):
            for layout in layouts.values():
                image = layout(torch.randn(batch, 3, 24, 20, device="cuda"))
                output, expected = loaded(image), model(image)
                for one, other in zip(output, expected, strict=True):
                    assert torch.allclose(one, other, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize(
    "runtime", [["--runtime", "cpp"], ["--cuda-graphs"]], ids=["cpp", "graphs"]
)
def test_verify_passes(root: Path, runtime: list[str]) -> None:
    finished = inv(root, "verify", "--strict", "--json", "--target", "image", *runtime)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    print(finished.stdout[:2000])


def test_tune_measures_the_choices_of_a_gpu(root: Path) -> None:
    finished = inv(root, "tune", "--json", "--budget", "5m", "--target", "contiguous")
    assert finished.returncode == 0, finished.stdout + finished.stderr
    (target,) = json.loads(finished.stdout)["targets"]
    outcomes = {row["name"]: row["outcome"] for row in target["candidates"]}
    print(json.dumps(target, indent=1))
    assert outcomes["default"] == "measured"
    assert outcomes["default, channels_last"] == "measured"
    verdicts = {
        row["name"]: row["comparison"]["verdict"]
        for row in target["candidates"][1:]
        if row["outcome"] == "measured"
    }
    assert target["chosen"] is None or verdicts[target["chosen"]] == "better"
