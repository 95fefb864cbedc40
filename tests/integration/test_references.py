"""What eager leaves after the calls that an artifact is verified by, and from which state. Nothing
is compiled here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import save_file  # noqa: E402 - torch is imported first, with its warnings
from small_modules import Total  # noqa: E402
from torch import nn  # noqa: E402

from aoti_build._torch.checking.eager import Subject  # noqa: E402
from aoti_build._torch.checking.first_calls import first_calls  # noqa: E402
from aoti_build._torch.checking.reference import is_reference_data_of, make_reference_data  # noqa: E402
from aoti_build._torch.checking.reference_writer import save_reference_data  # noqa: E402
from aoti_build._torch.checking.state import restored_state  # noqa: E402
from aoti_build._torch.program.inputs import Call, from_shapes  # noqa: E402
from aoti_build._torch.program.method import with_method  # noqa: E402
from aoti_build._torch.program.values import input_tensors, input_values  # noqa: E402
from aoti_build._torch.program.writes import (  # noqa: E402
    STATE_CALLS,
    Writes,
    functional_form,
    writes_of,
)
from aoti_build.errors import BuildError  # noqa: E402
from aoti_build.models_file.project import Dim, Model, Source, TensorInput  # noqa: E402

# torch 2.11 warns of itself in an export; in a worker nobody sees it.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")

BATCH = (Dim("batch", min=2, max=6, example=4),)


class Odd(nn.Module):
    """Keeps its state where an export does not look for it."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(2))
        self.count = 0
        self.history: list[Any] = []
        self.table = {"last": torch.zeros(2), "inner": {"more": torch.zeros(2)}}

    def forward(self, x: Any) -> Any:
        self.seen = self.seen + x
        self.count += 1
        self.history.append(x)
        self.table["last"].add_(x)
        self.table["inner"]["more"] = x
        return self.seen * self.count + len(self.history) + self.table["last"]


def model_of(shape: tuple[int | str, ...], dims: tuple[Dim, ...] = ()) -> Model:
    inputs = (TensorInput(shape=shape, dtype="float32"),)
    return Model("model", Source("nets", None, "build"), inputs, dims=dims)


def reference_data_of(module: nn.Module, model: Model, writes: Writes) -> Any:
    assert isinstance(model.inputs, tuple)
    return make_reference_data(
        Subject(module.eval().requires_grad_(False), from_shapes(model.inputs), "cpu", writes),
        model,
    )


def test_each_case_of_a_model_with_state_is_several_calls_from_the_first_state() -> None:
    torch.manual_seed(0)
    reference_data = reference_data_of(
        Total(), model_of(("batch", 8), BATCH), Writes(buffers=("total",))
    )
    sequences = list(reference_data.sequences())
    assert [[case.call for case in calls] for calls in sequences] == [
        list(range(STATE_CALLS))
    ] * len(sequences)
    assert {tuple(calls[0].sizes.values()) for calls in sequences} == {(4,), (2,), (6,), (3,), (5,)}
    for calls in sequences:
        total = torch.zeros(8, dtype=torch.float64)
        for case in calls:
            output, buffer = case.outputs
            exact_output, exact_buffer = case.exact
            assert torch.equal(output, buffer * 2)
            assert torch.allclose(buffer.double(), exact_buffer, atol=1e-5)
            assert torch.allclose(exact_output, exact_buffer * 2)
            assert not torch.equal(buffer.double(), total)
            total = buffer.double()
    assert reference_data.no_exact is None
    assert torch.equal(reference_data.state["total"], torch.zeros(8))


def test_the_calls_of_a_sequence_have_inputs_of_their_own() -> None:
    reference_data = reference_data_of(Total(), model_of((4, 8)), Writes(buffers=("total",)))
    (calls,) = reference_data.sequences()
    assert not torch.equal(calls[0].inputs[0], calls[1].inputs[0])
    assert len({case.name for case in calls}) == STATE_CALLS


def test_a_model_without_state_is_called_once() -> None:
    reference_data = reference_data_of(nn.Linear(8, 2), model_of((4, 8)), Writes())
    assert [case.call for case in reference_data.cases] == [0]


