"""Weights that are used where they lie in the unpacked package: the numbers are those of eager
mode, whatever kind the weights are, whatever is written into them, and whatever replaces them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import run_inv
from projects import write_single
from torch import nn

import aoti_build
from aoti_build.runtime import mapped
from aoti_build.runtime.model import LoadedModel

NETS = """
    import torch
    from torch import nn


    class Kinds(nn.Module):
        \"\"\"Weights of several dtypes and layouts, tied ones, one value, and none at all.\"\"\"

        def __init__(self):
            super().__init__()
            self.first = nn.Linear(64, 64)
            self.second = nn.Linear(64, 64)
            self.second.weight = self.first.weight
            self.narrow = nn.Parameter(torch.randn(64).to(torch.bfloat16))
            self.register_buffer("strided", torch.randn(8, 8).t())
            self.register_buffer("keep", torch.arange(64) % 3 == 0)
            self.register_buffer("step", torch.tensor(3))
            self.register_buffer("nothing", torch.zeros(0, 64))

        def forward(self, x):
            x = self.second(torch.relu(self.first(x))) + self.narrow
            x = torch.where(self.keep, x, x * self.step) + self.strided.reshape(64)
            return torch.cat([x, self.nothing])


    class Remembers(nn.Module):
        \"\"\"State beside weights.\"\"\"

        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(64, 64)
            self.register_buffer("last", torch.ones(2, 64))
            self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
            self.register_buffer("shift", torch.randn(64))

        def forward(self, x):
            y = self.linear(x) + self.last + self.shift + self.calls
            self.last.copy_(x)
            self.calls += 1
            return y
"""
MODELS = """
    kinds:
      source: net.py:Kinds
      inputs: [{shape: [4, 64]}]
    remembers:
      source: net.py:Remembers
      inputs: [{shape: [2, 64]}]
