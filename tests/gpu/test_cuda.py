"""CUDA targets, end to end, where there is a GPU; skipped with the reason where there is none.

A compile for CUDA takes a minute or more, so everything is built once.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from gpu_projects import NEEDS_GPU, inv

from aoti_build.host import cuda, gpu_architectures

pytestmark = NEEDS_GPU

SOURCE = """\
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 5)

    def forward(self, image):
        hidden = torch.relu(self.norm(self.conv(image)))
        return {"scores": self.head(hidden.mean((2, 3))), "hidden": hidden}
"""
MODELS = """\
version: 1
models:
  net:
    source: net.py:Net
    dims:
      batch: {min: 1, max: 8, example: 4}
    inputs:
      image: {shape: [batch, 3, 32, 32]}
    devices: [cuda]
  resnet18:
    source: torchvision.models:resnet18
    kwargs: {weights: null}
    inputs: [{shape: [2, 3, 224, 224]}]
    devices: [cuda]
"""
STOCK = """
import torch
from torch._inductor import aoti_load_package
from net import Net

torch.manual_seed(0)
eager, loaded = Net().eval().cuda(), aoti_load_package("artifacts/net/cuda/model.pt2")
for batch in (1, 3, 8):
    image = torch.randn(batch, 3, 32, 32, device="cuda")
    scores, expected = loaded(image=image)["scores"], eager(image)["scores"]
    torch.testing.assert_close(scores, expected, atol=1e-3, rtol=1e-3)
print("same as eager")
"""


# The own GPU by name, one that only a torch like 2.14 can package for here, and one that no GPU
# here is.
ARCHES = """\
version: 1
models:
  net:
    source: net.py:Net
    dims:
      batch: {{min: 1, max: 8, example: 4}}
    inputs:
      image: {{shape: [batch, 3, 32, 32]}}
    devices: [cuda]
    cuda: {{arch: [native, {own}, sm_80, sm_999]}}
"""

# Eager takes TF32 for none of its convolutions on an H200 with cuDNN 9.19, and compiled code for
# some.
CHOICE = """\
from torch import nn


def build():
    layers = nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.ReLU()
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))
"""
CHOICE_MODELS = """\
version: 1
models:
  choice:
    source: choice.py:build
    inputs: [{shape: [4, 3, 32, 32]}]
    devices: [cuda]
"""
SETTINGS = {"default": "", "off": "    cuda: {tf32: false}\n", "on": "    cuda: {tf32: true}\n"}


def _choice(root: Path, setting: str) -> dict[str, Any]:
    """The figures of the small network, built and verified under one setting."""
    root.mkdir()
    (root / "choice.py").write_text(CHOICE)
    (root / "models.yaml").write_text(CHOICE_MODELS + SETTINGS[setting])
    (root / "tasks.py").write_text("from aoti_build.tasks import ns\n")
    finished = inv(root, "build", "--strict", "--json")
    assert finished.returncode == 0, finished.stdout + finished.stderr
    verified = inv(root, "verify", "--strict", "--json")
    assert verified.returncode == 0, verified.stdout + verified.stderr
    figures: dict[str, Any] = json.loads(verified.stdout)["targets"][0]["cases"][0]["outputs"][0]
    return figures


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[Any]]]:
    """What compiles nothing of the others' and may run beside them; started by the first test."""
    root = tmp_path_factory.mktemp("beside")
    (root / "tasks.py").write_text("from aoti_build.tasks import ns\n")
    with ThreadPoolExecutor() as pool:
        started = {setting: pool.submit(_choice, root / setting, setting) for setting in SETTINGS}
        yield {**started, "doctor": pool.submit(inv, root, "doctor", "--device", "cuda", "--json")}


@pytest.fixture(scope="module")
def built(
    tmp_path_factory: pytest.TempPathFactory, together: dict[str, Future[Any]]
) -> tuple[Path, dict[str, object]]:
    assert together  # running already
    root = tmp_path_factory.mktemp("cuda")
    (root / "net.py").write_text(SOURCE)
    (root / "models.yaml").write_text(MODELS)
    (root / "tasks.py").write_text("from aoti_build.tasks import ns\n")
    finished = inv(root, "build", "--strict", "--json")
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return root, json.loads(finished.stdout)


