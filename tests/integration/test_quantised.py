"""Models that torchao quantised: what they are compared with, and from a factory to a verified
artifact."""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torchao")

from conftest import Finished, run_inv  # noqa: E402
from torch import nn  # noqa: E402

from aoti_build._torch.checking.compare import compare  # noqa: E402
from aoti_build._torch.checking.widened import float64_graph, stepping  # noqa: E402
from aoti_build._torch.jobs.prepared import prepare  # noqa: E402
from aoti_build._torch.program.graph import listed_weights, state_digest  # noqa: E402
from aoti_build._torch.program.model import cast, make_module  # noqa: E402
from aoti_build._torch.program.precision import computed_in  # noqa: E402
from aoti_build._torch.program.quantised import is_quantised, unwrap_subclasses  # noqa: E402
from aoti_build._torch.program.weights.load import load_weights  # noqa: E402
from aoti_build._torch.program.writes import Writes, functional_form  # noqa: E402
from aoti_build.errors import UsageError  # noqa: E402
from aoti_build.models_file.project import Model, Source, TensorInput  # noqa: E402
from aoti_build.models_file.project import Weights as WeightsSpec  # noqa: E402
from aoti_build.runtime.weights import ReplaceableWeights  # noqa: E402

# torch and torchao warn of each other; in a worker nobody sees it.
pytestmark = pytest.mark.filterwarnings("ignore")

NETS = """
import torch
from torch import nn


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(64), nn.Linear(64, 128), nn.Linear(128, 64)
        self.head = nn.Linear(64, 32)

    def forward(self, x):
        x = x + self.down(nn.functional.gelu(self.up(self.norm(x))))
        return self.head(x)


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 10)

    def forward(self, x):
        x = torch.relu(self.first(x))
        return self.head((x + torch.relu(self.second(x))).mean((2, 3)))


def block():
    return Block()


def small():
    return Small()


def weights_only():
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    model = Block()
    quantize_(model, Int8WeightOnlyConfig())
    return model


def dynamic():
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    model = Block()
    quantize_(model, Int8DynamicActivationInt8WeightConfig())
    return model


def float8():
    from torchao.quantization import Float8WeightOnlyConfig, quantize_

    model = Block()
    quantize_(model, Float8WeightOnlyConfig())
    return model


def int4():
    from torchao.quantization import IntxWeightOnlyConfig, PerGroup, quantize_

    model = Block()
    quantize_(model, IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=PerGroup(32)))
    return model


def exported():
    import torchao.quantization.pt2e.quantizer.x86_inductor_quantizer as x86
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    model, example = Small().eval(), torch.randn(4, 3, 8, 8)
    batch = torch.export.Dim("batch", min=1, max=32)
    module = torch.export.export(model, (example,), dynamic_shapes=({0: batch},)).module()
    quantizer = x86.X86InductorQuantizer()
    quantizer.set_global(x86.get_default_x86_inductor_quantization_config())
    prepared = prepare_pt2e(module, quantizer)
    prepared(example)
    return convert_pt2e(prepared)


class Around(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = exported()

    def forward(self, x):
        return self.inner(x) * 2


def around():
    return Around()
"""
VECTORS, IMAGES = (16, 64), (16, 3, 8, 8)
FACTORIES = {
    "weights_only": VECTORS,
    "dynamic": VECTORS,
    "float8": VECTORS,
    "int4": VECTORS,
    "exported": IMAGES,
    "around": IMAGES,
}
NONE = {"atol": None, "rtol": None, "outputs": {}}


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("nets") / "nets.py"
    path.write_text(NETS)
    return runpy.run_path(str(path))


Made = Callable[..., tuple[nn.Module, Any, Any]]