def test_inputs_that_are_written_into_are_kept_as_they_are_before_and_after() -> None:
    class Shifts(nn.Module):
        def forward(self, x: Any) -> Any:
            x.add_(1)
            return x.sum()

    reference_data = reference_data_of(Shifts(), model_of((4,)), Writes(("x",), (0,)))
    (case,) = reference_data.cases
    assert torch.equal(case.outputs[1], case.inputs[0] + 1)


@pytest.mark.parametrize("by_method", [False, True])
def test_state_in_buffers_lists_dicts_and_numbers_is_put_back(by_method: bool) -> None:
    module = Odd()
    called = with_method(module, "forward", "here") if by_method else module
    seen, history = module.seen, module.history
    first = module.table["last"]
    for _ in range(2):
        with restored_state(called):
            assert called(torch.ones(2)).tolist() == [3, 3]
            assert called(torch.ones(2)).tolist() == [8, 8]
    assert module.seen is seen
    assert (module.count, module.history, module.history is history) == (0, [], True)
    assert module.table["last"] is first
    assert first.tolist() == [0, 0]
    assert module.table["inner"]["more"].tolist() == [0, 0]


def test_what_was_not_written_is_not_touched() -> None:
    """A watch for writes goes by the version of a tensor."""
    module = nn.BatchNorm1d(4)
    module.register_buffer("odd", torch.tensor([float("nan"), 1.0]))
    versions = {name: buffer._version for name, buffer in module.named_buffers()}
    with restored_state(module):
        module.eval()(torch.ones(2, 4))
    assert {name: buffer._version for name, buffer in module.named_buffers()} == versions


def exported_writes(module: nn.Module, *args: Any) -> Writes:
    program = torch.export.export(module.eval().requires_grad_(False), args, strict=False)
    return writes_of(functional_form(program), [f"input{index}" for index in range(len(args))])


def test_what_an_exported_model_writes_into_is_known() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("left", torch.zeros(3))
            self.register_buffer("read", torch.ones(3))

        def forward(self, x: Any, y: Any, scale: float, z: Any) -> Any:
            y[1:].mul_(scale)
            self.left.copy_(x + self.read)
            return z * self.left

    tensors = torch.ones(3), torch.ones(3), torch.ones(3)
    program = torch.export.export(Both().eval(), (*tensors[:2], 2.0, tensors[2]), strict=False)
    writes = writes_of(functional_form(program), ["x", "y", "z"])
    assert writes == Writes(("y",), (1,), ("left",))
    assert exported_writes(nn.Linear(3, 3), torch.ones(2, 3)) == Writes()
    assert exported_writes(nn.BatchNorm1d(3), torch.ones(2, 3)) == Writes()


def test_a_model_without_writes_is_not_exported_twice() -> None:
    program = torch.export.export(nn.Linear(3, 3).eval(), (torch.ones(2, 3),), strict=False)
    assert functional_form(program) is program


def test_an_output_of_sizes_alone_is_not_taken_for_one_of_the_inputs() -> None:
    """Its comparison is not vacuous for being the same with other inputs."""

    class Counts(nn.Module):
        def forward(self, x: Any) -> Any:
            return x.shape[0] * torch.ones(2), x + 1

    model = model_of(("batch", 8), BATCH)
    assert isinstance(model.inputs, tuple)
    sizes = ({0: torch.export.Dim("batch", min=2, max=6)},)
    module, args = Counts().eval(), (torch.ones(4, 8),)
    program = torch.export.export(module, args, dynamic_shapes=sizes, strict=False)
    reference_data = make_reference_data(
        Subject(module, from_shapes(model.inputs), "cpu"), model, program=program
    )
    assert [value is None for value in reference_data.others["inputs"]] == [True, False]


