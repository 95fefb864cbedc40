"""Texts of models.yaml that the tests of the spec layer share, and how they read them."""

from __future__ import annotations

from pathlib import Path

import pytest

from aoti_build.errors import ExitCode, SpecError
from aoti_build.models_file import Project
from aoti_build.models_file.parsing.resolve import parse

README = """\
# yaml-language-server: $schema=aoti_build/models_file/models.schema.json
version: 1
inductor_configs:
  max-autotune: {max_autotune: true}
models:
  resnet18:
    source: torchvision.models:resnet18
    kwargs: {weights: null}
    seed: 7
    inputs:
      - {shape: [2, 3, 224, 224], dtype: float32}
    devices: [cpu, cuda]
    inductor_configs: [default, max-autotune]
    tolerance: {atol: 1e-4, rtol: 1e-3}
  encoder:
    source: examples/encoder.py:build
    weights: weights/encoder.safetensors
    dims:
      batch: {min: 1, max: 32, example: 4}
      seq:   {min: 8, max: 512, multiple_of: 8, example: 64}
    inputs:
      tokens: {shape: [batch, seq], dtype: int64, high: 1000}
      mask:   {shape: [batch, seq], dtype: bool}
    cpu: {isa: avx2}
"""


def read(root: Path, text: str) -> Project:
    return parse(text, root / "models.yaml")


def problems(root: Path, text: str) -> list[str]:
    with pytest.raises(SpecError) as caught:
        read(root, text)
    assert caught.value.exit_code == ExitCode.USAGE
    assert caught.value.file == "models.yaml"
    return [f"{problem.line}:{problem.column}: {problem.text}" for problem in caught.value.problems]


def model(**fields: str) -> str:
    """A file with the model `m` at line 3, whose fields stand from line 4 on, two spaces of indent,
    in order."""
    entries = {"source": "m:f", "inputs": "[{shape: [2]}]", **fields}
    return "version: 1\nmodels:\n m:\n" + "".join(
        f"  {key}: {value}\n" for key, value in entries.items() if value
    )
