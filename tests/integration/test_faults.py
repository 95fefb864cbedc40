"""Seeded faults: each is caught by the check of a build or by `verify`, and named."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from conftest import Finished, run_inv
from projects import write_single

from aoti_build.common.digests import digest_file, digest_json
from aoti_build.models_file import load_project
from aoti_build.work.check_failure import find_cause

NET = """\
import torch
from torch import nn
from torch.nn import functional as F


class Block(nn.Module):
    def __init__(self, fault):
        super().__init__()
        self.fault = fault
        self.norm = nn.LayerNorm(8)
        self.up = nn.Linear(8, 8)
        self.act = nn.GELU()
        self.down = nn.Linear(8, 8)

    def forward(self, x):
        # What a fault in export or compiler would do: compiled code computes something else than
        # eager.
        fault = self.fault if torch.compiler.is_exporting() else ""
        up, down = (self.down, self.up) if fault == "swapped weights" else (self.up, self.down)
        if fault == "eps":
            h = F.layer_norm(x, (8,), self.norm.weight, self.norm.bias, 1e-3)
        else:
            h = self.norm(x)
        h = up(h)
        if fault != "no activation":
            h = self.act(h)
        if fault == "overflow":
            # Products of matrices, since inductor computes fused half arithmetic in float32, where
            # nothing overflows.
            large = 60000.0 * torch.eye(8, dtype=torch.float16)
            h = (h.half() @ large @ large).float() / 60000.0**2
        return x + down(h)


class Net(nn.Module):
    def __init__(self, fault):
        super().__init__()
        self.fault = fault
        self.first = nn.Linear(8, 8)
        self.block = Block(fault)
        self.head = nn.Linear(8, 8)

    def forward(self, x):
        fault = self.fault if torch.compiler.is_exporting() else ""
        x = self.block(self.first(x.transpose(0, 1) if fault == "transposed" else x))
        outputs = (self.head(x), x)
        return {"dropped": outputs[:1], "order": outputs[::-1]}.get(fault, outputs)


def build(fault=""):
    return Net(fault)
