"""Typical mistakes in user code, in what models.yaml says about it, and in files of weights.

All are made in one `inv build --keep-going`. Each has its exit code, its place (the user's own line
of code, or one of models.yaml) and its next step. tests/unit/test_mistakes.py has those that need
no worker.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from conftest import Finished, run_inv

pytestmark = pytest.mark.slow

NETS = """
import torch
from torch import nn


class Linear(nn.Module):
    def __init__(self, width=12):
        super().__init__()
        self.a = nn.Linear(8, width)
        self.b = nn.Linear(width, 4)

    def forward(self, x):
        return self.b(self.a(x))


instance = Linear()


def pick(index):
    return [1, 2, 3][index]


def raises():
    return Linear(pick(7))


def needs(labels, hidden=3):
    return Linear(hidden)


def on_gpu():
    return Linear().cuda()


def half():
    return Linear().half()


class Reshapes(nn.Module):
    def forward(self, x):
        return self.mixed(x * 2)

    def mixed(self, x):
        raise ValueError("\\x1b[31mcannot\\x1b[0m mix")


class Cuda(nn.Module):
    def forward(self, x):
        return x + torch.ones(8).cuda()


class Scaled(nn.Module):
    def forward(self, x, scale):
        return x * scale


class Embedding(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(11, 4)

    def forward(self, tokens):
        return self.table(tokens)


class Forgets(nn.Module):
    def forward(self, x):
        x + 1


def lazy():
    return nn.LazyLinear(4)


def reads():
    open("data/vocabulary.json")


def parses():
    import argparse

    argparse.ArgumentParser().parse_args(["--data"])


def three():
    return [1, 2][3]


def rows(n):
    return (torch.randn(n, 8),)
"""


class Mistake(NamedTuple):
    """`text` are the keys of the model in models.yaml, with `Linear` and fitting inputs by default.
    `said` must be in the error; those with a line number are places."""

    name: str
    text: str
    said: list[str]


def line(code: str) -> str:
    """The place of a line of `NETS`, with the line itself."""
    number = 1 + NETS.splitlines().index(next(x for x in NETS.splitlines() if x.strip() == code))
    return f"nets.py:{number}"


READS = 'open("data/vocabulary.json")'
MISTAKES = [
    Mistake("syntax", "source: syntax.py:build", ["syntax.py:2: def build(:", "correct this line"]),
    Mistake(
        "import_fails",
        "source: imports.py:build",
        [
            "ModuleNotFoundError: No module named 'not_installed_anywhere'",
            "at deeper.py:1: import not_installed_anywhere",
            "from imports.py:1: import deeper",
        ],
    ),
    Mistake(
        "import_raises", "source: raising.py:build", ["at raising.py:2: LIMIT = int", "runs when"]
    ),
    Mistake("no_callable", "source: nets.py:Liner", ["has no 'Liner' (did you mean 'Linear'?)"]),
    Mistake(
        "an_instance", "source: nets.py:instance", ["a module already", "name the class Linear"]
    ),
    Mistake(
        "factory_raises",
        "source: nets.py:raises",
        [
            "IndexError: list index out of range",
            f"at {line('return [1, 2, 3][index]')} in pick: return [1, 2, 3][index]",
            f"from {line('return Linear(pick(7))')} in raises: return Linear(pick(7))",
        ],
    ),
    Mistake(
        "missing_argument",
        "source: nets.py:needs",
        ["`kwargs: {labels: ...}`", "needs(labels, hidden=3)"],
    ),
    Mistake(
        "unknown_argument",
        "source: nets.py:needs\n    kwargs: {labels: 2, hiden: 4}",
        ["remove 'hiden' from `kwargs` (did you mean 'hidden'?)"],
    ),
    Mistake(
        "gpu_factory",
        "source: nets.py:on_gpu",
        [f"at {line('return Linear().cuda()')}", "make the module on the CPU"],
    ),
    Mistake(
        "absent_file",
        "source: nets.py:reads",
        [f"at {line(READS)}", "relative paths begin at ", "`root`"],
    ),
    Mistake(
        "command_line", "source: nets.py:parses", ["SystemExit: 2", "a worker has no command line"]
    ),
    Mistake("lazy", "source: nets.py:lazy", ["lazy parameters", "weight", "call the module once"]),
    Mistake("no_return", "source: nets.py:Forgets", ["returns no tensor", "let forward return"]),
    Mistake("method_misspelt", "method: forwrd", ["did you mean 'forward'?"]),
    Mistake(
        "forward_raises",
        "source: nets.py:Reshapes",
        [
            "ValueError: cannot mix",  # without its colours
            "in mixed: raise ValueError",
            f"from {line('return self.mixed(x * 2)')} in forward: return self.mixed(x * 2)",
        ],
    ),
    Mistake(
        "cuda_in_forward",
        "source: nets.py:Cuda",
        [f"at {line('return x + torch.ones(8).cuda()')}", "this target is for the cpu", "x.device"],
    ),
    Mistake(
        "input_missing",
        "source: nets.py:Scaled",
        ["give the arguments of forward(x, scale) under `inputs`", "{value: 3}"],
    ),
    Mistake(
        "float_into_embedding",
        "source: nets.py:Embedding\n    inputs: {tokens: {shape: [2, 8]}}",
        ["tokens: float32 [2, 8]", "Long, Int", "`dtype: int64`"],
    ),
    Mistake(
        "index_too_large",
        "source: nets.py:Embedding\n    inputs: [{shape: [64], dtype: int64, high: 999}]",
        ["int64 [64]", "write as `high` of the input the number of rows"],
    ),
    Mistake(
        "half_input",
        "inputs: [{shape: [2, 8], dtype: float16}]",
        ["float16 [2, 8]", "Half and Float", "`dtype`"],
    ),
    Mistake(
        "inputs_raise",
        "inputs: nets.py:three",
        ["the inputs callable raised", f"at {line('return [1, 2][3]')} in three"],
    ),
    Mistake(
        "inputs_without_dims",
        "inputs: nets.py:rows\n    dims: {batch: {min: 2, max: 8}}",
        ["must take each dim by its name (batch)", "rows(n)"],
    ),
    Mistake(
        "preset_value",
        "inductor_configs: [bad]",
        ["cpp.threads is the string 'four'; it must be an integer", "its default is -1"],
    ),
    Mistake("pickled_module", "weights: module.pt", ["nets.Linear", "model.state_dict()"]),
    Mistake("weights_prefix", "weights: prefix.pt", ['write `prefix: "net."`']),
    Mistake("weights_under_a_key", "weights: under.ckpt", ['`key: model` and `prefix: "net."`']),
    Mistake(
        "weights_rounded",
        "source: nets.py:half\n    weights: whole.pt",
        ["has float32 values that the model's float16 cannot hold", "`dtype: float16`"],
    ),
    Mistake(
        "weights_of_integers", "weights: integers.pt", ["the model wants float32", "quantised"]
    ),
    Mistake("lfs_pointer", "weights: pointer.pt", ["pointer of Git LFS", "git lfs pull"]),
]


def write_files(root: Path, save: Callable[[Any, Path], None]) -> None:
    import torch

    (root / "tasks.py").write_text("from aoti_build.tasks import ns\n")
    (root / "nets.py").write_text(NETS)
    (root / "syntax.py").write_text("import torch\ndef build(:\n    pass\n")
    (root / "imports.py").write_text("import deeper\n")
    (root / "deeper.py").write_text("import not_installed_anywhere\n")
    (root / "raising.py").write_text("import os\nLIMIT = int('many')\n")
    (root / "pointer.pt").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    torch.manual_seed(0)
    layers = {"a": torch.nn.Linear(8, 12), "b": torch.nn.Linear(12, 4)}
    state = torch.nn.ModuleDict(layers).state_dict()
    prefixed = {f"net.{name}": value for name, value in state.items()}
    save(state, root / "whole.pt")
    save(prefixed, root / "prefix.pt")
    save({"model": prefixed, "epoch": 3}, root / "under.ckpt")
    save({name: value.to(torch.int8) for name, value in state.items()}, root / "integers.pt")


def models_yaml() -> str:
    lines = ["version: 1", "inductor_configs: {bad: {cpp.threads: four}}", "models:"]
    for mistake in MISTAKES:
        lines += [f"  {mistake.name}:", f"    {mistake.text}"]
        if "source:" not in mistake.text:
            lines.append("    source: nets.py:Linear")
        if "inputs:" not in mistake.text:
            lines.append("    inputs: [{shape: [2, 8]}]")
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Finished]:
    import torch

    root = tmp_path_factory.mktemp("mistakes")
    write_files(root, torch.save)
    # The pickled module names its class by the module that the project has.
    script = "import nets, torch; torch.save(nets.Linear(), 'module.pt')"
    subprocess.run([sys.executable, "-c", script], cwd=root, check=True)
    (root / "models.yaml").write_text(models_yaml())
    return root, run_inv(root, "build", "--keep-going", "--json", limit=1200)


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_a_mistake_names_its_place_and_the_next_step(
    built: tuple[Path, Finished], mistake: Mistake
) -> None:
    import torch

    if mistake.name in ("gpu_factory", "cuda_in_forward") and torch.cuda.is_available():
        pytest.skip("with a GPU it is another mistake, or none")
    row = next(x for x in built[1].json["targets"] if x["target"].startswith(f"{mistake.name}/"))
    error = row["error"]
    assert error["kind"] == "usage"
    number = models_yaml().splitlines().index(f"  {mistake.name}:") + 1
    place = error["where"].split(":")
    assert place[0] == "models.yaml"
    if mistake.name == "preset_value":
        assert place[1:] == ["2", "39"]  # the value of the option itself
    else:
        assert number <= int(place[1]) <= number + 4  # in the entry of this model
    told = "\n".join(str(error.get(name, "")) for name in ("message", "cause", "hint"))
    for text in mistake.said:
        assert text in told
    assert error["hint"]
    assert Path(error["log"]).is_file()
    assert "\x1b" not in told
    assert "/torch/" not in told
    assert "aoti_build/" not in told


def test_the_build_exits_with_2_and_shows_no_traceback(built: tuple[Path, Finished]) -> None:
    root, finished = built
    assert "Traceback" not in finished.err
    assert not list((root / "artifacts").glob("*/*/model.pt2"))
    assert finished.code == 2
