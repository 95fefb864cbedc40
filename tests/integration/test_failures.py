"""What goes wrong in a worker: each has its exit code, its place and its next step, and publishes
nothing. test_mistakes.py has the mistakes that are typical."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import Finished, run_inv
from projects import write_weights

from aoti_build.errors import BuildError
from aoti_build.messages import CompileJob
from aoti_build.work.worker import run_worker

NETS = '''
import torch
import urllib.error
from torch import nn

NUMBER = 3


def no_module():
    return 7


def interrupts():
    raise KeyboardInterrupt


def exits():
    raise SystemExit(0)


def sparse():
    model = Linear()
    model.register_buffer("adjacency", torch.eye(8).to_sparse())
    return model


def offline():
    raise urllib.error.URLError("no route to host")


class Linear(nn.Module):
    def __init__(self, bias=True):
        super().__init__()
        self.a = nn.Linear(8, 12, bias=bias)
        self.b = nn.Linear(12, 4)

    def forward(self, x):
        return self.b(self.a(x))


class Branch(nn.Module):
    def forward(self, x):
        return x + 1 if x.sum() > 0 else x - 1


class Equal(nn.Module):
    def forward(self, x, y):
        return x + y


class Writer(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(8))

    def forward(self, x):
        if not torch.compiler.is_compiling():
            self.weight.add_(1)
        return x * self.weight


class Liar(nn.Module):
    """Eager and compiled differ."""

    def forward(self, x):
        return x * 2.0 if torch.compiler.is_compiling() else x * 2.01
'''
MODELS = """\
version: 1
inductor_configs:
  misspelt: {max_autotun: true}
models:
  not_callable: {source: "nets.py:NUMBER", inputs: [{shape: [2, 8]}]}
  no_module: {source: "nets.py:no_module", inputs: [{shape: [2, 8]}]}
  interrupts: {source: "nets.py:interrupts", inputs: [{shape: [2, 8]}]}
  exits: {source: "nets.py:exits", inputs: [{shape: [2, 8]}]}
  sparse: {source: "nets.py:sparse", inputs: [{shape: [2, 8]}]}
  writer: {source: "nets.py:Writer", inputs: [{shape: [2, 8]}]}
  offline: {source: "nets.py:offline", inputs: [{shape: [2, 8]}]}
  truncated: {source: "nets.py:Linear", weights: truncated.safetensors, inputs: [{shape: [2, 8]}]}
  wrong_names:
    source: nets.py:Linear
    kwargs: {bias: false}
    weights: whole.safetensors
    inputs: [{shape: [2, 8]}]
  wrong_shape: {source: "nets.py:Linear", inputs: [{shape: [2, 9]}]}
  preset: {source: "nets.py:Linear", inputs: [{shape: [2, 8]}], inductor_configs: [misspelt]}
  branch: {source: "nets.py:Branch", inputs: [{shape: [2, 8]}]}
  equal:
    source: nets.py:Equal
    dims: {a: {min: 2, max: 9, example: 4}, b: {min: 2, max: 9, example: 4}}
    inputs: [{shape: [a, 8]}, {shape: [b, 8]}]
  liar: {source: "nets.py:Liar", inputs: [{shape: [2, 8]}]}
"""

# target -> exit code of its error, and what the user must be told
EXPECTED: dict[str, tuple[str, list[str]]] = {
    "not_callable": ("usage", ["is not callable, its type is int"]),
    "no_module": ("usage", ["returned int, not an nn.Module"]),
    "interrupts": ("build", ["unexpected KeyboardInterrupt"]),
    "exits": ("usage", ["the factory raised", "SystemExit"]),
    "sparse": ("build", ["sparse", "to_dense()"]),
    "writer": ("build", ["writes into weight", "register_buffer"]),
    "offline": ("usage", ["could not be downloaded", "no route to host", "weights: null"]),
    "truncated": ("usage", ["truncated.safetensors cannot be read as weights"]),
    "wrong_names": (
        "usage",
        ["whole.safetensors does not fit the model", "not in the model: a.bias"],
    ),
    "wrong_shape": ("usage", ["fails in eager mode", "[2, 9]"]),
    "preset": ("usage", ["no inductor option 'max_autotun'", "max_autotune"]),
    "branch": ("build", ["cannot be exported", "torch.cond"]),
    "equal": ("build", ["cannot be exported", "Suggested fixes", "b = a"]),
    "liar": ("build", ["does not do what the model does", "was not published"]),
}


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Finished]:
    root = tmp_path_factory.mktemp("failures")
    (root / "nets.py").write_text(NETS)
    (root / "models.yaml").write_text(MODELS)
    (root / "tasks.py").write_text("from aoti_build.tasks import ns\n")
    write_weights(root / "whole.safetensors", seed=1)
    whole = (root / "whole.safetensors").read_bytes()
    (root / "truncated.safetensors").write_bytes(whole[: len(whole) // 2])
    return root, run_inv(root, "build", "--keep-going", "--json")


@pytest.mark.parametrize("model", EXPECTED)
def test_each_mistake_is_named(failed: tuple[Path, Finished], model: str) -> None:
    row: dict[str, Any] = next(
        row for row in failed[1].json["targets"] if row["target"].startswith(f"{model}/")
    )
    kind, texts = EXPECTED[model]
    assert row["action"] == "failed"
    error = row["error"]
    assert error["kind"] == kind
    told = " ".join(str(error.get(name, "")) for name in ("where", "message", "cause", "hint"))
    for text in texts:
        assert text in told
    assert Path(error["log"]).is_file()


def test_nothing_was_published_and_no_traceback_was_shown(failed: tuple[Path, Finished]) -> None:
    root, finished = failed
    assert finished.code == 1
    assert "Traceback" not in finished.err
    assert not list((root / "artifacts").glob("*/*/model.pt2"))
    assert not list((root / "artifacts/.staging").iterdir())


def test_a_mistake_in_the_models_own_files_exits_2(failed: tuple[Path, Finished]) -> None:
    assert run_inv(failed[0], "build", "--target", "no_module").code == 2


def test_a_download_that_fails_says_what_else_can_be_done(tmp_path: Path) -> None:
    (tmp_path / "tasks.py").write_text("from aoti_build.tasks import ns\n")
    (tmp_path / "models.yaml").write_text(
        "version: 1\n"
        "models:\n"
        "  resnet18:\n"
        "    source: torchvision.models:resnet18\n"
        "    kwargs: {weights: DEFAULT}\n"
        "    inputs: [{shape: [2, 3, 224, 224]}]\n"
    )
    nowhere = {
        "http_proxy": "http://127.0.0.1:9",
        "https_proxy": "http://127.0.0.1:9",
        "TORCH_HOME": str(tmp_path),
    }
    finished = run_inv(tmp_path, "build", env=nowhere)
    assert finished.code == 2
    for text in (
        "resnet18/cpu",
        "models.yaml:5:",
        "could not be downloaded",
        "URLError",
        "weights: path.safetensors",
    ):
        assert text in finished.out + finished.err


def test_a_worker_that_cannot_write_its_result_says_why(tmp_path: Path) -> None:
    directory = tmp_path / "work"
    command = ("sh", "-c", f"rm -r {directory}; touch {directory}")
    job = CompileJob(root=str(tmp_path), command=command, what="nothing")
    with pytest.raises(BuildError, match="the disk refused") as caught:
        run_worker(job, directory=directory, log=tmp_path / "log")
    assert str(directory) in str(caught.value.cause)
    assert caught.value.log == tmp_path / "log"
