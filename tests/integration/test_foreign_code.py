"""Operators that other packages register, and types that they give: found, kept in the manifest,
imported by a load."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import phases_of, run_inv

OPS = """\
import torch

library = torch.library.Library("mine", "FRAGMENT")
library.define("scale(Tensor x, float factor) -> Tensor")


@torch.library.impl(library, "scale", "CPU")
def scale(x, factor):
    return x * factor


@torch.library.register_fake("mine::scale", lib=library)
def _(x, factor):
    return torch.empty_like(x)


@torch.library.custom_op("mine::bump", mutates_args=["x"])
def bump(x: torch.Tensor) -> None:
    x.add_(1)
"""
NET = """\
import dataclasses
import typing

import torch
from torch import nn
from torch.utils import _pytree as pytree

import ops


@dataclasses.dataclass
class Out:
    scores: torch.Tensor
    count: int


# As diffusers does: without a function for keys.
pytree.register_pytree_node(
    Out, lambda o: ([o.scores, o.count], None), lambda v, _: Out(*v), serialized_type_name="net.Out"
)


class Pair(typing.NamedTuple):
    left: torch.Tensor
    right: float


class Net(nn.Module):
    def __init__(self, own=True):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.own = own

    def forward(self, x, mask=None, tag="", flag=True):
        y = self.linear(x)
        if self.own:
            y = torch.ops.mine.scale(y, 2.0) + 1
            ops.bump(y)
        if mask is not None:
            y = y * mask
        return {
            "out": Out(y, 3),
            "pair": Pair(y * 2, 0.25),
            "size": x.shape[0],
            "half": x.shape[0] / 2,
            "many": x.shape[0] > 2,
            "tag": tag,
            "none": None,
            "flag": flag,
        }


def late():
    @torch.library.custom_op("mine::late", mutates_args=[])
    def twice(x: torch.Tensor) -> torch.Tensor:
        return x * 2

    @twice.register_fake
    def _(x):
        return torch.empty_like(x)

    class Late(nn.Module):
        def forward(self, x):
            return twice(x)

    return Late()


class Constant(nn.Module):
    def forward(self, x):
        return x * 2, 1 if torch.compiler.is_exporting() else 2


@dataclasses.dataclass
class Unnamed:
    scores: torch.Tensor


pytree.register_pytree_node(Unnamed, lambda o: ([o.scores], None), lambda v, _: Unnamed(*v))


class Nameless(nn.Module):
    def forward(self, x):
        return Unnamed(x * 2)
"""
BOXES = """\
import torch
import torchvision
from torch import nn


class Boxes(nn.Module):
    def forward(self, boxes, scores):
        corners = torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)
        return torchvision.ops.nms(corners, scores, 0.5)
"""
YAML = """\
version: 1
models:
  typed:
    source: nets/net.py:Net
    dims: {n: {min: 1, max: 8, example: 4}}
    inputs:
      x: {shape: [n, 4]}
      mask: {shape: [n, 1], dtype: bool, probability: 1}
      tag: {value: hello}
      flag: {value: false}
  plain:
    source: nets/net.py:Net
    kwargs: {own: false}
    outputs: dict
    dims: {n: {min: 1, max: 8, example: 4}}
    inputs: [{shape: [n, 4]}, {value: null}, {value: hello}]
  boxes:
    source: boxes.py:Boxes
    dims: {n: {min: 1, max: 64, example: 16}}
    inputs: [{shape: [n, 4], low: 0, high: 100}, {shape: [n], low: 0}]
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("foreign")
    (root / "nets").mkdir()
    (root / "nets" / "ops.py").write_text(OPS)
    (root / "nets" / "net.py").write_text(NET)
    (root / "boxes.py").write_text(BOXES)
    (root / "models.yaml").write_text(YAML)
    (root / "tasks.py").write_text("from aoti_build.tasks import ns\n")
    finished = run_inv(root, "build")
    assert finished.code == 0, finished.err
    return root


def manifest(root: Path, model: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        (root / "artifacts" / model / "cpu" / "manifest.json").read_text()
    )
    return found


def in_service(root: Path, code: str, *path: Path) -> subprocess.CompletedProcess[str]:
    """Run `code` in a process that has the artifacts, and of the project only what is on `path`."""
    head = f"import torch, aoti_build\nartifacts = {str(root / 'artifacts')!r}\n"
    found = os.pathsep.join([*map(str, path), os.environ.get("PYTHONPATH", "")])
    words, environment = [sys.executable, "-c", head + code], {**os.environ, "PYTHONPATH": found}
    return subprocess.run(
        words, cwd=root / "artifacts", env=environment, capture_output=True, text=True, check=False
    )


def test_the_manifest_names_who_registered_what(built: Path) -> None:
    assert manifest(built, "typed")["requires"]["imports"] == [
        {"module": "ops", "operators": ["mine::bump", "mine::scale"], "types": []},
        {"module": "net", "operators": [], "types": ["net.Out", "net.Pair"]},
    ]
    assert "imports" not in manifest(built, "plain")["requires"]
    (boxes,) = manifest(built, "boxes")["requires"]["imports"]
    assert boxes["module"].startswith("torchvision")
    assert boxes["operators"] == ["torchvision::nms"]


