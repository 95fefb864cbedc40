"""What torch.export cannot take is said in a few lines that name the model's own line and the next
step. Only exports run here; nothing is compiled."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402 - torch is imported first, with its warnings

from aoti_build._torch.checking.first_calls import first_calls  # noqa: E402
from aoti_build._torch.program.export import export  # noqa: E402
from aoti_build._torch.program.inputs import Call  # noqa: E402
from aoti_build._torch.program.refusals import refuse_scripted  # noqa: E402
from aoti_build._torch.program.writes import Writes  # noqa: E402
from aoti_build.common.sizes import parse  # noqa: E402
from aoti_build.errors import BuildError, UsageError  # noqa: E402
from aoti_build.models_file.project import Dim  # noqa: E402

BATCH = (Dim("batch", min=2, max=16, example=5),)


@dataclasses.dataclass
class Result:
    scores: Any


class MyCache:
    def __init__(self, value: Any) -> None:
        self.value = value


class Dataclass(nn.Module):
    def forward(self, x: Any) -> Any:
        return Result(x + 1)


class ReturnsCache(nn.Module):
    def forward(self, x: Any) -> Any:
        return {"scores": x + 1, "past": MyCache(x)}


class Branch(nn.Module):
    def forward(self, x: Any) -> Any:
        return x + 1 if x.sum() > 0 else x - 1


class Count(nn.Module):
    def forward(self, x: Any) -> Any:
        found = (x > 0).nonzero()
        return found * 2 if found.shape[0] > 3 else found


class OneHot(nn.Module):
    def forward(self, x: Any) -> Any:
        return nn.functional.one_hot(x.long().clamp(0))


class Table(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.ones(5, 8))

    def forward(self, x: Any) -> Any:
        return x + self.table


class Loop(nn.Module):
    def forward(self, x: Any) -> Any:
        for step in range(x.shape[0]):
            x = x + step
        return x


class Narrow(nn.Module):
    def forward(self, x: Any) -> Any:
        return x if x.shape[0] < 10 else x * 2


class Numpy(nn.Module):
    def forward(self, x: Any) -> Any:
        return torch.from_numpy(x.numpy() + 1)


def torch_says(module: nn.Module, *inputs: Any) -> BuildError:
    tensors = inputs or (torch.randn(5, 8),)
    axes = [{0: parse("batch")} for tensor in tensors]
    with pytest.raises(BuildError) as caught:
        export(module, Call(args=tensors), BATCH, axes, "models.yaml:5:5")
    return caught.value


@pytest.mark.parametrize(
    ("module", "said", "advice"),
    [
        (Dataclass(), ["Result", "does not know"], "torch.export.register_dataclass(Result)"),
        (ReturnsCache(), ["MyCache"], "use_cache: false"),
        (
            Branch(),
            ["test_refusals.py", "in forward: return x + 1 if x.sum() > 0 else x - 1"],
            "torch.where",
        ),
        (Count(), ["u0 > 3", "in forward: return found * 2 if found.shape[0] > 3"], "nms"),
        (OneHot(), ["in forward: return nn.functional.one_hot"], "give that size as a number"),
        (
            Table(),
            ["the model fixes the dim batch to 5", "in forward: return x + self.table"],
            "write 5 in the shape",
        ),
        (
            Loop(),
            ["the model fixes the dim batch to 5", "in forward: for step in range(x.shape[0])"],
            "a loop",
        ),
        (Narrow(), ["max=9", "in forward: return x if x.shape[0] < 10"], "declare the range"),
        (
            Numpy(),
            ["NumPy array", "in forward: return torch.from_numpy"],
            "before or after the call",
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_a_refusal_names_the_line_and_the_next_step(
    module: nn.Module, said: list[str], advice: str
) -> None:
    error = torch_says(module)
    assert error.message == "the model cannot be exported"
    assert advice in str(error.hint)
    for text in said:
        assert text in str(error.cause)
    assert len(str(error.cause)) < 600
    for noise in ("TORCH_LOGS", "TORCHDYNAMO", "draft_export", "docs.google.com", "github.com"):
        assert noise not in str(error.cause)


def test_two_dims_forced_equal_keep_torchs_own_fix() -> None:
    class Sum(nn.Module):
        def forward(self, x: Any, y: Any) -> Any:
            return x + y

    dims = (Dim("a", min=2, max=9, example=4), Dim("b", min=2, max=9, example=4))
    call = Call(args=(torch.ones(4, 8), torch.ones(4, 8)))
    with pytest.raises(BuildError) as caught:
        export(Sum(), call, dims, [{0: parse("a")}, {0: parse("b")}], "models.yaml:5:5")
    cause = str(caught.value.cause)
    assert "Suggested fixes:\n  b = a" in cause
    assert "in forward: return x + y" in cause


def test_an_operator_without_a_shape_is_named() -> None:
    @torch.library.custom_op("zoo::opaque", mutates_args=())
    def opaque(x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    class Opaque(nn.Module):
        def forward(self, x: Any) -> Any:
            return torch.ops.zoo.opaque(x)

    error = torch_says(Opaque())
    assert "zoo::opaque" in str(error.cause) or "zoo.opaque" in str(error.cause)
    assert "register_fake" in str(error.hint)


@pytest.mark.filterwarnings(
    "ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning"
)
@pytest.mark.parametrize("how", ["script", "trace", "part"])
def test_torchscript_is_refused_before_the_export(how: str) -> None:
    linear = nn.Linear(8, 8)
    scripted = (
        torch.jit.trace(linear, torch.ones(2, 8)) if how == "trace" else torch.jit.script(linear)
    )
    module = nn.Sequential(nn.ReLU(), scripted) if how == "part" else scripted
    with pytest.raises(UsageError) as caught:
        refuse_scripted(module, "models.yaml:3:5")
    assert "ScriptModule" in caught.value.message
    assert "state_dict" in str(caught.value.hint)
    assert ("its part 1" in caught.value.message) == (how == "part")


class Noisy(nn.Module):
    def __init__(self, *, random: bool) -> None:
        super().__init__()
        self.random = random
        self.register_buffer("total", torch.zeros(8))

    def forward(self, x: Any) -> Any:
        self.total += x.sum(0)
        return self.total + (torch.rand(8) if self.random else 1)


def test_random_numbers_are_told_from_state_before_the_compiler_is_blamed() -> None:
    call = Call(args=(torch.ones(5, 8),))
    writes = Writes(buffers=("total",))
    first_calls(Noisy(random=False), call).refuse_hidden_state(writes)
    with pytest.raises(BuildError, match="differently when it is called again"):
        first_calls(Noisy(random=True), call).refuse_hidden_state(writes)
