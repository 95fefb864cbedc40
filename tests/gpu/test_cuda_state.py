"""Models that write into buffers and inputs, on a GPU: every call compared, from Python and from
C++."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from gpu_projects import NEEDS_GPU, inv

pytestmark = NEEDS_GPU

SOURCE = """\
import torch
from torch import nn
from torch.nn import functional as F


class Delay(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("last", torch.zeros(4, 8))
        self.register_buffer("older", torch.zeros(4, 8))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x):
        y = x - 2 * self.last + self.older * self.calls
        self.older.copy_(self.last)
        self.last.copy_(x)
        self.calls += 1
        return y


class Written(nn.Module):
    def forward(self, src, dst):
        dst[0:, :] = src[0:, :]
        src.add_(1)
        return src.shape[0] * torch.ones(2, device=src.device)


class Cache(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("keys", torch.zeros(1, 64, 16))
        self.register_buffer("values", torch.zeros(1, 64, 16))
        self.q, self.k, self.v = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 16)

    def forward(self, x, positions):
        self.keys.index_copy_(1, positions, self.k(x))
        self.values.index_copy_(1, positions, self.v(x))
        seen = torch.arange(64, device=x.device)[None] <= positions[:, None]
        return F.scaled_dot_product_attention(self.q(x), self.keys, self.values, attn_mask=seen)


def cache_inputs():
    return torch.randn(1, 2, 16), torch.randperm(60)[:2].sort().values


class Both(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.layer = nn.Embedding(50, 16), nn.Linear(16, 16)

    def forward(self, tokens):
        hidden = self.layer(self.embed(tokens))
        return torch.softmax(hidden @ hidden.transpose(1, 2), -1) @ hidden
"""
MODELS = """\
version: 1
models:
  delay: {source: "net.py:Delay", inputs: [{shape: [4, 8]}], devices: [cuda]}
  written:
    source: net.py:Written
    dims: {rows: {min: 2, max: 9, example: 4}}
    inputs: [{shape: [rows, 8]}, {shape: [rows, 8]}]
    devices: [cuda]
  cache: {source: "net.py:Cache", inputs: "net.py:cache_inputs", devices: [cuda]}
  both:
    source: net.py:Both
    dims: {batch: {min: 1, max: 8, example: 3}, seq: {min: 2, max: 32, example: 7}}
    inputs: [{shape: [batch, seq], dtype: int64, high: 50}]
    devices: [cuda]
"""
LOADED = """
import torch
import aoti_build

torch.manual_seed(0)
calls = [torch.randn(4, 8, device="cuda") for _ in range(4)]
with aoti_build.load("delay", artifacts="artifacts") as model:
    for _ in range(2):
        last = older = torch.zeros(4, 8, device="cuda")
        for number, x in enumerate(calls):
            torch.testing.assert_close(model(x), x - 2 * last + older * number)
            last, older = x, last
        model.reset_state()
print("as eager")
"""


def test_state_is_compared_on_a_gpu(tmp_path: Path) -> None:
    root = tmp_path / "project"
    root.mkdir()
    (root / "net.py").write_text(SOURCE)
    (root / "models.yaml").write_text(MODELS)
    (root / "tasks.py").write_text("from aoti_build.tasks import ns\n")

    built = inv(root, "build", "--keep-going", "--json")
    assert built.returncode == 0, built.stdout + built.stderr
    for runtime in ("python", "cpp"):
        verified = inv(root, "verify", "--strict", "--runtime", runtime, "--json")
        assert verified.returncode == 0, verified.stdout + verified.stderr
        rows = {row["target"]: row for row in json.loads(verified.stdout)["targets"]}
        delay = rows["delay/cuda"]["cases"]
        names = {output["name"] for output in delay[2]["outputs"]}
        assert names == {"output", "buffer calls", "buffer last", "buffer older"}
        lower = {
            one["name"]: one["ok"]
            for one in rows["both/cuda"]["refusals"]
            if "below min" in one["name"]
        }
        assert lower == {"batch 0: below min 1": True, "seq 1: below min 2": True}
    loaded = subprocess.run(
        [sys.executable, "-c", LOADED], cwd=root, capture_output=True, text=True, check=False
    )
    assert loaded.stdout.strip() == "as eager", loaded.stderr