def test_targets_are_compiled_and_record_the_compute_capability(
    built: tuple[Path, dict[str, object]],
) -> None:
    root, document = built
    assert [row["action"] for row in document["targets"]] == ["compiled", "compiled"]  # type: ignore[attr-defined]
    manifest = json.loads((root / "artifacts/resnet18/cuda/manifest.json").read_bytes())
    assert manifest["requires"]["compute_capability"] == cuda.compute_capabilities()[0]
    print(json.dumps({row["target"]: row["seconds"] for row in document["targets"]}))  # type: ignore[attr-defined]


def test_artifacts_verify_and_run(built: tuple[Path, dict[str, object]]) -> None:
    root, _ = built
    verified = inv(root, "verify", "--strict", "--json")
    assert verified.returncode == 0, verified.stdout + verified.stderr
    ran = inv(root, "run", "--target", "resnet18", "--json")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    print(verified.stdout, ran.stdout)


def test_artifacts_verify_from_cpp(built: tuple[Path, dict[str, object]]) -> None:
    root, _ = built
    verified = inv(root, "verify", "--strict", "--runtime", "cpp", "--json")
    assert verified.returncode == 0, verified.stdout + verified.stderr
    document = json.loads(verified.stdout)
    assert [(row["verdict"], row["runtime"]) for row in document["targets"]] == [
        ("passed", "cpp")
    ] * 2


def test_a_second_build_does_nothing(built: tuple[Path, dict[str, object]]) -> None:
    root, _ = built
    again = json.loads(inv(root, "build", "--json").stdout)
    assert [row["action"] for row in again["targets"]] == ["up-to-date", "up-to-date"]


def test_new_weights_are_repacked_and_their_undo_restored(
    built: tuple[Path, dict[str, object]],
) -> None:
    root, _ = built
    models = (root / "models.yaml").read_text()
    (root / "models.yaml").write_text(
        models.replace("    source: net.py:Net\n", "    source: net.py:Net\n    seed: 9\n")
    )
    finished = inv(root, "build", "--target", "net", "--json")
    assert finished.returncode == 0, finished.stdout + finished.stderr
    print(finished.stdout, (root / "artifacts/net/cuda/manifest.json").read_text()[:900])
    assert json.loads(finished.stdout)["targets"][0]["action"] == "repacked"
    (root / "models.yaml").write_text(models)
    undone = inv(root, "build", "--target", "net", "--json")
    assert json.loads(undone.stdout)["targets"][0]["action"] == "restored"


def test_stock_pytorch_gets_eagers_numbers(built: tuple[Path, dict[str, object]]) -> None:
    root, _ = built
    answer = subprocess.run(
        [sys.executable, "-c", STOCK], cwd=root, capture_output=True, text=True, check=False
    )
    assert answer.stdout.strip().endswith("same as eager"), answer.stderr


def test_tf32_is_allowed_for_what_it_costs_and_not_where_it_is_forbidden(
    together: dict[str, Future[Any]],
) -> None:
    figures = {setting: together[setting].result() for setting in SETTINGS}
    print(json.dumps(figures))
    fp64 = {setting: found["fp64"] for setting, found in figures.items()}
    assert "rounded_rmse" not in fp64["off"]
    assert fp64["off"]["candidate_rmse"] < 1e-6 * figures["off"]["reference_rms"]
    # Products of matrices in TF32 too cost more than convolutions alone.
    assert 0 < fp64["default"]["rounded_rmse"] < fp64["on"]["rounded_rmse"]
    for setting in ("default", "on"):
        assert fp64[setting]["candidate_rmse"] < 2 * fp64[setting]["rounded_rmse"]


