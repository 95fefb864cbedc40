"""What `invoke build` makes of real models, and what a second build does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Finished, run_inv
from projects import write_project, write_single, write_weights

STOCK = """
import sys, pathlib, torch
sys.path.insert(0, "nets")
from torch._inductor import aoti_load_package
from safetensors.torch import load_file
import linear, tagger

def near(a, b):
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)

x = torch.randn(4, 8)
torch.manual_seed(0)
near(aoti_load_package("artifacts/linear/cpu/model.pt2")(x), linear.build().eval()(x))

weighted = linear.build().eval()
weighted.load_state_dict(load_file("weights/weighted.safetensors"))
for batch in (2, 3, 8):
    x = torch.randn(batch, 8)
    near(aoti_load_package("artifacts/weighted/cpu/model.pt2")(x), weighted(x))

torch.manual_seed(0)
eager = tagger.build(labels=3).eval()
loaded = aoti_load_package("artifacts/tagger/cpu/model.pt2")
for batch in (1, 5, 16):
    call = {"tokens": torch.randint(0, 11, (batch, 6)), "mask": torch.rand(batch, 6) < 0.5}
    expected, got = eager(**call), loaded(**call)
    near(got["labels"], expected["labels"])
    near(got["extra"][0], expected["extra"][0])
    assert torch.equal(got["extra"][1], expected["extra"][1])
print("same as eager")
"""


def test_every_target_is_compiled_checked_and_published(built_once: tuple[Path, Finished]) -> None:
    root, finished = built_once
    assert [row["action"] for row in finished.json["targets"]] == ["compiled"] * 3
    for row in finished.json["targets"]:
        assert (root / row["path"]).is_file()
        assert row["reasons"] == [{"reason": "no-artifact", "what": "", "old": None, "new": None}]
        assert row["seconds"]["compile"] > 0


def test_stock_pytorch_loads_the_artifacts_and_gets_eagers_numbers(built: Path) -> None:
    answer = subprocess.run(
        [sys.executable, "-c", STOCK], cwd=built, capture_output=True, text=True, check=False
    )
    assert answer.stdout.strip().endswith("same as eager"), answer.stderr


def test_the_manifest_says_what_was_used(built: Path) -> None:
    manifest = json.loads((built / "artifacts/tagger/cpu/manifest.json").read_bytes())
    sources = manifest["source"]["sources"]
    used = {"nets/tagger.py", "nets/middle.py", "nets/leaf.py", "nets/vocabulary.json"}
    assert {name for name, digest in sources.items() if digest} == used
    # A package or an extension module of one of these names would be imported instead.
    shadowing = {name for name, digest in sources.items() if not digest}
    assert (
        {name.partition(".")[0] for name in shadowing} == {"nets/middle", "nets/leaf"} <= shadowing
    )
    assert manifest["source"]["distributions"]["torch"].split()[0] == manifest["requires"]["torch"]
    assert manifest["signature"]["inputs"][0] == {
        "name": "tokens",
        "dtype": "int64",
        "shape": ["batch", 6],
    }
    assert [output["name"] for output in manifest["signature"]["outputs"] if "dtype" in output] == [
        "['labels']",
        "['extra'][0]",
        "['extra'][1]",
    ]
    assert manifest["signature"]["dims"]["batch"] == {"min": 1, "max": 16, "multiple_of": 1}
    # The interior of 1 to 16 is the example's size.
    ends = {"min", "max", "above-min", "below-max"}
    assert {case["name"] for case in manifest["check"]["cases"]} == {"example", *ends}


def test_the_key_is_stamped_inside_the_package(built: Path) -> None:
    manifest = json.loads((built / "artifacts/linear/cpu/manifest.json").read_bytes())
    assert manifest["key"].encode() in (built / "artifacts/linear/cpu/model.pt2").read_bytes()


def test_a_second_build_does_nothing_in_any_checkout(built: Path) -> None:
    finished = run_inv(built, "build", "--json")
    assert finished.code == 0
    assert [row["action"] for row in finished.json["targets"]] == ["up-to-date"] * 3
    assert finished.err == ""


def test_each_changed_input_is_seen_and_named(built: Path) -> None:
    (built / "nets/leaf.py").write_text("WIDTH = 9\n")
    write_weights(built / "weights/weighted.safetensors", seed=8)
    (built / "nets/vocabulary.json").write_text('["x"]\n')
    finished = run_inv(built, "build", "--dry-run", "--json")
    found = {
        row["target"]: {(r["reason"], r["what"]) for r in row["reasons"]}
        for row in finished.json["targets"]
    }
    assert found == {
        "linear/cpu": set(),
        "tagger/cpu": {
            ("source-changed", "nets/leaf.py"),
            ("source-changed", "nets/vocabulary.json"),
        },
        "weighted/cpu": {("weights-changed", "weights/weighted.safetensors")},
    }


@pytest.mark.slow
def test_a_model_without_weights(tmp_path: Path) -> None:
    """Its package has no weights to keep apart; with an empty blob it would not load."""
    source = (
        "from torch import nn\n\n\nclass Net(nn.Module):\n    def forward(self, x):\n        return"
        " x.relu() * 3\n"
    )
    write_single(tmp_path, source, "net:\n  source: net.py:Net\n  inputs: [{shape: [4, 3]}]\n")
    finished = run_inv(tmp_path, "build", "--json")
    assert finished.code == 0, finished.out
    assert run_inv(tmp_path, "verify").code == 0


def test_two_checkouts_compile_the_same_bytes(built: Path, tmp_path: Path) -> None:
    """Each from nothing, with a store of its own, at paths of different lengths."""
    other = tmp_path / "another" / "checkout" / "of-the-project"
    write_project(other)
    finished = run_inv(other, "build", "--target", "linear", "--json")
    assert finished.target("linear/cpu")["action"] == "compiled", finished.out
    package = "artifacts/linear/cpu/model.pt2"
    assert (other / package).read_bytes() == (built / package).read_bytes()


MODEL_THAT_LOOKS_AROUND = """\
net:
  source: net.py:build
  kwargs: {a: given, b: 2}
  files: [tokenizer.model]
  inputs: [{shape: [2, 8]}]
