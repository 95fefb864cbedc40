"""Architectures that people ship, on a GPU, each in one artifact from a batch of 1.

They are built, verified strictly, loaded, and called at sizes that were not checked. All are built
at once, since a compile hardly uses the GPU.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from gpu_projects import NEEDS_GPU

pytestmark = NEEDS_GPU

TEXT = (
    "hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128,"
    " vocab_size=100"
)
TOKENS = """\
    dims: {batch: {min: 1, max: 8, example: 3}, seq: {min: 2, max: 64, example: 12}}
    inputs: {input_ids: {shape: [batch, seq], dtype: int64, high: 100}}
"""
# What a service does: load, call with sizes that no case has, compare with eager in float32 or as
# it is.
SERVED = """\
import sys

import torch
from torch.utils import _pytree as pytree

import aoti_build
import nets


def root_mean_square(value):
    return value.square().mean().sqrt()


torch.manual_seed(0)
dtype, bound = getattr(torch, sys.argv[1]), float(sys.argv[2])
eager = nets.build().eval().to(dtype).cuda()
with aoti_build.load("model", artifacts="artifacts", device="cuda") as loaded, torch.no_grad():
    for sizes in ([1, 3], [1, 61], [5, 2], [7, 33]):
        call = {name: value.cuda() for name, value in nets.example(*sizes).items()}
        call = {k: v.to(dtype) if v.is_floating_point() else v for k, v in call.items()}
        got, wanted = pytree.tree_leaves(loaded(**call)), pytree.tree_leaves(eager(**call))
        for one, other in zip(got, wanted, strict=True):
            if isinstance(other, torch.Tensor):
                assert one.shape == other.shape and one.dtype == other.dtype
                one, other = one.double(), other.double()
                error = root_mean_square(one - other) / root_mean_square(other)
                assert error < bound, f"{sizes}: {error}"
print("served")
"""


@dataclass(frozen=True)
class Entry:
    """A model: its source, what models.yaml says of it, the library it needs, and how near to eager
    it must be."""

    source: str
    model: str
    dtype: str
    needs: str = ""
    bound: float = 0.05
    presets: str = ""


def _transformer(name: str, config: str, **options: str) -> str:
    values = ", ".join([TEXT, *(f"{key}={value}" for key, value in options.items())])
    return f"""\
import torch
from transformers import {config}, {name}


def build():
    return {name}({config}({values}))


def example(batch, seq):
    return {{"input_ids": torch.randint(0, 100, (batch, seq))}}
"""


IMAGES = """

def example(batch, _):
    return {{"x": torch.randn(batch, 3, {size}, {size})}}
"""
ENTRIES = {
    "bert": Entry(_transformer("BertModel", "BertConfig"), TOKENS, "bfloat16", "transformers"),
    "llama": Entry(
        _transformer("LlamaForCausalLM", "LlamaConfig", num_key_value_heads="2", use_cache="False"),
        TOKENS,
        "bfloat16",
        "transformers",
    ),
    "swin_t": Entry(
        """\
import torch
from torchvision.models import swin_t


def build():
    return swin_t(weights=None)
"""
        + IMAGES.format(size=224),
        "    dims: {batch: {min: 1, max: 8, example: 2}}\n"
        "    inputs: {x: {shape: [batch, 3, 224, 224]}}\n",
        "float16",
    ),
    "attention": Entry(
        """\
import torch
from torch import nn


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.out = nn.Linear(64, 192), nn.Linear(64, 64)

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, 4, 16)).permute(2, 0, 3, 1, 4)
        x = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(x.transpose(1, 2).flatten(2))


def build():
    return Attention()


def example(batch, seq):
    return {"x": torch.randn(batch, seq, 64)}
""",
        "    dims: {batch: {min: 1, max: 8, example: 3}, seq: {min: 1, max: 64, example: 12}}\n"
        "    inputs: {x: {shape: [batch, seq, 64]}}\n",
        "float32",
        bound=0.01,
    ),
    "convolution": Entry(
        """\
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.Linear(32, 10)

    def forward(self, x):
        return self.head(torch.relu(self.norm(self.conv(x))).mean((2, 3)))


def build():
    return Net()
"""
        + IMAGES.format(size=32),
        "    dims: {batch: {min: 1, max: 8, example: 2}}\n"
        "    inputs: {x: {shape: [batch, 3, 32, 32]}}\n",
        "float32",
        bound=0.01,
        presets="    inductor_configs: [tuned]\n",
    ),
}


def _run(root: Path, *words: str) -> str:
    """The output of a command that succeeds; with a compile directory of the project's own."""
    environment = {**os.environ, "AOTI_BUILD_CACHE": str(root / "compile"), "OMP_NUM_THREADS": "2"}
    finished = subprocess.run(
        words, cwd=root, capture_output=True, text=True, check=False, env=environment
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


def _tried(root: Path, entry: Entry) -> str:
    root.mkdir()
    (root / "nets.py").write_text(entry.source)
    (root / "served.py").write_text(SERVED)
    (root / "tasks.py").write_text("from aoti_build.tasks import ns\n")
    dtype = "" if entry.dtype == "float32" else f"    dtype: {entry.dtype}\n"
    (root / "models.yaml").write_text(
        "version: 1\ninductor_configs: {tuned: {max_autotune: true}}\nmodels:\n  model:\n"
        f"    source: nets.py:build\n    devices: [cuda]\n{entry.model}{dtype}{entry.presets}"
    )
    _run(root, sys.executable, "-m", "invoke", "build", "--strict")
    _run(root, sys.executable, "-m", "invoke", "verify", "--strict")
    return _run(root, sys.executable, "served.py", entry.dtype, str(entry.bound))


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[str]]]:
    root = tmp_path_factory.mktemp("zoo")
    with ThreadPoolExecutor(len(ENTRIES)) as pool:
        yield {name: pool.submit(_tried, root / name, entry) for name, entry in ENTRIES.items()}


@pytest.mark.parametrize("name", ENTRIES)
def test_a_model_is_served_from_a_batch_of_one(name: str, tried: dict[str, Future[str]]) -> None:
    if ENTRIES[name].needs:
        pytest.importorskip(ENTRIES[name].needs)
    assert "served" in tried[name].result()