def test_doctor_finds_nothing(together: dict[str, Future[Any]]) -> None:
    finished = together["doctor"].result()
    assert finished.returncode == 0, finished.stdout + finished.stderr
    found = {check["check"]: check["outcome"] for check in json.loads(finished.stdout)["checks"]}
    assert (found["ptxas"], found["model"]) == ("ok", "ok")


def test_a_package_is_inspected_with_its_kernels(built: tuple[Path, dict[str, object]]) -> None:
    root, _ = built
    shown = inv(root, "inspect", "--target", "net")
    assert shown.returncode == 0, shown.stdout + shown.stderr
    capability = cuda.compute_capabilities()[0]
    assert f"sm_{capability.replace('.', '')}" in shown.stdout
    assert "triton_" in shown.stdout
    assert f"compute capability {capability}" in shown.stdout


@pytest.fixture(scope="module")
def arches(
    built: tuple[Path, dict[str, object]], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Any, str]:
    """A project of several architectures that shares the store and compile directory of `built`;
    what its build said, and the name of the own one."""
    own = f"sm_{cuda.compute_capabilities()[0].replace('.', '')}"
    if own == "sm_80":
        pytest.skip("the foreign architecture of these tests is this GPU's own")
    root = tmp_path_factory.mktemp("arches")
    for name in ("net.py", "tasks.py"):
        (root / name).write_text((built[0] / name).read_text())
    (root / "models.yaml").write_text(ARCHES.format(own=own))
    (root / "artifacts").mkdir()
    shutil.copytree(built[0] / "artifacts" / ".store", root / "artifacts" / ".store")
    finished = inv(root, "build", "--keep-going", "--json")
    print(finished.stdout, finished.stderr)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return root, {row["target"]: row for row in json.loads(finished.stdout)["targets"]}, own


def _requires(root: Path, variant: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        (root / f"artifacts/net/{variant}/manifest.json").read_bytes()
    )["requires"]
    return found


def test_the_own_architecture_by_name_takes_what_native_compiled(
    arches: tuple[Path, Any, str],
) -> None:
    """From 9.0 on, and with a torch that compiles for the GPU it finds; else it has PTX beside the
    machine code."""
    root, rows, own = arches
    assert rows["net/cuda"]["action"] in ("restored", "reused")  # `built` compiled it
    native, named = _requires(root, "cuda"), _requires(root, f"cuda-{own}")
    assert (
        native["compute_capability"]
        == named["compute_capability"]
        == cuda.compute_capabilities()[0]
    )
    assert [code.rstrip("af") for code in native["gpu_code"]] == [own]
    if (
        gpu_architectures.numbers(cuda.compute_capabilities()[0]) >= gpu_architectures.OWN_FEATURES
        or not cuda.packages_for_other_gpus()
    ):
        assert rows[f"net/cuda-{own}"]["action"] == "reused"
        assert named["gpu_code"] == native["gpu_code"]
    else:
        assert named["gpu_code"] == [own, own.replace("sm", "compute")]


def test_a_foreign_architecture_is_built_where_torch_can_and_unavailable_elsewhere(
    arches: tuple[Path, Any, str],
) -> None:
    root, rows, _ = arches
    foreign = rows["net/cuda-sm_80"]
    if not cuda.packages_for_other_gpus():
        assert foreign["action"] == "unavailable"
        assert "compiles for the GPU it finds" in foreign["reasons"][0]["what"]
    elif cuda.fatbin_tool():
        assert (foreign["action"], foreign["unverified"]) == ("compiled", None)
        assert {"sm_80", "compute_80"} <= set(_requires(root, "cuda-sm_80")["gpu_code"])
    assert rows["net/cuda-sm_999"]["action"] == "unavailable"
    assert inv(root, "build", "--strict", "--json").returncode == 1


