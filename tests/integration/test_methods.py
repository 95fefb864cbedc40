"""Methods in the place of forward, the strict export, and weights that lie outside the project in
shards."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Finished, run_inv
from projects import write_single

pytestmark = pytest.mark.slow

SOURCE = """\
import torch
from torch import nn


class Autoencoder(nn.Module):
    def __init__(self, width=16):
        super().__init__()
        self.encoder = nn.Linear(8, width)
        self.middle = nn.Linear(width, width)
        self.decoder = nn.Linear(width, 8)

    def forward(self, x):
        return self.decode(self.encode(x))

    def encode(self, x):
        return torch.tanh(self.middle(self.encoder(x)))

    def decode(self, code, *, gain=None):
        code = torch.tanh(self.middle(code))
        return self.decoder(code) if gain is None else self.decoder(code) * gain

    def error(self, x):
        return (self(x) - x).abs().sum(-1)


class Cache:
    def __init__(self):
        self.kept = torch.zeros(4, 3)


class Remembering(nn.Module):
    \"\"\"Its buffer is also held by an object that is no module, as in Hugging Face's static
    cache.\"\"\"

    def __init__(self):
        super().__init__()
        self.cache = Cache()
        self.register_buffer("kept", self.cache.kept, persistent=False)

    def forward(self, x, position):
        self.cache.kept.index_copy_(0, position, x)
        return self.cache.kept.cumsum(0)
"""
MODELS = """\
encode:
  source: &source net.py:Autoencoder
  method: encode
  weights: &weights {file: ../checkpoints/model.safetensors.index.json, prefix: "net."}
  dims: {batch: {min: 2, max: 8}}
  inputs: [{shape: [batch, 8]}]
decode:
  source: *source
  method: decode
  weights: *weights
  dims: {batch: {min: 2, max: 8}}
  inputs: {code: {shape: [batch, 16]}, gain: {shape: []}}
remembering:
  source: net.py:Remembering
  strict: true
  inputs:
    x: {shape: [1, 3]}
    position: {shape: [1], dtype: int64, high: 4}
"""
CHECK = """
import sys
import torch
from pathlib import Path
from safetensors.torch import load_file
import aoti_build
from net import Autoencoder, Remembering

eager = Autoencoder()
shards = [load_file(path) for path in sorted(Path("../checkpoints").glob("*.safetensors"))]
eager.load_state_dict({name[4:]: value for shard in shards for name, value in shard.items()})
encode, decode = aoti_build.load("encode"), aoti_build.load("decode")
x, gain = torch.randn(5, 8), torch.tensor(3.0)
with torch.no_grad():
    code = eager.encode(x)
    torch.testing.assert_close(encode(x), code)
    torch.testing.assert_close(decode(code=code, gain=gain), eager.decode(code, gain=gain))
    remembering, model = Remembering(), aoti_build.load("remembering")
    for at in (2, 0, 3, 2):
        given = {"x": torch.randn(1, 3), "position": torch.tensor([at])}
        torch.testing.assert_close(model(**given), remembering(**given))
print("same as eager")
"""


def write_shards(root: Path, seed: int) -> None:
    """Weights of an `Autoencoder` under the prefix ``net.``, in two shards."""
    script = f"""
import json, torch
from safetensors.torch import save_file
from net import Autoencoder
torch.manual_seed({seed})
state = {{"net." + name: value for name, value in Autoencoder().state_dict().items()}}
where = {{name: f"model-{{at % 2}}.safetensors" for at, name in enumerate(state)}}
for shard in set(where.values()):
    part = {{name: state[name] for name in state if where[name] == shard}}
    save_file(part, f"../checkpoints/{{shard}}")
open("../checkpoints/model.safetensors.index.json", "w").write(json.dumps({{"weight_map": where}}))
"""
    (root.parent / "checkpoints").mkdir(exist_ok=True)
    subprocess.run([sys.executable, "-c", script], cwd=root, check=True)


def assert_same_as_eager(root: Path) -> None:
    answer = subprocess.run(
        [sys.executable, "-c", CHECK], cwd=root, capture_output=True, text=True, check=False
    )
    assert answer.stdout.strip().endswith("same as eager"), answer.stderr


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Finished]:
    root = tmp_path_factory.mktemp("methods") / "project"
    write_single(root, SOURCE, MODELS)
    write_shards(root, seed=1)
    finished = run_inv(root, "build", "--json")
    assert finished.code == 0, finished.err
    return root, finished


@pytest.fixture
def built(once: tuple[Path, Finished], tmp_path: Path) -> Path:
    for name in ("project", "checkpoints"):
        shutil.copytree(once[0].parent / name, tmp_path / name)
    return tmp_path / "project"


def test_each_method_is_compiled_and_a_strict_export_keeps_state(built: Path) -> None:
    assert_same_as_eager(built)
    manifest = json.loads((built / "artifacts/decode/cpu/manifest.json").read_text())
    assert [entry["name"] for entry in manifest["signature"]["inputs"]] == ["code", "gain"]
    weights = {entry["name"] for entry in manifest["signature"]["weights"]}
    assert weights == {
        f"{part}.{kind}" for part in ("encoder", "middle", "decoder") for kind in ("weight", "bias")
    }
    assert set(manifest["source"]["weights"]) == {
        "../checkpoints/model.safetensors.index.json",
        "../checkpoints/model-0.safetensors",
        "../checkpoints/model-1.safetensors",
    }
    assert not [name for name in manifest["source"]["sources"] if "checkpoints" in name]


def test_new_shards_are_repacked_and_a_moved_file_costs_no_compile(built: Path) -> None:
    assert run_inv(built, "build", "--json").target("encode/cpu")["action"] == "up-to-date"
    write_shards(built, seed=2)
    again = run_inv(built, "build", "--json")
    actions = [again.target(f"{name}/cpu")["action"] for name in ("encode", "decode")]
    assert actions == ["repacked"] * 2
    assert_same_as_eager(built)
    models = built / "models.yaml"
    models.write_text(
        models.read_text().replace("../checkpoints", str(built.parent / "checkpoints"))
    )
    moved = run_inv(built, "build", "--json")
    actions = [moved.target(f"{name}/cpu")["action"] for name in ("encode", "decode")]
    assert actions == ["reused"] * 2
    assert_same_as_eager(built)


@pytest.mark.parametrize(
    ("old", "new", "target", "code", "said"),
    [
        (
            "method: encode",
            "method: enocde",
            "encode",
            2,
            ["models.yaml:5:13", "did you mean 'encode'?"],
        ),
        ("method: encode", "method: encoder", "encode", 2, ["is not a method", "encode, error"]),
        (
            '"net."',
            '"ent."',
            "encode",
            2,
            ["models.yaml:6:14", "begins with 'ent.'", "they begin with net."],
        ),
        ("strict: true", "strict: false", "remembering", 1, ["lifted_tensor", "`strict: true`"]),
    ],
)
def test_what_is_refused(
    tmp_path: Path, old: str, new: str, target: str, code: int, said: list[str]
) -> None:
    root = tmp_path / "project"
    write_single(root, SOURCE, MODELS.replace(old, new))
    write_shards(root, seed=1)
    finished = run_inv(root, "build", "--target", f"{target}/cpu")
    assert finished.code == code, finished.err
    assert [text for text in said if text not in finished.out + finished.err] == [], finished.out
