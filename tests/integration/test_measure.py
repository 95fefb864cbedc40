"""Samples of real artifacts in real processes, and `tune` from end to end."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import run_inv
from projects import write_project
from torch.utils import _pytree as pytree

from aoti_build.measurement.samples import LEAST_CALLS, Sampler
from aoti_build.models_file import load_project
from aoti_build.models_file.parsing.tuned_file import parse_tuned
from aoti_build.runtime.flat_call import call_of


def test_every_artifact_can_be_sampled(built: Path, tmp_path: Path) -> None:
    """By position, by keyword, with dims, and with inputs from a callable."""
    project = load_project(built / "models.yaml")
    sampler = Sampler(project, private(tmp_path))
    for target in project.targets:
        found = sampler.artifact(target)
        assert found.calls >= LEAST_CALLS
        assert 0 < found.median <= found.p95 < 60
        assert 1 << 26 < found.peak_memory < 1 << 35
        assert (project.artifacts / ".logs").is_dir()


def test_the_arguments_of_a_call_come_back_from_its_tensors() -> None:
    first, second, third = torch.ones(1), torch.ones(2), torch.ones(3)
    args = (first, {"b": second, "a": 3})
    kwargs = {"flag": None, "mask": [third]}
    leaves, spec = pytree.tree_flatten((args, kwargs))
    entries = []
    for leaf in leaves:
        is_tensor = isinstance(leaf, torch.Tensor)
        entries.append({"name": "x"} if is_tensor else {"name": "x", "constant": repr(leaf)})
    signature = {"inputs": entries}
    model: Any = SimpleNamespace(in_spec=spec, metadata={"signature": signature})
    tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
    restored_args, restored_kwargs = call_of(model, tensors)
    assert restored_args[0] is first
    assert restored_args[1] == {"b": second, "a": 3}
    assert restored_args[1]["b"] is second
    assert restored_kwargs == {"flag": None, "mask": [third]}
    assert restored_kwargs["mask"][0] is third


@pytest.fixture
def one_processor() -> Iterator[None]:
    """On one processor no number of threads is tried."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    yield
    os.sched_setaffinity(0, before)


@pytest.mark.slow  # it compiles four times
@pytest.mark.usefixtures("one_processor")
def test_tune_from_end_to_end(tmp_path: Path) -> None:
    root = tmp_path / "project"
    write_project(root)
    text = (root / "models.yaml").read_text()
    (root / "models.yaml").write_text(
        text.split("  tagger:")[0] + "    inductor_configs: [default, tuned]\n"
    )
    # A wide band ends with the first half of the pairs.
    words = ("--json", "--peers", "--budget", "30m", "--band", "50")
    finished = run_inv(root, "tune", *words, limit=2400)
    assert finished.code == 0, finished.err
    (target,) = finished.json["targets"]
    names = [row["name"] for row in target["candidates"]]
    assert names == ["default", "freezing", "max-autotune", "freezing+max-autotune"]
    assert {row["outcome"] for row in target["candidates"]} == {"measured"}
    better = [
        row["name"] for row in target["candidates"][1:] if row["comparison"]["verdict"] == "better"
    ]
    assert (target["chosen"] in better) if better else (target["chosen"] is None)
    file = root / "tuned.yaml"
    assert file.exists() == bool(better)
    if better:
        assert list(parse_tuned(file.read_bytes())) == ["linear/cpu-tuned"]
    assert not (root / "artifacts" / ".tuning").exists()
    assert not (root / "artifacts" / "linear").exists()
    again = run_inv(root, "tune", "--json", "--budget", "1s")
    assert again.code == 0, again.err
    assert "compile" not in again.err, "the store has the candidates"
    assert json.loads(again.out)["targets"][0]["entry"] == "unchanged"


def private(tmp_path: Path) -> Path:
    directory = tmp_path / "scratch"
    directory.mkdir(mode=0o700)
    return directory
