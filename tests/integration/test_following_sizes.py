"""Sizes that follow dims, from models.yaml or a callable to the loaded artifact; what is not affine
is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Finished, phases_of, run_inv
from projects import write_single
from torch import Tensor

import aoti_build
from aoti_build._torch.checking.eager import Subject
from aoti_build._torch.checking.exported import exported as for_every_size
from aoti_build._torch.checking.reference import points
from aoti_build._torch.program.axes import Axes, declared_axes, infer_axes, require_axes
from aoti_build._torch.program.dims import ExportSizes
from aoti_build._torch.program.inputs import Call, from_callable, from_shapes
from aoti_build._torch.program.signature import signature
from aoti_build._torch.program.writes import EagerWrites, functional_form
from aoti_build.common.sizes import parse
from aoti_build.errors import BuildError, InputError, UsageError
from aoti_build.models_file.project import Dim, TensorInput

BATCH, PAST, SEQ = Dim("batch", 1, 4, 2), Dim("past", 1, 16, 5), Dim("seq", 1, 8, 3)
EVEN = Dim("seq", 2, 16, 4, 2)


class Attend(torch.nn.Module):
    """Tokens attend to a cache and to themselves, under a mask over both."""

    def forward(self, x: Tensor, past: Tensor, mask: Tensor) -> dict[str, Tensor]:
        keys = torch.cat([past, x], 1)
        scores = x @ keys.transpose(1, 2) + mask[:, None, :]
        return {"out": torch.softmax(scores, -1) @ keys, "keys": keys}


class External(torch.nn.Module):
    """Takes what the cache has and what the mask has without relating them."""

    def forward(self, x: Tensor, past: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return x.sum(1) + past.sum(1), mask * 2


class Pooled(torch.nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x.reshape(x.shape[0], -1, 2).sum(2) + y


class Thirds(torch.nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x.view(-1, 3, x.shape[1]).sum(1) + y


class Distances(torch.nn.Module):
    def forward(self, x: Tensor, table: Tensor) -> Tensor:
        position = torch.arange(x.shape[1])
        return x + table[:, position[:, None] - position[None, :] + x.shape[1] - 1].sum(-1)


class Each(torch.nn.Module):
    """Whatever it is given, doubled."""

    def forward(self, *given: Tensor) -> list[Tensor]:
        return [value * 2 for value in given]


def shaped(*shapes: list[int | str]) -> tuple[TensorInput, ...]:
    return tuple(TensorInput(tuple(shape), "float32") for shape in shapes)


def exported(
    module: torch.nn.Module, dims: tuple[Dim, ...], *shapes: list[int | str]
) -> dict[str, Any]:
    """The signature of an exported model of these inputs; the exported program is compared with
    eager at every point that a build checks."""
    inputs = shaped(*shapes)
    make, axes = from_shapes(inputs), declared_axes(inputs)
    call = make({dim.name: dim.example for dim in dims}, 0)
    where = {"inputs": "models.yaml:1", **{f"dims.{dim.name}": "models.yaml:2" for dim in dims}}
    found = for_every_size(Subject(module, make, "cpu"), call, dims, axes, where)
    program = found.program
    with found.tracing():
        described = signature(
            program, functional_form(program), module, call, dims, axes, EagerWrites()
        )
    for sizes in points(dims, found.special).values():
        other = make(sizes, 1)
        torch.testing.assert_close(program.module()(*other.args), module(*other.args))
    return described


def shapes_of(described: dict[str, Any], which: str) -> list[list[int | str]]:
    return [entry["shape"] for entry in described[which]]


def test_a_cache_of_past_sizes_and_a_mask_of_one_more() -> None:
    shapes = [["batch", 1, 4], ["batch", "past", 4], ["batch", "past + 1"]]
    found = exported(Attend(), (BATCH, PAST), *shapes)
    assert shapes_of(found, "inputs") == shapes
    assert shapes_of(found, "outputs") == [["batch", 1, 4], ["batch", "past + 1", 4]]


@pytest.mark.parametrize("module", [Attend(), External()])
def test_a_mask_over_the_past_and_the_present(module: torch.nn.Module) -> None:
    shapes = [["batch", "seq", 4], ["batch", "past", 4], ["batch", "past + seq"]]
    assert shapes_of(exported(module, (BATCH, PAST, SEQ), *shapes), "inputs") == shapes


@pytest.mark.parametrize(
    ("module", "dims", "shapes"),
    [
        (Pooled(), (BATCH, EVEN), [["batch", "seq"], ["batch", "seq//2"]]),
        (Thirds(), (BATCH,), [["3*batch", 4], ["batch", 4]]),
        (Distances(), (BATCH, SEQ), [["batch", "seq"], ["batch", "2*seq - 1"]]),
        (Each(), (Dim("past", 1, 16, 5),), [["past + 1"]]),
        (Each(), (Dim("past", 1, 16, 5),), [["past + 2", 3], ["past + 1", 3]]),
        (Each(), (Dim("n", 2, 9, 4),), [["2*n"], ["3*n"]]),
        (Each(), (Dim("n", 1, 9, 4),), [["2*n"], ["3*n"]]),
        (Each(), (Dim("n", 1, 9, 4),), [["16 - n", 2], ["n"]]),
        (Each(), (Dim("n", 16, 64, 32, 8),), [["n//4"], ["n + 1"], ["3*n//8"]]),
        (Each(), (Dim("n", 8, 64, 32, 8),), [["n//4"], ["n + 1"], ["n"]]),
        (Each(), (PAST, SEQ), [["past + seq"], ["seq"]]),
        (Each(), (PAST, SEQ), [["2*past + seq"], ["seq + 1"]]),
    ],
)
def test_sizes_of_every_kind(
    module: torch.nn.Module, dims: tuple[Dim, ...], shapes: list[list[int | str]]
) -> None:
    found = exported(module, dims, *shapes)
    assert shapes_of(found, "inputs") == shapes
    if isinstance(module, Each):
        assert shapes_of(found, "outputs") == shapes


def test_sizes_that_the_model_ties_otherwise_are_refused() -> None:
    with pytest.raises(BuildError) as caught:
        exported(Pooled(), (BATCH, Dim("seq", 3, 16, 4)), ["batch", "2*seq"], ["batch", "seq + 1"])
    assert "fails" in str(caught.value) or "cannot be exported" in str(caught.value)


def test_the_hook_that_asserts_is_gone_after_the_export() -> None:
    module = External()
    exported(
        module,
        (BATCH, PAST, SEQ),
        ["batch", "seq", 4],
        ["batch", "past", 4],
        ["batch", "past + seq"],
    )
    module(torch.zeros(1, 2, 4), torch.zeros(1, 2, 4), torch.zeros(1, 9))
    assert not module._forward_pre_hooks


def test_a_root_is_no_size_that_torch_would_raise_to_two() -> None:
    sizes = ExportSizes((EVEN,), declared_axes(shaped(["seq", "seq//2"])))
    ((seq, half),) = (found.values() for found in sizes.shapes() if found)
    assert (half.min, half.max) == (1, 8)
    assert seq.root is half


# Found by calling


def axes_found(function: Callable[..., Any], *dims: Dim) -> list[Axes]:
    return infer_axes(
        from_callable(function, "models.yaml:5"),
        dims,
        "models.yaml:5",
        lambda index: f"input_{index}",
    )


def test_affine_sizes_are_found_by_calling() -> None:
    def inputs(batch: int, past: int, seq: int) -> tuple[Any, ...]:
        return (
            torch.zeros(3 * batch, past + seq),
            [torch.zeros(2 * seq - 1, 7), None],
            torch.zeros(batch, past + 1),
        )

    found = axes_found(inputs, BATCH, PAST, SEQ)
    texts = [{axis: str(size) for axis, size in axes.items()} for axes in found]
    assert texts == [
        {0: "3*batch", 1: "past + seq"},
        {0: "2*seq - 1"},
        {},
        {0: "batch", 1: "past + 1"},
    ]


def test_an_exact_division_is_found_by_calling() -> None:
    (axes,) = axes_found(lambda seq: torch.zeros(seq // 2, seq), EVEN)
    assert {axis: str(size) for axis, size in axes.items()} == {0: "seq//2", 1: "seq"}


@pytest.mark.parametrize(
    ("function", "dims", "said"),
    [
        (
            lambda n: torch.zeros(n * n),
            [Dim("n", 2, 9, 4)],
            ["axis 0 of input_0 is no affine expression of the dim n"],
        ),
        (
            lambda n: torch.zeros(n * n),
            [Dim("n", 2, 9, 4)],
            ["it is 4, 9, 16, 25 where n is 2, 3, 4, 5"],
        ),
        (
            lambda n: torch.zeros(n, 1 + n // 8),
            [Dim("n", 2, 64, 4)],
            ["axis 1 of input_0", "set multiple_of: 8 on"],
        ),
        (
            lambda n: torch.zeros(n, -(-n // 2)),
            [Dim("n", 2, 64, 4)],
            ["axis 1", "if it is n//2, set multiple_of: 2"],
        ),
        (
            lambda n: torch.zeros(n, min(n, 30)),
            [Dim("n", 2, 64, 4)],
            ["axis 1 of input_0 is no affine expression"],
        ),
        (
            lambda n: torch.zeros(n, max(n, 3)),
            [Dim("n", 2, 64, 4)],
            ["axis 1 of input_0 is no affine expression"],
        ),
        (
            lambda a, b: torch.zeros(a * b),
            [BATCH, PAST],
            ["axis 0 of input_0 is no affine expression of the dims"],
        ),
        (
            lambda a, b: torch.zeros(max(a, b), a, b),
            [PAST, SEQ],
            ["axis 0 of input_0 is no affine"],
        ),
        (lambda a, b: torch.zeros(a + b), [PAST, SEQ], ["do not tell the dim a"]),
        (
            lambda n: torch.zeros(n - 1, n),
            [Dim("n", 2, 9, 2)],
            ["axis 0 of input_0 cannot be exported", "is 1 in the"],
        ),
        (lambda n: torch.zeros(4), [Dim("n", 2, 9, 4)], ["no input's size follows the dim n"]),
        (
            lambda n: torch.zeros((n,) * (1 + n % 2)),
            [Dim("n", 2, 9, 4)],
            ["how many axes input_0 has depends on"],
        ),
        (
            lambda n: [torch.zeros(n)] * n,
            [Dim("n", 2, 9, 4)],
            ["the structure of the inputs depends on the dim n"],
        ),
    ],
)
def test_what_is_not_affine_names_input_and_axis(
    function: Callable[..., Any], dims: list[Dim], said: list[str]
) -> None:
    if len(dims) > 1:
        dims = [
            Dim(name, dim.min, dim.max, dim.example) for name, dim in zip("ab", dims, strict=True)
        ]
    with pytest.raises(UsageError) as caught:
        axes_found(function, *dims)
    whole = f"{caught.value} cause: {caught.value.cause} next: {caught.value.hint}"
    assert all(words in whole for words in said), whole
    assert caught.value.where == "models.yaml:5"


def test_what_is_made_later_is_held_against_what_was_found() -> None:
    def inputs(n: int) -> tuple[Tensor]:
        return (torch.zeros(n, 7 if n == 47 else 5),)

    make, dim = from_callable(inputs, "models.yaml:5"), Dim("n", 2, 64, 4)
    axes = infer_axes(make, (dim,), "models.yaml:5", str)
    held = require_axes(
        make, axes, make({"n": 4}, 0), "models.yaml:5", lambda index: f"input_{index}"
    )
    assert held({"n": 46}, 0).tensors()[0].shape == (46, 5)
    with pytest.raises(UsageError, match="input_0") as caught:
        held({"n": 47}, 0)
    assert "[47, 7] where n is 47" in str(caught.value.cause)


def test_a_declared_size_is_taken_as_it_is_written() -> None:
    assert declared_axes(shaped(["n", 4, "n + 1"])) == [{0: parse("n"), 2: parse("n + 1")}]
    call = from_shapes(shaped(["n", 4, "n + 1"]))({"n": 3}, 0)
    assert isinstance(call, Call)
    assert call.tensors()[0].shape == (3, 4, 4)


# Built

NET = '''
import torch
from torch import nn


class Decoder(nn.Module):
    """Tokens attend to a cache and to themselves, under a mask over both."""

    def __init__(self):
        super().__init__()
        self.query = nn.Linear(4, 4)

    def forward(self, x, past, mask):
        keys = torch.cat([past, x], 1)
        scores = self.query(x) @ keys.transpose(1, 2) + mask[:, None, :]
        return {"out": torch.softmax(scores, -1) @ keys, "keys": keys}


class Mixed(nn.Module):
    """A pooled input, and one of three times the batch."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Linear(4, 4)

    def forward(self, x, half, three):
        pooled = self.scale(x).reshape(x.shape[0], -1, 2, 4).sum(2) + half
        return pooled + three.view(-1, 3, 4).sum(1)[:, None, :]