"""
# What the build's error must say beside "does not do what the model does".
FAULTS = {
    "swapped weights": ["block.down"],
    "eps": ["block.up", "net.py:"],
    "no activation": ["block.down", "eager mode also runs block.act"],
    "transposed": ["first [Linear]"],
    "overflow": ["NaN or infinity"],
    "dropped": ["1 outputs, expected 2"],
    "order": ["the order is another"],
}


QUICK_FAULTS = ["no activation", "dropped"]
# The slow tests try these.
MORE_FAULTS = [fault for fault in FAULTS if fault not in QUICK_FAULTS]
SOUND = "sound"


def built_with(root: Path, names: Iterable[str]) -> tuple[Path, Finished]:
    """The finished build of a project with a model for each of `names`: faults, and `SOUND`."""
    models = ""
    for name in names:
        models += f"{name.replace(' ', '_')}:\n"
        models += "  source: net.py:build\n  inputs: [{shape: [8, 8]}]\n"
        if name != SOUND:
            models += f"  kwargs: {{fault: {name}}}\n"
    write_single(root, NET, models)
    return root, run_inv(root, "build", "--keep-going", "--jobs", "2", "--json")


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Finished]:
    return built_with(tmp_path_factory.mktemp("faults") / "project", [*QUICK_FAULTS, SOUND])


@pytest.fixture(scope="module")
def more_faulty(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Finished]:
    return built_with(tmp_path_factory.mktemp("more-faults") / "project", MORE_FAULTS)


@pytest.mark.parametrize("fault", QUICK_FAULTS)
def test_compiled_code_that_differs_is_not_published_and_where_is_said(
    faulty: tuple[Path, Finished], fault: str
) -> None:
    assert_not_published(*faulty, fault)


@pytest.mark.slow
@pytest.mark.parametrize("fault", MORE_FAULTS)
def test_other_faults_are_not_published_and_where_is_said(
    more_faulty: tuple[Path, Finished], fault: str
) -> None:
    assert_not_published(*more_faulty, fault)


def assert_not_published(root: Path, finished: Finished, fault: str) -> None:
    row = finished.target(f"{fault.replace(' ', '_')}/cpu")
    assert row["action"] == "failed"
    error = row["error"]
    assert "does not do what the model does in eager mode" in error["message"]
    for said in FAULTS[fault]:
        assert said in error["cause"]
    assert not (root / "artifacts" / fault.replace(" ", "_")).exists()


@pytest.fixture
def sound(faulty: tuple[Path, Finished], tmp_path: Path) -> Path:
    root = tmp_path / "project"
    shutil.copytree(faulty[0], root)
    return root


def test_the_sound_one_passes_strictly_with_other_seeds_and_fresh_references(sound: Path) -> None:
    finished = run_inv(sound, "verify", "--target", "sound", "--strict", "--seeds", "2", "--json")
    assert finished.code == 0, finished.out
    row = finished.target("sound/cpu")
    assert [case["name"] for case in row["cases"]] == ["example", "example seed 1"]
    assert row["vacuous"] == []
    assert all(probed["ok"] for probed in row["refusals"])
    assert {"x: float64", "x: rank 3"} <= {probed["name"] for probed in row["refusals"]}
    for output in (output for case in row["cases"] for output in case["outputs"]):
        assert output["fp64"]["candidate_rmse"] < 1e-6
        assert output["cosine"] > 0.999


def test_one_weight_off_is_found_named_and_reproduced(sound: Path, tmp_path: Path) -> None:
    def off(values: Any) -> None:
        values[3] += 1e-2

    tamper(sound / "artifacts/sound/cpu", off)
    reports = {kind: tmp_path / f"report.{kind}" for kind in ("xml", "html")}
    options = (
        "--localize",
        "--repro",
        str(tmp_path / "repro"),
        "--junit",
        str(reports["xml"]),
        "--html",
        str(reports["html"]),
    )
    finished = run_inv(sound, "verify", "--target", "sound", *options, "--json")
    assert finished.code == 3
    row = finished.target("sound/cpu")
    assert row["verdict"] == "mismatch"
    assert row["localization"]["stage"] == "weights"
    (weight,) = row["localization"]["weights"]
    assert weight["name"] in row["localization"]["said"]
    assert weight["max_abs"] == pytest.approx(1e-2, rel=1e-3)
    assert "<failure" in reports["xml"].read_text()
    assert "sound/cpu" in reports["html"].read_text()
    script = tmp_path / "repro/sound-cpu/repro.py"
    answer = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert answer.returncode == 1, answer.stderr
    assert "differ, max abs" in answer.stdout


def tamper(artifact: Path, change: Callable[[Any], object]) -> None:
    """Change the weights inside a package, and let the manifest say so: an artifact whose digests
    are right."""
    import torch

    package = artifact / "model.pt2"
    with zipfile.ZipFile(package) as archive:
        entries = {entry.partition("/")[2]: archive.read(entry) for entry in archive.namelist()}
    writer = torch._C.PyTorchFileWriter(str(package))
    writer.set_min_version(6)
    for name, content in list(entries.items()):
        if name in (".data/version", ".data/serialization_id", "byteorder"):
            continue
        if name.endswith("_weights.blob"):
            values = torch.frombuffer(bytearray(content), dtype=torch.float32)
            change(values)
            entries[name] = values.numpy().tobytes()
        writer.write_record(name, entries[name], len(entries[name]))
    writer.write_end_of_file()
    document = json.loads((artifact / "manifest.json").read_bytes())
    document["files"]["model.pt2"] = {
        "sha256": digest_file(package),
        "size": package.stat().st_size,
    }
    body = {name: value for name, value in document.items() if name != "sha256"}
    (artifact / "manifest.json").write_text(json.dumps({**body, "sha256": digest_json(body)}))


MISCOMPILED = """\
import torch
from torch import nn
from torch._inductor import config
from torch._inductor.custom_graph_pass import CustomGraphPass


class Wrong(CustomGraphPass):
    def __call__(self, graph):
        for node in graph.nodes:
            if node.target is torch.ops.aten.tanh.default:
                node.target = torch.ops.aten.sigmoid.default

    def uuid(self):
        return b"wrong"


def build():
    config.post_grad_custom_post_pass = Wrong()
    return nn.Sequential(
        nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8), nn.Softmax(-1)
    )
"""


@pytest.mark.slow
def test_a_fault_of_the_compiler_is_found_by_compiling_prefixes(tmp_path: Path) -> None:
    """Model, export and weights agree: only compiled code differs, from one module on."""
    write_single(tmp_path, MISCOMPILED, "net: {source: net.py:build, inputs: [{shape: [2, 8]}]}\n")
    project = load_project(tmp_path / "models.yaml")
    (target,) = project.targets
    found = find_cause(
        project, target, None, None, directory=tmp_path / "work", log=tmp_path / "log", bisect=True
    )
    assert found.stage == "compile"
    assert found.left is not None
    assert (found.left.module, found.left.class_name) == ("3", "Tanh")
    assert "compiled code first differs from the model at the output of 3 [Tanh]" in found.said
