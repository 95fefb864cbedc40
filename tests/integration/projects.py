"""Small projects that the integration tests build: models that compile in some twenty seconds
each."""

from __future__ import annotations

import textwrap
from pathlib import Path

MODELS_YAML = """\
version: 1
models:
  linear:
    source: nets/linear.py:build
    inputs: [{shape: [4, 8]}]
  tagger:
    source: nets/tagger.py:build
    kwargs: {labels: 3}
    dims:
      batch: {min: 1, max: 16, example: 4}
    inputs:
      tokens: {shape: [batch, 6], dtype: int64, high: 11}
      mask: {shape: [batch, 6], dtype: bool}
  weighted:
    source: nets/linear.py:build
    weights: weights/weighted.safetensors
    inputs: nets/linear.py:example_inputs
    dims:
      batch: {min: 2, max: 8, example: 4}
"""

LINEAR = """\
import torch
from torch import nn


class Linear(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(8, 12)
        self.b = nn.Linear(12, 4)

    def forward(self, x, scale=None):
        return self.b(torch.relu(self.a(x)))


def build():
    return Linear()


def example_inputs(batch):
    return (torch.randn(batch, 8),)
"""

TAGGER = """\
import json
import pathlib

from torch import nn

from middle import width


class Tagger(nn.Module):
    def __init__(self, words, labels):
        super().__init__()
        self.embed = nn.Embedding(words, width())
        self.head = nn.Linear(width(), labels)

    def forward(self, *, tokens, mask):
        hidden = self.embed(tokens) * mask[..., None]
        return {"labels": self.head(hidden), "extra": [hidden.sum(1), tokens + 1], "none": None}


def build(labels):
    words = json.loads(pathlib.Path(__file__).with_name("vocabulary.json").read_text())
    return Tagger(len(words), labels)
"""

MIDDLE = "from leaf import WIDTH\n\n\ndef width():\n    return WIDTH\n"
LEAF = "WIDTH = 8\n"
VOCABULARY = '["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k"]\n'


def write_project(root: Path) -> None:
    """The project of `MODELS_YAML` with all its files; the weights file is made by
    `write_weights`."""
    nets = root / "nets"
    nets.mkdir(parents=True)
    for name, text in {
        "linear.py": LINEAR,
        "tagger.py": TAGGER,
        "middle.py": MIDDLE,
        "leaf.py": LEAF,
        "vocabulary.json": VOCABULARY,
    }.items():
        (nets / name).write_text(text)
    (root / "models.yaml").write_text(MODELS_YAML)
    (root / "tasks.py").write_text("from aoti_build.tasks import ns\n")
    write_weights(root / "weights" / "weighted.safetensors", seed=7)


def write_weights(path: Path, seed: int) -> None:
    """Weights for the model of ``nets/linear.py``, random from `seed`."""
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(
        {
            "a.weight": torch.randn(12, 8),
            "a.bias": torch.randn(12),
            "b.weight": torch.randn(4, 12),
            "b.bias": torch.randn(4),
        },
        path,
    )


def write_single(root: Path, source: str, model: str, *, file: str = "net.py") -> None:
    """A project of one source file; `model` is the text below ``models:``."""
    root.mkdir(parents=True, exist_ok=True)
    (root / file).write_text(textwrap.dedent(source))
    (root / "models.yaml").write_text(
        "version: 1\nmodels:\n" + textwrap.indent(textwrap.dedent(model), "  ")
    )
    (root / "tasks.py").write_text("from aoti_build.tasks import ns\n")


def flip_a_bit(path: Path) -> None:
    """Alter one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