def step(batch, past):
    return {
        "x": torch.randn(batch, 1, 4),
        "past": torch.randn(batch, past, 4),
        "mask": torch.randn(batch, past + 1),
    }


def square(n):
    return {"x": torch.randn(n, 1, 4), "past": torch.randn(n, 3, 4), "mask": torch.randn(n, n * n)}
'''
MODELS = """
prefill:
  source: net.py:Decoder
  dims:
    batch: {min: 2, max: 4}
    past: {min: 2, max: 16, example: 5}
    seq: {min: 2, max: 8, example: 3}
  inputs:
    x: {shape: [batch, seq, 4]}
    past: {shape: [batch, past, 4]}
    mask: {shape: [batch, past+seq]}
decode:
  source: net.py:Decoder
  dims: {batch: {min: 2, max: 4}, past: {min: 2, max: 16, example: 5}}
  inputs: net.py:step
mixed:
  source: net.py:Mixed
  dims: {batch: {min: 2, max: 4}, seq: {min: 4, max: 16, multiple_of: 2}}
  inputs:
    x: {shape: [batch, seq, 4]}
    half: {shape: [batch, seq // 2, 4]}
    three: {shape: [3*batch, 4]}
"""
SQUARE = """
square: {source: "net.py:Decoder", dims: {n: {min: 2, max: 9}}, inputs: "net.py:square"}
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sizes") / "project"
    write_single(root, NET, MODELS)
    finished = run_inv(root, "build", "--json")
    assert finished.code == 0, finished.err
    return root


def eager(root: Path, name: str) -> torch.nn.Module:
    """The model with the weights that the build gave it."""
    namespace: dict[str, Any] = {}
    exec((root / "net.py").read_text(), namespace)  # noqa: S102 - the test's own source
    torch.manual_seed(0)
    module: torch.nn.Module = namespace[name]().eval()
    return module


def decoder_inputs(batch: int, past: int, seq: int) -> dict[str, Tensor]:
    torch.manual_seed(1)
    shapes = {"x": (batch, seq, 4), "past": (batch, past, 4), "mask": (batch, past + seq)}
    return {name: torch.randn(shape) for name, shape in shapes.items()}


def mixed_inputs(batch: int, seq: int) -> dict[str, Tensor]:
    torch.manual_seed(1)
    shapes = {"x": (batch, seq, 4), "half": (batch, seq // 2, 4), "three": (3 * batch, 4)}
    return {name: torch.randn(shape) for name, shape in shapes.items()}


def compared(root: Path, target: str, name: str, inputs: dict[str, Tensor]) -> None:
    model = aoti_build.load(target, artifacts=root / "artifacts")
    try:
        with torch.no_grad():
            torch.testing.assert_close(
                model(**inputs), eager(root, name)(**inputs), atol=1e-5, rtol=1e-4
            )
    finally:
        model.close()


def refused(root: Path, target: str, inputs: dict[str, Tensor]) -> str:
    model = aoti_build.load(target, artifacts=root / "artifacts")
    try:
        with pytest.raises(InputError) as caught:
            model(**inputs)
    finally:
        model.close()
    return f"{caught.value} {caught.value.cause}"


@pytest.mark.slow
def test_loaded_models_answer_sizes_that_nobody_checked(built: Path) -> None:
    compared(built, "prefill", "Decoder", decoder_inputs(3, 11, 6))
    compared(built, "decode", "Decoder", decoder_inputs(3, 13, 1))
    compared(built, "mixed", "Mixed", mixed_inputs(3, 10))


@pytest.mark.slow
def test_loaded_models_refuse_what_does_not_follow(built: Path) -> None:
    good = decoder_inputs(3, 11, 6)
    said = refused(built, "prefill", {**good, "mask": torch.randn(3, 18)})
    assert "past is 11 in past and seq is 6 in x, so that past + seq is 17 and not 18" in said
    assert "past is 17" in refused(built, "prefill", decoder_inputs(3, 17, 6))
    step = decoder_inputs(3, 11, 1)
    assert "past + 1 is 12 and not 11" in refused(
        built, "decode", {**step, "mask": torch.randn(3, 11)}
    )
    assert "seq//2 is 5 and not 4" in refused(
        built, "mixed", {**mixed_inputs(3, 10), "half": torch.randn(3, 4, 4)}
    )
    assert "3*batch is 9 and not 8" in refused(
        built, "mixed", {**mixed_inputs(3, 10), "three": torch.randn(8, 4)}
    )


@pytest.mark.slow
def test_verify_compares_and_probes_them(built: Path) -> None:
    finished: Finished = run_inv(built, "verify", "--strict", "--json")
    assert finished.code == 0, finished.out + finished.err
    for target in ("prefill", "decode", "mixed"):
        refusals = {
            found["name"]: found["ok"] for found in finished.target(f"{target}/cpu")["refusals"]
        }
        assert all(refusals.values())
        assert "batch 5: above max 4" in refusals
    assert "past 17: above max 16" in {
        found["name"] for found in finished.target("decode/cpu")["refusals"]
    }


@pytest.mark.slow
def test_a_package_itself_asserts_a_size_that_follows_two_dims(built: Path) -> None:
    package = torch._inductor.aoti_load_package(str(built / "artifacts/prefill/cpu/model.pt2"))
    good = decoder_inputs(3, 11, 6)
    assert package(**good)["out"].shape == (3, 6, 4)
    with pytest.raises(RuntimeError):
        package(**{**good, "mask": torch.randn(3, 18)})


@pytest.mark.slow
def test_sizes_are_spelt_alike_everywhere(built: Path) -> None:
    manifest = json.loads((built / "artifacts/prefill/cpu/manifest.json").read_text())
    inputs = {entry["name"]: entry["shape"] for entry in manifest["signature"]["inputs"]}
    assert inputs["mask"] == ["batch", "past + seq"]
    outputs = {entry["name"]: entry["shape"] for entry in manifest["signature"]["outputs"]}
    assert outputs["['keys']"] == ["batch", "past + seq", 4]
    assert "[batch, past + seq]" in run_inv(built, "inspect", "--target", "prefill").out


@pytest.mark.slow
def test_own_inputs_go_by_them(built: Path) -> None:
    torch.save(decoder_inputs(3, 11, 6), built / "good.pt")
    finished = run_inv(built, "run", "--target", "prefill", "--input", "good.pt", "--json")
    assert finished.code == 0, finished.err
    torch.save({**decoder_inputs(3, 11, 6), "mask": torch.randn(3, 18)}, built / "bad.pt")
    finished = run_inv(built, "run", "--target", "prefill", "--input", "bad.pt", "--json")
    assert finished.code != 0
    assert "past + seq" in finished.err + finished.out


def test_a_size_that_is_not_affine_ends_before_the_export(tmp_path: Path) -> None:
    write_single(tmp_path, NET, SQUARE)
    finished = run_inv(tmp_path, "build")
    assert finished.code == 2
    assert "axis 1 of mask is no affine expression of the dim n" in finished.out
    assert "models.yaml:4:" in finished.out
    phases = phases_of(tmp_path, "square/cpu")
    assert "model" in phases
    assert "export" not in phases
