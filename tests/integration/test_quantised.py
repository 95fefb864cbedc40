"""Models that torchao quantised: what they are compared with, and from a factory to a verified artifact."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torchao")

from torch import nn  # noqa: E402

from aoti_build._torch.checking.compare import compare  # noqa: E402
from aoti_build._torch.checking.widened import float64_graph, stepping  # noqa: E402
from aoti_build._torch.program.graph import state_digest  # noqa: E402
from aoti_build._torch.program.model import cast, make_module  # noqa: E402
from aoti_build._torch.program.precision import computed_in  # noqa: E402
from aoti_build._torch.program.quantised import is_quantised, taken_apart  # noqa: E402
from aoti_build._torch.program.writes import Writes, functional_form  # noqa: E402
from aoti_build.errors import UsageError  # noqa: E402

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
    quantizer = x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config())
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
VECTORS, PICTURES = (16, 64), (16, 3, 8, 8)
FACTORIES = {
    "weights_only": VECTORS,
    "dynamic": VECTORS,
    "float8": VECTORS,
    "int4": VECTORS,
    "exported": PICTURES,
    "around": PICTURES,
}
NONE = {"atol": None, "rtol": None, "outputs": {}}


@pytest.fixture(scope="module")
def nets() -> dict[str, Any]:
    found: dict[str, Any] = {}
    exec(compile(NETS, "nets.py", "exec"), found)
    return found


Made = Callable[..., tuple[nn.Module, Any, Any]]


@pytest.fixture
def made(nets: dict[str, Any]) -> Made:
    """A model ready to be exported, its inputs and its program."""

    def make(name: str, seed: int = 0) -> tuple[nn.Module, Any, Any]:
        module = taken_apart(make_module(nets[name], {}, seed, ""))
        inputs = torch.randn(FACTORIES[name], generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            return module, inputs, torch.export.export(module, (inputs,), strict=False)

    return make


def relative(value: Any, exact: Any) -> float:
    return float(((value - exact).square().mean() / exact.square().mean()).sqrt())


@pytest.mark.parametrize("name", FACTORIES)
def test_a_quantised_model_has_a_float64_reference_that_quantises_too(made: Made, name: str) -> None:
    module, inputs, program = made(name)
    assert is_quantised(module)
    twin = float64_graph(program)
    with torch.no_grad():
        eager, exact = module(inputs), twin(inputs.double())
    assert exact.dtype == torch.float64
    # Beside float64 without quantised activations, 8 bits of them would show as some 1e-2.
    assert relative(eager.double(), exact) < 4e-3


@pytest.mark.parametrize(("name", "rounds"), [("dynamic", "int8"), ("exported", "uint8"), ("weights_only", None)])
def test_only_quantised_activations_make_an_output_coarse(made: Made, name: str, rounds: str | None) -> None:
    module, inputs, program = made(name)
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
        module.down.parametrizations.weight.original0.copy_(module.down.parametrizations.weight.original0.roll(1, 0))

    def dropped_residual(module: Any) -> None:
        module.forward = lambda x: module.head(module.down(nn.functional.gelu(module.up(module.norm(x)))))

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