"""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
def test_inputs_that_are_easily_overlooked(tmp_path: Path) -> None:
    """What native code reads; a link, a memory map, a module run by its path, the order of kwargs;
    what is looked for in vain, listed, or asked of the environment."""
    import torch

    source = """\
        import glob
        import importlib.util
        import os
        from pathlib import Path

        import numpy
        import torch
        from safetensors.torch import load_file

        try:
            import local_settings
        except ImportError:
            pass
        import package.part

        HERE = Path(__file__).parent
        WIDTH = int(os.environ.get("NET_WIDTH", "8"))


        def build(**sizes):
            (HERE / "flag").exists()
            glob.glob("data/*.txt")
            torch.jit.load(HERE / "scripted.pt")
            spec = importlib.util.spec_from_file_location("beside", HERE / "by_path.py")
            beside = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(beside)
            (HERE / "current.txt").read_text()
            numpy.memmap(HERE / "table.bin")
            model = torch.nn.Linear(8, 4)
            model.bias.data = load_file(HERE / "bias.safetensors")["a.bias"][:4]
            return model
    """
    write_single(tmp_path, source, MODEL_THAT_LOOKS_AROUND)
    write_weights(tmp_path / "bias.safetensors", seed=1)
    (tmp_path / "by_path.py").write_text("K = 1\n")
    (tmp_path / "v1.txt").write_text("one")
    (tmp_path / "v2.txt").write_text("two")
    (tmp_path / "current.txt").symlink_to("v1.txt")
    (tmp_path / "table.bin").write_bytes(bytes(16))
    for name in (
        "package/__init__.py",
        "package/part.py",
        "data/a.txt",
        "given/inner/file",
        "tokenizer.model",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "scripted.pt")
    assert run_inv(tmp_path, "build").code == 0
    assert run_inv(tmp_path, "build", "--json").target("net/cpu")["action"] == "up-to-date"

    write_weights(tmp_path / "bias.safetensors", seed=2)
    (tmp_path / "by_path.py").write_text("K = 2\n")
    (tmp_path / "current.txt").unlink()
    (tmp_path / "current.txt").symlink_to("v2.txt")
    (tmp_path / "table.bin").write_bytes(bytes(15) + b"x")
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "scripted.pt")
    for name in ("local_settings.py", "flag", "data/b.txt", "package/part/__init__.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    for name in ("given/inner/file", "tokenizer.model"):
        (tmp_path / name).write_text("other")
    models = (tmp_path / "models.yaml").read_text()
    (tmp_path / "models.yaml").write_text(models.replace("{a: given, b: 2}", "{b: 2, a: given}"))
    finished = run_inv(tmp_path, "build", "--dry-run", "--json", env={"NET_WIDTH": "9"})
    assert {reason["what"] for reason in finished.target("net/cpu")["reasons"]} == {
        "NET_WIDTH",
        "data/",
        "flag",
        "given/inner/file",
        "local_settings",
        "local_settings.py",
        "package/part",
        "scripted.pt",
        "tokenizer.model",
        "kwargs order",
        "bias.safetensors",
        "by_path.py",
        "current.txt",
        "table.bin",
    }