"""
X = torch.linspace(-1, 1, 256).reshape(4, 64)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("mapped") / "project"
    write_single(root, NETS, MODELS)
    finished = run_inv(root, "build", "--json")
    assert finished.code == 0, finished.err
    return root


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A private directory for unpacked packages in which nothing is yet."""
    tmp_path.chmod(0o700)
    monkeypatch.setenv("AOTI_BUILD_RUNTIME_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def load(project: Path, model: str, **options: Any) -> LoadedModel:
    return aoti_build.load(model, artifacts=project / "artifacts", **options)


def eager(project: Path, name: str) -> nn.Module:
    """The model of the project with the weights in its artifact."""
    namespace: dict[str, Any] = {}
    exec((project / "net.py").read_text(), namespace)  # noqa: S102 - the test's own source
    seed = json.loads((project / f"artifacts/{name.lower()}/cpu/manifest.json").read_text())
    torch.manual_seed(int(seed["source"]["spec"]["seed"]))
    made: nn.Module = namespace[name]().eval()
    return made


@torch.no_grad()
def same_calls(model: LoadedModel, expected: nn.Module, count: int = 3) -> None:
    """Both give the same in each of several calls."""
    rows = 2 if model.state else 4
    for number in range(count):
        x = X[:rows] + number
        torch.testing.assert_close(model(x), expected(x), atol=1e-4, rtol=1e-3)


def copied_bytes() -> dict[str, int]:
    """For each mapped blob of this process: how many bytes of it are the process's own."""
    found: dict[str, int] = {}
    name = ""
    for line in Path("/proc/self/smaps").read_text().splitlines():
        word, _, rest = line.partition(" ")
        if not word.endswith(":"):
            name = rest.rpartition(" ")[2]
        elif word == "Anonymous:" and name.endswith("weights.blob"):
            found[name] = found.get(name, 0) + int(rest.split()[0]) * 1024
    return found


@pytest.mark.parametrize("verify", ["full", "stat", "off"])
@pytest.mark.parametrize("own", [False, True], ids=["private directory", "own copies"])
def test_every_kind_of_weight_has_its_values(
    project: Path, monkeypatch: pytest.MonkeyPatch, verify: Any, own: bool
) -> None:
    if own:
        monkeypatch.setenv("AOTI_BUILD_RUNTIME_CACHE", "off")
    with load(project, "kinds", verify=verify) as model:
        assert model.metadata["load"]["mapped"]
        same_calls(model, eager(project, "Kinds"))
    with load(project, "kinds", verify=verify, num_runners=2) as model:
        same_calls(model, eager(project, "Kinds"))


def test_a_process_has_no_copy_of_weights_that_nobody_writes_into(
    project: Path, cache: Path
) -> None:
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import torch, aoti_build, test_mapped_weights as t\n"
        "model = aoti_build.load('kinds', artifacts=sys.argv[2])\n"
        "print(model(t.X).double().sum().item(), t.copied_bytes())\n"
    )
    answers = []
    for _ in range(2):
        command = [sys.executable, "-c", script, os.path.dirname(__file__), project / "artifacts"]
        answers.append(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert answers[0] == answers[1]
    path = next(cache.rglob("weights.blob"))
    assert answers[0].endswith(f"{{'{path}': 0}}\n")


def test_state_is_each_models_own_and_can_be_reset(project: Path) -> None:
    with load(project, "remembers") as one, load(project, "remembers") as other:
        assert one.metadata["load"]["mapped"]
        same_calls(one, eager(project, "Remembers"))
        same_calls(other, eager(project, "Remembers"))
        one.reset_state()
        same_calls(one, eager(project, "Remembers"), count=5)
    assert set(copied_bytes().values()) <= {0}, "the state is not in the mapping"


@pytest.mark.parametrize("partial", [False, True])
def test_new_weights_stay_after_a_reset(project: Path, partial: bool) -> None:
    expected = eager(project, "Remembers")
    replaced = {name: torch.rand_like(value.float()) for name, value in expected.named_parameters()}
    replaced["last"] = torch.full((2, 64), 5.0)
    if partial:
        del replaced["linear.bias"]
    else:
        replaced |= {"calls": torch.tensor(7), "shift": torch.rand(64)}
    start = {name: value.clone() for name, value in expected.state_dict().items()} | replaced
    expected.load_state_dict(start)
    with load(project, "remembers") as model:
        same_calls(model, eager(project, "Remembers"))
        # Values that the update omits stay as the calls left them, so it starts from a reset.
        model.reset_state()
        model.update_weights(replaced, partial=partial)
        same_calls(model, expected)
        model.reset_state()
        expected.load_state_dict(start)
        same_calls(model, expected)
    with load(project, "remembers") as model:
        same_calls(model, eager(project, "Remembers"))


def test_new_weights_of_one_model_are_not_those_of_another(project: Path) -> None:
    expected = eager(project, "Kinds")
    with load(project, "kinds") as changed, load(project, "kinds") as unchanged:
        changed.update_weights({"first.bias": torch.full((64,), 2.0)}, partial=True)
        same_calls(unchanged, expected)
        expected.load_state_dict({"first.bias": torch.full((64,), 2.0)}, strict=False)
        same_calls(changed, expected)


def test_a_model_runs_on_after_its_files_are_removed(project: Path, cache: Path) -> None:
    with load(project, "remembers") as model:
        for path in sorted(cache.rglob("*"), reverse=True):
            if path.is_dir():
                path.rmdir()
            else:
                path.unlink()
        same_calls(model, eager(project, "Remembers"))
        model.reset_state()
        same_calls(model, eager(project, "Remembers"))
    with load(project, "remembers") as model:
        same_calls(model, eager(project, "Remembers"))


def test_damaged_weights_are_unpacked_anew(project: Path, cache: Path) -> None:
    load(project, "kinds").close()
    blob = next(cache.rglob("weights.blob"))
    blob.chmod(0o600)
    content = bytearray(blob.read_bytes())
    content[100] ^= 0x40
    blob.write_bytes(content)
    with load(project, "kinds") as model:
        same_calls(model, eager(project, "Kinds"))


def test_loads_in_one_process_use_one_mapping(project: Path) -> None:
    before = len(mapped._mappings)
    with load(project, "kinds"), load(project, "kinds") as model:
        same_calls(model, eager(project, "Kinds"))
    with load(project, "kinds") as model:
        same_calls(model, eager(project, "Kinds"))
    assert len(mapped._mappings) == before + 1


@pytest.fixture(autouse=True)
def _forget_mappings() -> Iterator[None]:
    """The files of a test are its own, so no other test finds their mappings."""
    yield
    mapped._mappings.clear()