@pytest.mark.parametrize("kind", ["kept", "garbage", "headless", "absent"])
def test_a_stored_reference_file_that_is_none_is_made_anew(tmp_path: Path, kind: str) -> None:
    model = model_of((4, 8), ())
    assert isinstance(model.inputs, tuple)
    subject, path = (
        Subject(nn.Linear(8, 3).eval(), from_shapes(model.inputs), "cpu"),
        tmp_path / "reference.safetensors",
    )
    if kind == "kept":
        save_reference_data(path, make_reference_data(subject, model))
    elif kind == "garbage":
        path.write_bytes(b"garbage")
    elif kind == "headless":
        save_file({"x": torch.zeros(1)}, path)
    assert is_reference_data_of(path, subject, model) is (kind == "kept")


class Norm(nn.Module):
    """Updates running statistics through an operator whose schema does not say that it writes."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(4))
        self.register_buffer("variance", torch.ones(4))

    def forward(self, x: Any) -> Any:
        return nn.functional.batch_norm(x, self.mean, self.variance, training=True)


class InstanceNorm(Norm):
    def forward(self, x: Any) -> Any:
        return nn.functional.instance_norm(
            x[..., None], self.mean, self.variance, use_input_stats=True
        )


class Sometimes(nn.Module):
    """Writes inside torch.cond, for which torch has no functional form."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kept", torch.zeros(4))
        self.register_buffer("read", torch.ones(4))

    def forward(self, x: Any) -> Any:
        def writes(value: Any) -> Any:
            self.kept.add_(value[0])
            return value + self.kept

        return torch.cond(x.sum() > 1000, writes, lambda value: value + self.read, (x,))


def written_by(module: nn.Module, call: Call) -> Writes:
    module = module.eval().requires_grad_(False)
    with torch.no_grad():
        program = torch.export.export(module, call.args, strict=False)
    names = [f"input{index}" for index in range(len(call.args))]
    return writes_of(functional_form(program), names, first_calls(module, call).changes)


@pytest.mark.parametrize("kind", [Norm, InstanceNorm])
def test_running_statistics_are_state(kind: Any) -> None:
    assert written_by(kind(), Call((torch.randn(6, 4, 5),))).buffers == ("mean", "variance")


def test_what_a_branch_may_write_into_is_state_even_if_it_was_not_taken() -> None:
    try:
        written = written_by(Sometimes(), Call((torch.zeros(3, 4),)))
    except torch._dynamo.exc.UncapturedHigherOrderOpError:
        pytest.skip("this torch exports no write inside torch.cond")  # 2.11
    assert "kept" in written.buffers


def test_state_outside_of_buffers_is_refused() -> None:
    class Counts(nn.Module):
        count = 0

        def forward(self, x: Any) -> Any:
            self.count += 1
            return x * self.count

    class Random(nn.Module):
        def forward(self, x: Any) -> Any:
            return x + torch.rand(4)

    class Remembers(nn.Module):
        """A cache of what does not change is no state."""

        table: Any = None

        def forward(self, x: Any) -> Any:
            if self.table is None:
                self.table = torch.arange(4.0)
            return x + self.table

    call = Call((torch.ones(3, 4),))
    for kind in (Counts, Random):
        with pytest.raises(BuildError, match="answers the same inputs differently"):
            first_calls(kind(), call).refuse_hidden_state(Writes())
    first_calls(Remembers(), call).refuse_hidden_state(Writes())
    first_calls(Total(), Call((torch.ones(3, 8),))).refuse_hidden_state(Writes(buffers=("total",)))


def test_state_that_shares_memory_has_no_float64_reference() -> None:
    """A copy in float64 would have two buffers in the place of one."""

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("one", torch.zeros(8))
            self.register_buffer("part", self.one[:4])

        def forward(self, x: Any) -> Any:
            self.one.add_(0.005)
            return x + self.part.sum()

    reference_data = reference_data_of(Tied(), model_of((4, 8)), Writes(buffers=("one",)))
    assert "share memory" in reference_data.no_exact


def test_a_constant_that_is_named_like_an_input_is_a_constant() -> None:
    class Mode(nn.Module):
        def forward(self, x: Any, mode: str) -> Any:
            return x + 1 if mode == "x" else x

    program = torch.export.export(Mode().eval(), (torch.ones(3), "x"), strict=False)
    assert input_tensors(program) == ["x"]
    assert [isinstance(value, str) for value in input_values(program)] == [False, True]