def test_a_load_gives_what_eager_gives(built: Path) -> None:
    code = """
import net
torch.manual_seed(0)
eager = net.Net()
with aoti_build.load("typed", artifacts=artifacts) as model:
    model.update_weights(eager.state_dict())
    for n in (1, 2, 7):
        given = {"x": torch.randn(n, 4), "mask": torch.rand(n, 1) < 0.5}
        got, wanted = model(**given), eager(**given, tag="hello", flag=False)
        tensors = [got["out"].scores, *got["pair"]]
        torch.testing.assert_close(tensors, [wanted["out"].scores, *wanted["pair"]])
        for name in wanted:
            assert type(got[name]) is type(wanted[name]), name
        rest = ("size", "half", "many", "tag", "none", "flag")
        assert [repr(got[name]) for name in rest] == [repr(wanted[name]) for name in rest]
        assert got["out"].count == 3
    model(**given, tag="hello", flag=False)
    try:
        model(**given, flag=True)
    except aoti_build.errors.InputError as error:
        print(error)
"""
    done = in_service(built, code, built / "nets")
    assert done.returncode == 0, done.stderr
    assert "input flag: expected False, which is compiled in, given True" in done.stdout


def test_a_load_without_the_module_says_what_is_missing(built: Path) -> None:
    done = in_service(built, 'aoti_build.load("typed", artifacts=artifacts)')
    message = "typed/cpu: the artifact needs the operator mine::bump, the operator mine::scale"
    assert message in done.stderr
    assert "No module named 'ops'" in done.stderr
    assert "PYTHONPATH" in done.stderr


def test_a_load_may_be_told_to_import_nothing(built: Path) -> None:
    load = 'aoti_build.load("typed", artifacts=artifacts, imports=False)'
    refused = in_service(built, load, built / "nets")
    assert "imports=False, and nothing has imported ops" in refused.stderr
    done = in_service(built, f"import net\n{load}", built / "nets")
    assert done.returncode == 0, done.stderr


def test_plain_outputs_need_no_library(built: Path) -> None:
    code = 'print(aoti_build.load("plain", artifacts=artifacts)(torch.ones(1, 4)))'
    done = in_service(built, code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("{'out': {'scores': tensor(")
    assert "'pair': {'left': tensor(" in done.stdout
    assert (
        "'size': 1, 'half': 0.5, 'many': False, 'tag': 'hello', 'none': None, 'flag': True}"
        in done.stdout
    )
    names = [entry["name"] for entry in manifest(built, "plain")["signature"]["outputs"]]
    assert names[:4] == [
        "['out']['scores']",
        "['out']['count']",
        "['pair']['left']",
        "['pair']['right']",
    ]


def test_one_box_is_kept(built: Path) -> None:
    code = """
import torchvision
with aoti_build.load("boxes", artifacts=artifacts) as model:
    for n in (1, 2, 30):
        boxes, scores = torch.rand(n, 4), torch.rand(n)
        corners = torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)
        assert torch.equal(model(boxes, scores), torchvision.ops.nms(corners, scores, 0.5))
"""
    done = in_service(built, code)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_run_and_verify_import_too(built: Path) -> None:
    verified = run_inv(built, "verify", "--target", "typed", "--json")
    assert (verified.code, verified.target("typed/cpu")["verdict"]) == (0, "passed"), verified.err
    ran = run_inv(built, "run", "--target", "typed", "--input", "random", "--json")
    assert (ran.code, ran.target("typed/cpu")["verdict"]) == (0, "passed"), ran.err


@pytest.mark.slow
def test_what_cpp_cannot_have_is_unavailable(built: Path, cpp_cache: dict[str, str]) -> None:
    done = run_inv(built, "verify", "--runtime", "cpp", "--json", env=cpp_cache)
    assert done.code == 0, done.err
    typed = done.target("typed/cpu")
    assert (typed["verdict"], typed["out_of_date"][0]["reason"]) == ("unavailable", "not-in-cpp")
    assert (
        "no C++ library registers the operator mine::bump: Python code does"
        in typed["out_of_date"][0]["what"]
    )
    assert done.target("plain/cpu")["verdict"] == "passed"
    # torchvision's library is loaded, or the verdict says why it cannot be.
    assert done.target("boxes/cpu")["verdict"] in ("passed", "unavailable")


MORE = """\
version: 1
models:
  late: {source: nets/net.py:late, inputs: [{shape: [2, 4]}]}
  constant: {source: nets/net.py:Constant, inputs: [{shape: [2, 4]}]}
  nameless: {source: nets/net.py:Nameless, inputs: [{shape: [2, 4]}]}
"""


def test_what_cannot_be_is_said_before_the_compile(built: Path) -> None:
    (built / "more.yaml").write_text(MORE)
    done = run_inv(built, "build", "--file", "more.yaml", "--keep-going")
    assert done.code == 1
    assert (
        "the operator mine::late is registered by a function that the model's source calls"
        in done.out
    )
    assert "more.yaml:3:" in done.out
    assert "the output [1] became the constant 1 in the export" in done.out
    assert "in eager mode it is 2" in done.out
    assert "constant/cpu: more.yaml:4:" in done.out
    assert "nameless/cpu: more.yaml:5:" in done.out
    assert "the structure of the outputs cannot be stored in a package" in done.out
    assert "set `outputs: dict` for the model" in done.out
    for name in ("late", "constant", "nameless"):
        assert "compile" not in phases_of(built, f"{name}/cpu")