@pytest.fixture
def made(nets: dict[str, Any]) -> Made:
    """A model ready to be exported, its inputs and its program."""

    def make(name: str, seed: int = 0) -> tuple[nn.Module, Any, Any]:
        module = unwrap_subclasses(make_module(nets[name], {}, seed, ""))
        inputs = torch.randn(FACTORIES[name], generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            return module, inputs, torch.export.export(module, (inputs,), strict=False)

    return make


def relative(value: Any, exact: Any) -> float:
    return float(((value - exact).square().mean() / exact.square().mean()).sqrt())


@pytest.mark.parametrize("name", FACTORIES)
def test_a_quantised_model_has_a_float64_reference_that_quantises_too(
    made: Made, name: str
) -> None:
    module, inputs, program = made(name)
    assert is_quantised(module)
    twin = float64_graph(program)
    with torch.no_grad():
        eager, exact = module(inputs), twin(inputs.double())
    assert exact.dtype == torch.float64
    # Beside float64 without quantised activations, 8 bits of them would show as some 1e-2.
    assert relative(eager.double(), exact) < 4e-3


@pytest.mark.parametrize(
    ("name", "rounds"), [("dynamic", "int8"), ("exported", "uint8"), ("weights_only", None)]
)
def test_only_quantised_activations_make_an_output_coarse(
    made: Made, name: str, rounds: str | None
) -> None:
    _, inputs, program = made(name)
    assert computed_in(functional_form(program), Writes(), ["output"]).get("output") == rounds
    twin = float64_graph(program)
    with torch.no_grad():
        exact = twin(inputs.double())
        with stepping():
            stepped = twin(inputs.double())
        assert torch.equal(twin(inputs.double()), exact)
    assert (relative(stepped, exact) > 1e-5) == (rounds is not None)


def faulty(name: str) -> Callable[[nn.Module], None]:
    def scaled(module: Any) -> None:
        module.up.parametrizations.weight.original1.mul_(1.02)

    def wrong_layer(module: Any) -> None:
        module.down.parametrizations.weight.original0.copy_(
            module.down.parametrizations.weight.original0.roll(1, 0)
        )

    def dropped_residual(module: Any) -> None:
        module.forward = lambda x: module.head(
            module.down(nn.functional.gelu(module.up(module.norm(x))))
        )

    def biased(module: Any) -> None:
        module.head.bias.add_(0.02)

    return {f.__name__: f for f in (scaled, wrong_layer, dropped_residual, biased)}[name]


@pytest.mark.parametrize("fault", ["scaled", "wrong_layer", "dropped_residual", "biased"])
@pytest.mark.parametrize("name", ["weights_only", "dynamic"])
def test_faults_are_found_in_quantised_models(made: Made, name: str, fault: str) -> None:
    module, inputs, program = made(name)
    twin = float64_graph(program)
    wrong = made(name)[0]
    with torch.no_grad():
        eager, exact = module(inputs), twin(inputs.double())
        with stepping():
            rounded = float((twin(inputs.double()) - exact).square().mean().sqrt())
        # Rounding that falls out differently, as compiled code's may.
        otherwise = module(inputs * (1 + 3e-7))
        faulty(fault)(wrong)
        candidate = wrong(inputs)
    computed = "int8" if name == "dynamic" else None
    right = compare("y", eager, otherwise, NONE, exact, rounded, computed)
    assert right["ok"], right
    assert not compare("y", eager, candidate, NONE, exact, rounded, computed)["ok"]


def test_the_digest_of_weights_sees_the_integers_and_the_scales(made: Made) -> None:
    module, inputs, program = made("dynamic")
    before = state_digest(program)
    assert state_digest(made("dynamic")[2]) == before
    for index in (0, 1):
        weight = getattr(module.up.parametrizations.weight, f"original{index}")
        flat = weight.data.view(-1)
        kept = flat[5].clone()
        flat[5] = flat[5] + 1
        changed = torch.export.export(module, (inputs,), strict=False)
        assert state_digest(changed) != before, index
        flat[5] = kept
    assert state_digest(torch.export.export(module, (inputs,), strict=False)) == before


def test_an_exported_module_is_taken_in_eval_mode(nets: dict[str, Any]) -> None:
    for name in ("exported", "around"):
        module = make_module(nets[name], {}, 0, "")
        assert not any(part.training for part in module.modules())


def test_a_quantised_model_is_not_cast(nets: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"up.weight, which is a Int8Tensor") as caught:
        cast(make_module(nets["dynamic"], {}, 0, ""), "bfloat16", "models.yaml:3:5")
    assert "before it is quantised" in str(caught.value)


def test_a_state_dict_of_quantised_weights_is_loaded(nets: dict[str, Any], tmp_path: Path) -> None:
    other = make_module(nets["dynamic"], {}, 5, "")
    torch.save(other.state_dict(), tmp_path / "weights.pt")
    module = make_module(nets["dynamic"], {}, 0, "")
    load_weights(module, WeightsSpec("weights.pt"), tmp_path, "models.yaml:3:5")
    inputs = torch.randn(4, 64)
    assert torch.equal(module(inputs), other(inputs))


def test_quantised_weights_are_exchanged_by_the_names_that_they_have_in_the_model(
    made: Made, nets: dict[str, Any]
) -> None:
    listed = listed_weights(made("dynamic")[2])
    held = [
        entry["name"] for entry in listed if not entry["name"].endswith("original2")
    ]  # nobody reads zero points
    weights = ReplaceableWeights("dynamic/cpu", listed, held, torch.device("cpu"))
    ready = weights.prepare(make_module(nets["dynamic"], {}, 5, "").state_dict(), partial=False)
    expected = dict(made("dynamic", 5)[0].state_dict())
    assert sorted(ready) == sorted(held)
    assert all(torch.equal(ready[name], expected[name]) for name in held)


METHOD = """
from torch import nn
from torchao.quantization import Int8WeightOnlyConfig, quantize_


class Embedder(nn.Linear):
    def embed(self, x):
        return self(x)


def embedder():
    model = Embedder(64, 32)
    quantize_(model, Int8WeightOnlyConfig(), filter_fn=lambda module, name: True)
    return model
"""


def test_a_method_finds_the_quantised_weights_of_the_model_itself(tmp_path: Path) -> None:
    (tmp_path / "embed.py").write_text(METHOD)
    inputs = (TensorInput((4, 64), "float32"),)
    model = Model("model", Source("embedder", path="embed.py"), inputs, method="embed")
    where = dict.fromkeys(("imports", "source", "kwargs", "method", "inputs", "dtype"), "here")
    prepared = prepare(model, "cpu", tmp_path, where)
    assert is_quantised(prepared.module)
    assert prepared.exported(where).program.module()(torch.ones(4, 64)).shape == (4, 32)


MODELS = """\
version: 1
models:
  dynamic:
    source: nets.py:dynamic
    seed: 0
    baseline: {source: nets.py:block, limit: 0.05}
    dims: {batch: {min: 2, max: 16}}
    inputs: [{shape: [batch, 64]}]
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Finished]:
    root = tmp_path_factory.mktemp("quantised")
    (root / "nets.py").write_text(NETS)
    (root / "models.yaml").write_text(MODELS)
    (root / "tasks.py").write_text("from aoti_build.tasks import ns\n")
    return root, run_inv(root, "build", "--json", env={"AOTI_BUILD_STORE": str(root / "store")})


def again(root: Path, models: str, *words: str) -> Finished:
    (root / "models.yaml").write_text(models)
    return run_inv(root, *words, env={"AOTI_BUILD_STORE": str(root / "store")})


@pytest.mark.slow
def test_int8_activations_go_from_the_factory_to_a_verified_artifact(
    project: tuple[Path, Finished],
) -> None:
    root, built = project
    assert built.code == 0, built.err + built.out
    (loss,) = built.target("dynamic/cpu")["baseline"]
    assert (loss["name"], loss["ok"]) == ("output", True)
    assert 0.002 < loss["relative_rmse"] < 0.05
    verified = again(root, MODELS, "verify", "--strict", "--json")
    assert verified.code == 0, verified.out
    assert verified.target("dynamic/cpu")["baseline"] == [loss]
    fresh = again(root, MODELS, "verify", "--fresh", "--strict", "--json")
    assert fresh.target("dynamic/cpu")["baseline"] == [loss]
    ran = again(root, MODELS, "run", "--input", "random", "--json")
    assert ran.code == 0, ran.out + ran.err
    assert json.loads((root / "artifacts/dynamic/cpu/manifest.json").read_text())["signature"][
        "computed_in"
    ] == {"output": "int8"}


@pytest.mark.slow
def test_a_limit_is_looked_at_without_a_compile(project: tuple[Path, Finished]) -> None:
    root, _ = project
    refused = again(root, MODELS.replace("0.05", "0.0001"), "build", "--json")
    assert refused.code == 1
    assert "loses more against its baseline" in refused.target("dynamic/cpu")["error"]["message"]
    assert again(root, MODELS.replace("0.05", "0.0001"), "verify").code == 3
    eased = again(root, MODELS.replace("0.05", "0.06"), "build", "--json")
    assert eased.target("dynamic/cpu")["action"] == "rechecked", eased.out


@pytest.mark.slow
def test_a_changed_baseline_makes_its_figures_anew_and_compiles_nothing(
    project: tuple[Path, Finished],
) -> None:
    root, built = project
    (before,) = built.target("dynamic/cpu")["baseline"]
    other = MODELS.replace("source: nets.py:block, limit", "source: other.py:block, limit")
    (root / "other.py").write_text(
        "import nets\n\n\ndef block():\n    return nets.block().to(nets.torch.bfloat16)\n"
    )
    done = again(root, other, "build", "--json")
    assert done.target("dynamic/cpu")["action"] == "reused", done.out
    (after,) = done.target("dynamic/cpu")["baseline"]
    assert after["relative_rmse"] != before["relative_rmse"]
    (root / "other.py").write_text("import nets\n\n\ndef block():\n    return nets.block()\n")
    last = again(root, other, "build", "--json")
    assert last.target("dynamic/cpu")["baseline"] == [before]
    (reason,) = last.target("dynamic/cpu")["reasons"]
    assert (reason["reason"], reason["what"]) == ("source-changed", "other.py")


@pytest.mark.slow
def test_new_quantised_weights_need_no_compile(project: tuple[Path, Finished]) -> None:
    root, _ = project
    done = again(root, MODELS.replace("seed: 0", "seed: 3"), "build", "--json")
    assert done.target("dynamic/cpu")["action"] == "repacked", done.out
    assert again(root, MODELS.replace("seed: 0", "seed: 3"), "verify", "--strict").code == 0
