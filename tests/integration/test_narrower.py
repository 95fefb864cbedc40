"""Outputs that are computed in a narrower type than their own: what they may be off by. Nothing is
compiled here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402 - torch is imported first, with its warnings

from aoti_build._torch.checking.baseline import losses, with_verdicts  # noqa: E402
from aoti_build._torch.checking.compare import compare  # noqa: E402
from aoti_build._torch.checking.eager import Subject  # noqa: E402
from aoti_build._torch.checking.reference import make_reference_data  # noqa: E402
from aoti_build._torch.program.inputs import from_shapes  # noqa: E402
from aoti_build._torch.program.precision import computed_in  # noqa: E402
from aoti_build._torch.program.writes import Writes, functional_form  # noqa: E402
from aoti_build.models_file.project import Baseline, Model, Source, TensorInput  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")
NONE: dict[str, Any] = {"atol": None, "rtol": None, "outputs": {}}


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(64), nn.Linear(64, 128), nn.Linear(128, 64)

    def forward(self, x: Any) -> Any:
        # As language models do: the norm in float32.
        hidden = (
            self.norm(x.float()).to(x.dtype)
            if self.norm.weight.dtype == torch.float32
            else self.norm(x)
        )
        return x + self.down(nn.functional.gelu(self.up(hidden)))


class Halved(nn.Module):
    """Takes and gives float32."""

    def __init__(self, dtype: torch.dtype, blocks: int = 3) -> None:
        super().__init__()
        self.dtype = dtype
        self.blocks = nn.ModuleList(Block() for _ in range(blocks))
        self.head = nn.Linear(64, 32)
        self.to(dtype)

    def forward(self, x: Any) -> Any:
        hidden = x.to(self.dtype)
        for block in self.blocks:
            hidden = block(hidden)
        return self.head(hidden).float()


def made(dtype: torch.dtype = torch.bfloat16) -> Halved:
    torch.manual_seed(0)
    return Halved(dtype).eval().requires_grad_(False)


MODEL = Model("model", Source("nets", None, "build"), (TensorInput((48, 64), "float32"),))


def case_of(module: nn.Module, computed: str | None) -> Any:
    assert isinstance(MODEL.inputs, tuple)
    reference_data = make_reference_data(
        Subject(module, from_shapes(MODEL.inputs), "cpu", computed=[computed]), MODEL
    )
    assert reference_data.no_exact is None
    return reference_data.cases[0]


def found_in(module: nn.Module, *inputs: Any) -> dict[str, str]:
    with torch.no_grad():
        program = functional_form(torch.export.export(module, inputs, strict=False))
    names = [f"output {index}" for index in range(len(program.graph_signature.user_outputs))]
    return computed_in(program, Writes(), names)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_float_outside_is_compared_with_float64_all_the_way(dtype: torch.dtype) -> None:
    module, name = made(dtype), str(dtype).removeprefix("torch.")
    assert found_in(module, torch.randn(4, 64)) == {"output 0": name}
    case = case_of(module, name)
    (eager,), (exact,) = case.outputs, case.exact
    assert (eager.dtype, exact.dtype) == (torch.float32, torch.float64)
    # As a kernel that keeps float32 inside: nearer to float64 than eager, and further from eager
    # than float32 may be.
    nearer = (exact + (eager.double() - exact).flip(0) * 0.5).float()
    figures = compare("y", eager, nearer, NONE, exact, None, name)
    assert (figures["ok"], figures["by"], figures["computed_in"]) == (True, "fp64", name)
    assert not compare("y", eager, nearer, NONE)["ok"]


def scaled(module: Any) -> None:
    module.head.weight.mul_(1.02)


def one_channel(module: Any) -> None:
    module.head.weight[5].mul_(1.3)


def wrong_layer(module: Any) -> None:
    module.blocks[1].up.weight.copy_(module.blocks[0].up.weight)


def dropped_residual(module: Any) -> None:
    block = module.blocks[2]
    block.forward = lambda x: block.down(nn.functional.gelu(block.up(block.norm(x))))


def dropped_norm(module: Any) -> None:
    module.blocks[0].norm.forward = lambda x: x


FAULTS = [scaled, one_channel, wrong_layer, dropped_residual, dropped_norm]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_faults_are_found_however_narrow_the_type(
    fault: Callable[[Any], None], dtype: torch.dtype
) -> None:
    name = str(dtype).removeprefix("torch.")
    case, wrong = case_of(made(dtype), name), made(dtype)
    fault(wrong)
    candidate = wrong(case.inputs[0])
    figures = compare("y", case.outputs[0], candidate, NONE, case.exact[0], None, name)
    assert not figures["ok"], figures


class Several(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(10, 8).to(torch.bfloat16))
        self.layer, self.narrow = nn.Linear(8, 8), nn.Linear(8, 8, dtype=torch.bfloat16)

    def forward(self, index: Any, x: Any) -> Any:
        kept = self.table[index].float()
        looked_up = nn.functional.embedding(index, self.table).float()
        return {
            "only kept": self.layer(kept) + self.layer(looked_up),
            "full": self.layer(x),
            "rounded": self.layer(x.to(torch.bfloat16).float()),
            "half": self.narrow(x.to(torch.bfloat16)).float(),
            "own": self.narrow(x.to(torch.bfloat16)),
            "index": self.narrow(x.to(torch.bfloat16)).argmax(1),
        }


def test_what_counts_is_where_an_output_was_rounded() -> None:
    found = found_in(Several().eval(), torch.tensor([1, 2]), torch.randn(2, 8))
    assert found == {"output 2": "bfloat16", "output 3": "bfloat16"}


def test_roundings_between_operators_are_named() -> None:
    case = case_of(made(), "bfloat16")
    nearer, strict = case.exact[0].float(), {**NONE, "rtol": 1e-5, "atol": 1e-5}
    figures = compare("y", case.outputs[0], nearer, strict, case.exact[0], None, "bfloat16")
    assert "emulate_precision_casts: true" in figures["why"]
    wrong = compare("y", case.outputs[0], nearer * 2, strict, case.exact[0], None, "bfloat16")
    assert not wrong["ok"]
    assert "emulate_precision_casts" not in wrong["why"]


def test_a_misplaced_nan_is_not_called_a_rounding() -> None:
    case = case_of(made(), "bfloat16")
    candidate = case.outputs[0].clone()
    candidate[0, 0] = torch.nan
    figures = compare("y", case.outputs[0], candidate, NONE, case.exact[0], None, "bfloat16")
    assert "NaN or infinity in one only" in figures["why"]
    assert "emulate_precision_casts" not in figures["why"]


BASED = """
from dataclasses import dataclass
import torch

@dataclass
class Returned:  # which pytree does not know
    y: torch.Tensor

class Large(torch.nn.Module):
    def __init__(self, factor=1.0):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return Returned(x * self.factor)
"""


class Overflowing(nn.Module):
    def forward(self, x: Any) -> Any:
        return {"y": (x.double() * 1e6).half()}


def test_what_overflows_is_lost(tmp_path: Path) -> None:
    """And outputs are plain in the baseline too."""
    (tmp_path / "based.py").write_text(BASED)
    baseline = Baseline(Source("Large", path="based.py"), {"factor": 1e6})
    model = replace(MODEL, outputs="dict", baseline=baseline)
    assert isinstance(MODEL.inputs, tuple)
    subject = Subject(Overflowing(), from_shapes(MODEL.inputs), "cpu")
    found = losses(subject, model, {"outputs": [{"name": "y"}]}, tmp_path, {"baseline": "here"})
    (loss,) = with_verdicts(found, 0.1) or []
    assert not loss["ok"]
    assert loss["relative_rmse"] == pytest.approx(1.0, abs=1e-2)