def test_every_architecture_that_was_built_is_verified_and_chosen_by_its_code(
    arches: tuple[Path, Any, str],
) -> None:
    root, rows, own = arches
    verified = inv(root, "verify", "--json")
    assert verified.returncode == 0, verified.stdout + verified.stderr
    verdicts = {row["target"]: row["verdict"] for row in json.loads(verified.stdout)["targets"]}
    assert verdicts == {
        name: "unavailable" if row["action"] == "unavailable" else "passed"
        for name, row in rows.items()
    }
    shown = json.loads(inv(root, "inspect", "--host", "--target", "net/cuda", "--json").stdout)[
        "host"
    ]["net"]
    assert [row["target"] for row in shown if row["chosen"]] == ["net/cuda"]
    assert {row["target"] for row in shown if row["fits"]} >= {"net/cuda", f"net/cuda-{own}"}
    ran = inv(root, "run", "--target", f"net/cuda-{own}", "--json")
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.slow
def test_a_second_autotuned_build_searches_nothing(tmp_path: Path) -> None:
    """The first search takes a minute or more of every core; `--force` compiles again, with its
    results."""
    models = MODELS.partition("  resnet18:")[0]
    models = models.replace(
        "models:\n", "inductor_configs:\n  tuned: {max_autotune: true}\nmodels:\n", 1
    )
    models = models.replace("    dims:\n      batch: {min: 1, max: 8, example: 4}\n", "").replace(
        "[batch, 3", "[4, 3"
    )
    (tmp_path / "net.py").write_text(SOURCE)
    (tmp_path / "models.yaml").write_text(models + "    inductor_configs: [tuned]\n")
    (tmp_path / "tasks.py").write_text("from aoti_build.tasks import ns\n")
    logs = []
    for words in (["build"], ["build", "--force"]):
        finished = inv(tmp_path, *words, "--strict", "--json")
        assert finished.returncode == 0, finished.stdout + finished.stderr
        print(json.loads(finished.stdout)["targets"][0]["seconds"])
        logs.append((tmp_path / "artifacts/net/cuda-tuned/build.log").read_text())
    assert "AUTOTUNE convolution" in logs[0]
    assert "AUTOTUNE" not in logs[1]


LOADED = """
import json, sys
import torch
import aoti_build
from aoti_build.host import cuda
from aoti_build.errors import AotiBuildError, InputError
from net import Net


def assert_same(model, eager, image):
    scores, expected = model(image=image)["scores"], eager(image)["scores"]
    torch.testing.assert_close(scores, expected, atol=1e-3, rtol=1e-3)


torch.manual_seed(3)
eager, said = Net().eval().cuda(), []
for number in range(len(cuda.compute_capabilities())):
    loaded = aoti_build.load("net", artifacts="artifacts", device_index=number)
    with loaded as model, torch.no_grad():
        assert str(model.device) == f"cuda:{number}", model.device
        here = eager.to(model.device)
        model.update_weights(here.state_dict())
        for batch in (1, 3, 8):
            image = torch.randn(batch, 3, 32, 32, device=model.device)
            assert_same(model, here, image)
        model.update_weights({name: value.cpu() for name, value in here.state_dict().items()})
        assert_same(model, here, image)
        for wrong in (image.cpu(), image.half(), torch.randn(9, 3, 32, 32, device=model.device)):
            try:
                model(image=wrong)
            except InputError as error:
                said.append(str(error).splitlines()[0])
try:
    aoti_build.load("net", artifacts="artifacts", device="cuda", device_index=99)
except AotiBuildError as error:
    said.append(str(error.cause))
inductor = sorted(name for name in sys.modules if name.startswith("torch._inductor"))
print(json.dumps([said, inductor]))
"""


def test_a_service_gets_eagers_numbers_new_weights_and_refusals(
    built: tuple[Path, dict[str, object]],
) -> None:
    root, _ = built
    answer = subprocess.run(
        [sys.executable, "-c", LOADED], cwd=root, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr
    said, inductor = json.loads(answer.stdout.splitlines()[-1])
    assert inductor == []
    assert said[:3] == [
        "net/cuda: input image: expected a tensor on cuda:0, given one on cpu",
        "net/cuda: input image: expected dtype float32, given float16",
        (
            "net/cuda: input image: expected shape [batch, 3, 32, 32] with batch 1..8,"
            " given [9, 3, 32, 32]"
        ),
    ]
    assert "no CUDA device 99" in said[-1]
