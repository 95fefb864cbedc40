"""Never compile twice, never be wrong: what is taken from the store, what is not, and that its
numbers are right."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import Finished, phases_of, run_inv, start_inv, wait_for_phase
from projects import write_single

SOURCE = """\
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, tied=False):
        super().__init__()
        self.a = nn.Linear(8, 8)
        self.b = nn.Linear(8, 8)
        self.c = nn.Linear(8, 4)
        self.register_buffer("scale", torch.rand(4))
        if tied:
            self.b.weight = self.a.weight

    def forward(self, x):
        return self.c(torch.relu(self.b(torch.relu(self.a(x))))) * self.scale


def build(tied=False):
    return Net(tied)
"""
MODELS = """\
one:
  source: net.py:build
  seed: 1
  inputs: [{shape: [2, 8]}]
two:
  source: net.py:build
  seed: 2
  inputs: [{shape: [2, 8]}]
"""
STOCK = """
import sys, torch
from net import build
torch.manual_seed(int(sys.argv[2]))
eager = build().eval()
x = torch.randn(2, 8)
got = torch._inductor.aoti_load_package(sys.argv[1])(x)
torch.testing.assert_close(got, eager(x), atol=1e-5, rtol=1e-4)
print("same as eager")
"""


def assert_stock_loads(root: Path, model: str, seed: int) -> None:
    command = [sys.executable, "-c", STOCK, f"artifacts/{model}/cpu/model.pt2", str(seed)]
    answer = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert answer.stdout.strip().endswith("same as eager"), answer.stderr


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Finished]:
    root = tmp_path_factory.mktemp("twins") / "project"
    write_single(root, SOURCE, MODELS)
    return root, run_inv(root, "build", "--jobs", "2", "--json")


@pytest.fixture
def project(twins: tuple[Path, Finished], tmp_path: Path) -> Path:
    root = tmp_path / "project"
    shutil.copytree(twins[0], root)
    return root


def test_equal_graphs_with_different_weights_in_parallel_compile_once_and_keep_their_weights(
    twins: tuple[Path, Finished],
) -> None:
    root, finished = twins
    assert finished.code == 0, finished.err
    assert sorted(row["action"] for row in finished.json["targets"]) == ["compiled", "reused"]
    assert run_inv(root, "verify").code == 0
    assert_stock_loads(root, "one", 1)
    assert_stock_loads(root, "two", 2)


def test_a_comment_costs_an_export_and_its_undo_nothing(project: Path) -> None:
    (project / "net.py").write_text(SOURCE + "# a comment\n")
    edited = run_inv(project, "build", "--target", "one", "--json")
    assert edited.target("one/cpu")["action"] == "reused"
    phases = phases_of(project, "one/cpu")
    assert "export" in phases
    assert not {"compile", "check"} & set(phases)
    (project / "net.py").write_text(SOURCE)
    undone = run_inv(project, "build", "--target", "one", "--json")
    assert undone.target("one/cpu")["action"] == "restored"
    undone_phases = phases_of(project, "one/cpu")
    assert "restore" in undone_phases
    assert not {"model", "export"} & set(undone_phases)


def test_new_weights_cost_a_repack_and_their_numbers_are_right(project: Path) -> None:
    models = (project / "models.yaml").read_text()
    (project / "models.yaml").write_text(models.replace("seed: 1", "seed: 5"))
    finished = run_inv(project, "build", "--target", "one", "--json")
    assert finished.code == 0, finished.err
    assert finished.target("one/cpu")["action"] == "repacked"
    assert_stock_loads(project, "one", 5)
    # What was repacked is, byte for byte, what a compile would have made.
    again = run_inv(project, "build", "--target", "one", "--check-reproducible", "--json")
    assert again.target("one/cpu")["action"] == "reproduced", again.out


def test_a_corrupted_store_is_not_believed(project: Path) -> None:
    for stored in (project / "artifacts/.store/v1/objects").glob("*/*"):
        content = bytearray(stored.read_bytes())
        content[len(content) // 3] ^= 4
        stored.write_bytes(content)
    shutil.rmtree(project / "artifacts/one")
    finished = run_inv(project, "build", "--target", "one", "--json")
    assert finished.target("one/cpu")["action"] == "compiled"
    assert_stock_loads(project, "one", 1)


def test_untied_weights_are_compiled_anew_and_an_edit_meanwhile_is_not_published(
    project: Path,
) -> None:
    text = (project / "models.yaml").read_text()
    (project / "models.yaml").write_text(
        text.replace("  seed: 1", "  seed: 1\n    kwargs: {tied: true}")
    )
    before = (project / "artifacts/one/cpu/manifest.json").read_bytes()
    shutil.rmtree(project / "artifacts/.logs")
    process = start_inv(project, "build", "--target", "one")
    wait_for_phase(project, "compile")
    time.sleep(1)
    (project / "net.py").write_text(SOURCE + "# edited during the compile\n")
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "net.py was edited while this target was built, so nothing was published" in out
    assert (project / "artifacts/one/cpu/manifest.json").read_bytes() == before


def test_a_checkout_at_another_path_shares_the_store(project: Path, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere" / "checkout"
    write_single(other, SOURCE, MODELS)
    shared = {"AOTI_BUILD_STORE": str(project / "artifacts/.store")}
    finished = run_inv(other, "build", "--json", env=shared)
    assert [row["action"] for row in finished.json["targets"]] == ["restored", "restored"]
    assert run_inv(other, "verify", env=shared).code == 0


def test_why_names_what_changed(project: Path) -> None:
    (project / "net.py").write_text(SOURCE + "# a comment\n")
    (explained,) = run_inv(project, "why", "--target", "one", "--json").json["targets"]
    assert [reason["what"] for reason in explained["reasons"]] == ["net.py"]
    assert explained["nearest_stored"]["target"] == "one/cpu"
    assert explained["last_build"]["reasons"][0]["reason"] == "no-artifact"


@pytest.mark.slow
def test_arithmetic_on_a_one_element_weight_follows_the_weight(tmp_path: Path) -> None:
    """Inductor folds it into the code, where no reference input may come by; the weight itself
    stays in the blob."""
    source = """\
        import torch
        from torch import nn


        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.l = nn.Linear(8, 8)
                self.s = nn.Parameter(torch.rand(1))

            def forward(self, x):
                y = self.l(x) * self.s
                return torch.where(x.amax() > 100, y * torch.exp(self.s), y)


        def build():
            return Net()
    """
    model = "net:\n  source: net.py:build\n  seed: 1\n  inputs: [{shape: [2, 8]}]\n"
    write_single(tmp_path, source, model)
    assert run_inv(tmp_path, "build").code == 0
    models = (tmp_path / "models.yaml").read_text()
    (tmp_path / "models.yaml").write_text(models.replace("seed: 1", "seed: 2"))
    assert run_inv(tmp_path, "build").code == 0
    command = [
        sys.executable,
        "-c",
        STOCK.replace("x = torch.randn(2, 8)", "x = 200 * torch.rand(2, 8)"),
    ]
    answer = subprocess.run(
        [*command, "artifacts/net/cpu/model.pt2", "2"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.stdout.strip().endswith("same as eager"), answer.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        "{aot_inductor.package_constants_in_so: true}",
        "{freezing: true}",
        "{always_keep_tensor_constants: false}",
    ],
)
def test_weights_that_are_part_of_the_code_are_compiled_anew(tmp_path: Path, options: str) -> None:
    source = SOURCE.replace("self.scale", "self.scale + 0 * self.c.bias.sum()")
    model = "net:\n  source: net.py:build\n  inputs: [{shape: [2, 8]}]\n  weights: w.safetensors\n"
    write_single(tmp_path, source, model + "  inductor_configs: [own]\n")
    models = (tmp_path / "models.yaml").read_text()
    (tmp_path / "models.yaml").write_text(
        models.replace("models:", f"inductor_configs:\n  own: {options}\nmodels:")
    )
    for seed, action in ((1, "compiled"), (2, "compiled")):
        _write_net_weights(tmp_path / "w.safetensors", seed)
        finished = run_inv(tmp_path, "build", "--json")
        assert finished.code == 0, finished.out
        (row,) = finished.json["targets"]
        assert row["action"] == action
    assert [reason["reason"] for reason in row["reasons"]] == ["weights-changed", "weights-in-code"]
    manifest = json.loads((tmp_path / "artifacts/net/cpu-own/manifest.json").read_bytes())
    assert manifest["weights"]["external"] is False
    assert run_inv(tmp_path, "verify").code == 0


def _write_net_weights(path: Path, seed: int) -> None:
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(seed)
    shapes = {"a": (8, 8), "b": (8, 8), "c": (4, 8)}
    state = {f"{name}.weight": torch.randn(shape) for name, shape in shapes.items()}
    state |= {f"{name}.bias": torch.randn(shape[0]) for name, shape in shapes.items()}
    save_file({**state, "scale": torch.rand(4)}, path)
