"""Models whose weights are not copied whole: what is made of one weight at a time is what a whole
copy gives. Nothing is compiled here."""

from __future__ import annotations

import io
import json
import queue
import subprocess
import sys
import time
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from small_modules import Total  # noqa: E402
from torch import nn  # noqa: E402 - torch is imported first, with its warnings
from torch.nn import functional  # noqa: E402

from aoti_build._torch.checking import perturbed, reference, substitute  # noqa: E402
from aoti_build._torch.checking.eager import Subject  # noqa: E402
from aoti_build._torch.checking.reference import make_reference_data  # noqa: E402
from aoti_build._torch.events import Events, tell_stage  # noqa: E402
from aoti_build._torch.program.inputs import from_shapes  # noqa: E402
from aoti_build._torch.program.writes import Writes  # noqa: E402
from aoti_build.models_file.project import Dim, Model, Source, TensorInput  # noqa: E402


class Tied(nn.Module):
    """One weight under two names, and transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
        self.second.weight = self.first.weight

    def forward(self, x: Any) -> Any:
        return self.second(torch.relu(self.first(x))) @ self.first.weight.t()


class Functional(nn.Module):
    """Weights from a list, sliced, joined, and asked for their dtype."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ParameterList([torch.randn(4, 8), torch.randn(4, 8)])
        self.scale = nn.Parameter(torch.rand(()))

    def forward(self, x: Any) -> Any:
        weight = torch.cat(list(self.parts))
        made = functional.linear(x.to(self.scale.dtype), weight) * self.scale
        return made + self.parts[0][1:2] @ torch.ones(8, 1, dtype=self.parts[0].dtype)


class Recurrent(nn.Module):
    """A layer that keeps a list of its own weights."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.LSTM(8, 8, 2, batch_first=True)

    def forward(self, x: Any) -> Any:
        return self.layer(x.unsqueeze(0))[0]


class Normed(nn.Module):
    """Floating buffers that are read, and an integer one that is written."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(8)
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.norm.running_mean.uniform_()
        self.norm.running_var.uniform_(0.5, 2)

    def forward(self, x: Any) -> Any:
        self.count.add_(1)
        return self.norm(x) * self.count


WRITES = {Normed: Writes(buffers=("count",)), Total: Writes(buffers=("total",))}


@pytest.mark.parametrize("kind", [Tied, Functional, Recurrent, Normed, Total])
def test_weights_widened_one_by_one_give_what_a_float64_copy_gives(
    kind: type[nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = reference_data_of(kind)
    monkeypatch.setattr(substitute, "LARGE", 0)
    monkeypatch.setattr(substitute, "_CACHE_LIMIT", 0)
    one_by_one = reference_data_of(kind)
    assert one_by_one.no_exact is None
    for mine, other in zip(one_by_one.cases, whole.cases, strict=True):
        assert mine.digest == other.digest
        assert all(value is None or value.dtype == torch.float64 for value in mine.exact)
        assert all(
            torch.equal(*pair)
            for pair in zip(mine.exact, other.exact, strict=True)
            if None not in pair
        )


def test_other_weights_of_a_large_model_are_other_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(substitute, "LARGE", 0)
    torch.manual_seed(0)
    module = Tied().eval().requires_grad_(False)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    subject = Subject(module, from_shapes(model().inputs), "cpu")
    case = reference.make_reference_data(subject, model()).cases[0]
    changed = perturbed._other_weights(subject, case)
    assert changed is not None
    assert not torch.allclose(changed[0], case.outputs[0], rtol=1e-2)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_a_model_that_branches_has_a_float64_reference() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 8)

        def forward(self, x: Any) -> Any:
            return torch.cond(x.sum() > 0, lambda x: self.layer(x).sin(), lambda x: x.cos(), (x,))

    found = reference_data_of(Branches)
    assert found.no_exact is None
    assert found.cases[0].exact[0].dtype == torch.float64


def test_float64_ends_when_it_takes_too_long_and_says_for_how_much(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Slow(nn.Linear):
        def forward(self, x: Any) -> Any:
            if x.dtype == torch.float64 and len(x) > 2:
                time.sleep(0.3)
            return super().forward(x)

    monkeypatch.setattr(reference, "EXACT_SECONDS", 0.25)
    batch = Dim("batch", min=2, max=64, example=4)
    reference_data = reference_data_of(lambda: Slow(8, 8), model("batch", dims=(batch,)))
    known = {case.name for case in reference_data.cases if case.exact is not None}
    assert len(known) < len(reference_data.cases)
    assert reference_data.no_exact
    assert (
        f"{len(reference_data.cases) - len(known)} of {len(reference_data.cases)} points"
        in reference_data.no_exact
    )


def test_a_long_phase_says_what_it_does() -> None:
    stream = io.StringIO()
    events = Events(stream, queue.Queue())
    with events.phase("reference"):
        tell_stage(events)("the max inputs in float64")
    phase, stage = [json.loads(line) for line in stream.getvalue().splitlines()][:2]
    assert phase["name"] == "reference"
    assert (stage["name"], stage["detail"]) == ("reference", "the max inputs in float64")
    assert list(events.seconds) == ["reference"]


_MEASURED = """\
import resource, sys
import torch
from torch import nn
from aoti_build._torch.checking.eager import Subject
from aoti_build._torch.checking.perturbed import _other_weights
from aoti_build._torch.checking.reference import make_reference_data
from aoti_build._torch.program.inputs import from_shapes
from aoti_build.models_file.project import Model, Source, TensorInput

width = 2048
layers = [nn.Linear(width, width, bias=False) for _ in range(24)]
module = nn.Sequential(*layers).eval().requires_grad_(False)
inputs = (TensorInput(shape=(2, width), dtype="float32"),)
model = Model("model", Source("nets", None, "build"), inputs)
subject = Subject(module, from_shapes(model.inputs), "cpu")
module(torch.zeros(2, width))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
reference_data = make_reference_data(subject, model)
assert reference_data.no_exact is None and reference_data.cases[0].exact[0].dtype == torch.float64
_other_weights(subject, reference_data.cases[0])
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print((after - before) * 1024 / sum(value.nbytes for value in module.parameters()))
"""


@pytest.mark.slow
def test_the_references_of_a_large_model_need_little_memory_beside_it() -> None:
    """Float64 in a whole copy would need two times the weights, other weights one; a layer or two
    at a time is 0.5."""
    done = subprocess.run(
        [sys.executable, "-c", _MEASURED], capture_output=True, text=True, check=True
    )
    assert float(done.stdout) < 0.8


def reference_data_of(make: Any, described: Model | None = None) -> Any:
    torch.manual_seed(0)
    described = described or model()
    subject = Subject(
        make().eval().requires_grad_(False),
        from_shapes(described.inputs),
        "cpu",
        WRITES.get(make, Writes()),
    )
    return make_reference_data(subject, described)


def model(rows: int | str = 4, dims: tuple[Dim, ...] = ()) -> Model:
    inputs = (TensorInput(shape=(rows, 8), dtype="float32"),)
    return Model("model", Source("nets", None, "build"), inputs, dims=dims)
