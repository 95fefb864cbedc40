"""Every declared size is answered: a size of 1, and sizes that torch's tracer takes to be
impossible. What cannot be is refused before the compile, at the line of the dim."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import run_inv
from projects import write_single

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402

from aoti_build._torch.checking.eager import Subject  # noqa: E402
from aoti_build._torch.checking.exported import Exported, exported  # noqa: E402
from aoti_build._torch.program.axes import declared_axes  # noqa: E402
from aoti_build._torch.program.export import whole_ranges  # noqa: E402
from aoti_build._torch.program.inputs import from_shapes  # noqa: E402
from aoti_build.errors import BuildError  # noqa: E402
from aoti_build.models_file.project import Dim, TensorInput  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")

BATCH = Dim("batch", 1, 6, 2)
SEQ = Dim("seq", 1, 12, 4)
T = Dim("t", 2, 12, 5)
WHERE = {
    "inputs": "models.yaml:9:1",
    **{f"dims.{name}": f"models.yaml:{name}" for name in ("batch", "seq", "t")},
}


def function(call: Callable[..., object]) -> nn.Module:
    """A module that does what `call` does."""

    class Module(nn.Module):
        def forward(self, x: Tensor) -> object:
            return call(x)

    return Module()


def export_of(module: nn.Module, shape: list[int | str], *dims: Dim) -> Exported:
    inputs = (TensorInput(tuple(shape), "float32"),)
    make, axes = from_shapes(inputs), declared_axes(inputs)
    example = make({dim.name: dim.example for dim in dims}, 0)
    with whole_ranges():
        return exported(
            Subject(module.eval().requires_grad_(False), make, "cpu"), example, dims, axes, WHERE
        )


def test_sizes_at_which_the_model_divides_by_zero_are_named() -> None:
    module = function(lambda x: x.view(x.shape[0] // 2, 2, -1).sum(1))
    with pytest.raises(BuildError) as raised:
        export_of(module, ["batch", 6], Dim("batch", 1, 16, 4))
    assert "batch 1" in str(raised.value)


def covers(x: Tensor) -> Tensor:
    y = torch.zeros(x.shape[0], 12)
    y[:, : x.shape[1]] = x
    return y


@pytest.mark.parametrize(
    ("module", "shape", "dims"),
    [
        (
            lambda: nn.TransformerEncoderLayer(16, 2, 32, batch_first=True),
            ["batch", "seq", 16],
            (BATCH, SEQ),
        ),
        (lambda: nn.TransformerEncoderLayer(16, 2, 32), ["seq", "batch", 16], (BATCH, SEQ)),
        (lambda: nn.LSTMCell(8, 8), ["batch", 8], (BATCH,)),
        (lambda: nn.GRUCell(8, 8), ["batch", 8], (BATCH,)),
        (lambda: nn.LSTM(8, 8, batch_first=True), ["batch", 5, 8], (BATCH,)),
        (lambda: nn.GRU(8, 8, 2, bidirectional=True), [5, "batch", 8], (BATCH,)),
        (
            lambda: nn.Conv1d(4, 4, 3, padding=1, padding_mode="circular"),
            ["batch", 4, "seq"],
            (BATCH, SEQ),
        ),
        (lambda: function(lambda x: x.mean(0) + x.softmax(1)), ["batch", "seq", 4], (BATCH, SEQ)),
    ],
    ids=[
        "encoder",
        "encoder-seq-first",
        "lstm-cell",
        "gru-cell",
        "lstm",
        "gru",
        "circular",
        "mean",
    ],
)
def test_a_size_of_one_needs_no_care(
    module: Callable[[], nn.Module], shape: list[int | str], dims: tuple[Dim, ...]
) -> None:
    found = export_of(module(), shape, *dims)
    assert found.special == ()


def halves(x: Tensor) -> Tensor:
    first, second = torch.cat([x, x + 1]).chunk(2)
    return first * second


def test_a_question_that_torch_cannot_solve_is_answered_for_each_size() -> None:
    runs = export_of(function(halves), ["batch", 8], BATCH).program.module()
    for size in range(BATCH.min, BATCH.max + 1):
        x = torch.randn(size, 8)
        assert torch.equal(runs(x), halves(x))


@pytest.mark.parametrize(
    ("call", "shape", "dims", "special"),
    [
        (covers, ["batch", "seq"], (BATCH, SEQ), [{"seq": 12}]),
        (lambda x: x[:-1] - x[1:], ["t", 4], (T,), [{"t": 2}]),
        (
            nn.Conv1d(3, 8, 3, padding=1, stride=2),
            ["batch", 3, "seq"],
            (BATCH, SEQ),
            [{"seq": 1}, {"seq": 2}],
        ),
    ],
    ids=["slice-covers-all", "inner-size-of-one", "strided"],
)
def test_sizes_that_the_tracer_assumes_away_are_verified(
    call: Callable[..., object],
    shape: list[int | str],
    dims: tuple[Dim, ...],
    special: list[dict[str, int]],
) -> None:
    module = call if isinstance(call, nn.Module) else function(call)
    found = export_of(module, shape, *dims)
    assert list(found.special) == special
    runs = found.program.module()
    for sizes in special:
        given = {dim.name: dim.example for dim in dims} | sizes
        (x,) = from_shapes((TensorInput(tuple(shape), "float32"),))(given, 1).tensors()
        assert torch.equal(runs(x), module(x))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda x: x * 2 if x.shape[0] == 1 else x * 3, "the values of output 0 differ"),
        (lambda x: x.squeeze(), "output 0 has the shape [8] there, and [1, 8] by the export"),
    ],
    ids=["branch", "squeeze"],
)
def test_a_model_that_treats_one_apart_is_refused_at_its_dim(
    call: Callable[..., object], said: str
) -> None:
    with pytest.raises(BuildError) as refused:
        export_of(function(call), ["batch", 8], BATCH)
    assert refused.value.where == WHERE["dims.batch"]
    assert said in str(refused.value)
    assert "min: 2" in str(refused.value)


def test_sizes_between_the_steps_of_the_model_are_refused_before_the_compile() -> None:
    with pytest.raises(BuildError) as refused:
        export_of(function(lambda x: x.unflatten(0, (-1, 4)).sum(1)), ["t", 8], Dim("t", 4, 40, 8))
    assert refused.value.where == WHERE["dims.t"]
    assert "multiple_of: 4" in str(refused.value)


def kept(x: Tensor) -> Tensor:
    return pytest.importorskip("torchvision").ops.nms(x, x[:, 0], 0.5)


def kept_unless_lone(x: Tensor) -> Tensor:
    found = kept(x)
    return found if found.shape[0] != 1 else found + 1


def test_an_operator_may_keep_nothing_whatever_was_exported_before() -> None:
    for call, least in (
        (kept_unless_lone, 2),
        (kept, 0),
    ):  # what the first decides only from two on is its own matter
        program = export_of(function(call), ["t", 4], T).program
        (found,) = [node.meta["val"] for node in program.graph.nodes if "nms" in node.name]
        assert program.range_constraints[found.shape[0].node.expr].lower == least


def test_sizes_that_happen_to_be_equal_are_verified() -> None:
    def branches(x: Tensor) -> Tensor:
        return x.sum(0) if x.shape[0] == x.shape[1] else x.flip(0).sum(0)

    found = export_of(function(branches), ["batch", "seq"], BATCH, SEQ)
    equal = [sizes for sizes in found.special if sizes["batch"] == sizes["seq"]]
    assert {1, 6} <= {sizes["seq"] for sizes in equal}


def test_one_size_among_many_is_verified() -> None:
    """Far more sizes are declared than can be tried."""

    def at_a_length(x: Tensor) -> Tensor:
        return x * 1.0 if x.shape[1] == 7000 else x + 0.0

    found = export_of(function(at_a_length), [2, "seq"], Dim("seq", min=1, max=8000, example=5))
    assert list(found.special) == [{"seq": 7000}]

    def one_apart(x: Tensor) -> Tensor:
        return x * 1.0 if x.shape[0] == x.shape[1] + 1 else x + 0.0

    dims = Dim("batch", min=1, max=300, example=5), Dim("seq", min=1, max=300, example=30)
    apart = export_of(function(one_apart), ["batch", "seq"], *dims).special
    assert apart
    assert all(sizes["batch"] == sizes["seq"] + 1 for sizes in apart)


def test_a_size_that_the_model_itself_refuses_is_not_answered() -> None:
    def checked(x: Tensor) -> Tensor:
        torch._check(x.shape[0] != 5)
        return x * 2

    with pytest.raises(BuildError, match="fails in eager mode"):
        export_of(function(checked), ["batch", 8], BATCH)


SOURCE = """\
import torch
from torch import nn


class Covers(nn.Module):
    def forward(self, x):
        y = torch.zeros(x.shape[0], 12)
        y[:, : x.shape[1]] = x
        return y


class Cell(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = nn.LSTMCell(8, 8)

    def forward(self, x):
        return self.cell(x)[0]


class Pooled(nn.Module):
    def forward(self, x):
        # Each second size is rounded up; lowering sees an example that is not.
        return nn.functional.max_pool2d(x, 2, 2, ceil_mode=True)


class Branch(nn.Module):
    def forward(self, x):
        return x * 2 if x.shape[0] == 1 else x * 3
"""
MODELS = """\
covers:
  source: net.py:Covers
  dims: {batch: {min: 1, max: 6}, seq: {min: 1, max: 12}}
  inputs: [{shape: [batch, seq]}]
cell:
  source: net.py:Cell
  dims: {batch: {min: 1, max: 6}}
  inputs: [{shape: [batch, 8]}]
pooled:
  source: net.py:Pooled
  dims: {length: {min: 2, max: 12, example: 4}}
  inputs: [{shape: [3, 2, length, 8]}]
"""
BRANCH = """\
branch:
  source: net.py:Branch
  dims:
    batch: {min: 1, max: 6}
  inputs: [{shape: [batch, 8]}]
"""


@pytest.mark.slow  # compiles many
def test_packages_answer_each_size(tmp_path: Path) -> None:
    write_single(tmp_path, SOURCE, MODELS)
    finished = run_inv(tmp_path, "build")
    assert finished.code == 0, finished.err
    verified = run_inv(tmp_path, "verify", "--fresh", "--json")
    assert verified.code == 0, verified.err
    cases = [case["name"] for case in verified.target("covers/cpu")["cases"]]
    assert "seq-12" in cases

    import aoti_build

    with aoti_build.load("covers", artifacts=tmp_path / "artifacts") as model:
        for batch, seq in [(1, 1), (1, 12), (6, 12), (3, 12), (5, 1), (4, 7)]:
            x = torch.randn(batch, seq)
            assert torch.equal(model(x), covers(x))
    with aoti_build.load("pooled", artifacts=tmp_path / "artifacts") as model:
        for length in range(2, 13):
            x = torch.randn(3, 2, length, 8)
            assert torch.equal(model(x), nn.functional.max_pool2d(x, 2, 2, ceil_mode=True))


def test_a_refusal_names_the_line_of_the_dim(tmp_path: Path) -> None:
    write_single(tmp_path, SOURCE, BRANCH)
    finished = run_inv(tmp_path, "build")
    assert finished.code == 1
    assert "models.yaml:6:" in finished.out
    assert "no single export serves all declared sizes of batch" in finished.out
    assert "Traceback" not in finished.out + finished.err
