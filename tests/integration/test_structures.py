"""Structures of inputs and outputs, without a compile: names of leaves, types that a load needs,
plain outputs; and the values that are no tensors."""

from __future__ import annotations

import collections
import copy
import dataclasses
import inspect
import math
import sys
import textwrap
import typing
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

from aoti_build._torch.checking.compare import compare
from aoti_build._torch.checking.reference_data import (
    Case,
    Plain,
    ReferenceData,
)
from aoti_build._torch.checking.reference_reader import load_reference_data
from aoti_build._torch.checking.reference_writer import save_reference_data
from aoti_build._torch.checking.returned import as_returned, check_constants, compare_plain
from aoti_build._torch.discovery.registered import Registrations, needed_imports
from aoti_build._torch.program.axes import declared_axes
from aoti_build._torch.program.export import export
from aoti_build._torch.program.inputs import Call, from_shapes
from aoti_build._torch.program.method import with_method
from aoti_build._torch.program.signature import signature
from aoti_build._torch.program.structure import foreign_types, leaf_names, plain, with_plain_outputs
from aoti_build._torch.program.writes import EagerWrites
from aoti_build.common.sizes import parse
from aoti_build.errors import ArtifactError, BuildError
from aoti_build.models_file.project import ConstantInput, Dim, TensorInput
from aoti_build.runtime.imports import import_registered


@dataclasses.dataclass
class Keyless:
    """Registered as diffusers' outputs are: without a function for keys."""

    first: Any
    second: Any


class Record(collections.OrderedDict):  # type: ignore[type-arg]
    """As transformers' and diffusers' outputs: a mapping with a type of its own."""


class Pair(typing.NamedTuple):
    left: Any
    right: Any


pytree.register_pytree_node(
    Keyless,
    lambda value: ([value.first, value.second], None),
    lambda children, _: Keyless(*children),
    serialized_type_name="tests.Keyless",
)
pytree.register_pytree_node(
    Record,
    lambda value: (list(value.values()), list(value.keys())),
    lambda children, keys: Record(zip(keys, children, strict=True)),
    serialized_type_name="tests.Record",
)


@dataclasses.dataclass
class Registered:
    scores: Any
    absent: Any = None


torch.export.register_dataclass(Registered, serialized_type_name="tests.Registered")


def names(value: Any) -> list[str]:
    return list(leaf_names(pytree.tree_structure(value)))


def test_leaves_have_names_whatever_their_types_tell() -> None:
    assert names(1) == [""]
    assert names({"a": (1, [2])}) == ["['a'][0]", "['a'][1][0]"]
    assert names(Pair(1, {"b": 2})) == [".left", ".right['b']"]
    assert names(Record(logits=1, hidden=(2, 3))) == [
        "['logits']",
        "['hidden'][0]",
        "['hidden'][1]",
    ]
    assert names(Registered(1)) == [".scores"]
    assert names(Keyless(1, [2])) == ["[0]", "[1][0]"]
    assert names(collections.defaultdict(list, a=[1])) == ["['a'][0]"]
    # The names that torch itself has, where it has some.
    for value in ({"a": (1, [2])}, Pair(1, 2), Registered(1), collections.deque([1])):
        assert names(value) == [
            pytree.keystr(path) for path, _ in pytree.tree_flatten_with_path(value)[0]
        ]


def test_plain_outputs_are_named_alike() -> None:
    @dataclasses.dataclass
    class Unregistered:
        scores: Any
        absent: Any = None

    given = (
        Record(logits=1, inner=Keyless(2, 3)),
        Pair(4, [5]),
        Unregistered(6),
        Registered(7),
        None,
    )
    assert plain(given) == (
        {"logits": 1, "inner": {"first": 2, "second": 3}},
        {"left": 4, "right": [5]},
        {"scores": 6, "absent": None},
        {"scores": 7, "absent": None},
        None,
    )


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor, flag: bool = True, names: Any = None) -> Any:
        return Record(
            y=self.linear(x) if flag else x, size=x.shape[0], name=names, pair=Pair(x + 1, 0.5)
        )


def test_a_model_with_plain_outputs_is_the_same_model() -> None:
    model = Model()
    weights = list(model.state_dict())
    wrapped = with_plain_outputs(model)
    assert wrapped is model
    assert list(wrapped.state_dict()) == weights
    assert type(wrapped(torch.ones(2, 3))) is dict
    twin = copy.deepcopy(wrapped).to(torch.float64)
    assert twin(torch.ones(2, 3, dtype=torch.float64))["y"].dtype == torch.float64


class Encoder(nn.Module):
    """Has a method that gives a type of its own, which pytree does not know."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def encode(self, x: torch.Tensor, *, gain: torch.Tensor | None = None) -> Any:
        return Unknown(self.linear(x), x)


@dataclasses.dataclass
class Unknown:
    mean: torch.Tensor
    code: torch.Tensor


@pytest.mark.parametrize("strict", [False, True])
def test_a_method_has_plain_outputs_too(strict: bool) -> None:
    model = with_plain_outputs(with_method(Encoder(), "encode", "here"))
    assert [*inspect.signature(model.forward).parameters] == ["x", "gain"]
    program = export(model, Call((torch.ones(2, 3),), {}), (), [{}], "here", strict=strict)
    assert list(leaf_names(program.call_spec.out_spec)) == ["['mean']", "['code']"]
    twin = copy.deepcopy(model).to(torch.float64)
    assert twin(torch.ones(2, 3, dtype=torch.float64))["mean"].dtype == torch.float64
    assert model(torch.ones(2, 3))["mean"].dtype == torch.float32


DIMS = (Dim("n", 2, 8, 4),)
INPUTS = (TensorInput(("n", 3), "float32"), ConstantInput(False), ConstantInput(["a", None]))


def described(model: nn.Module) -> tuple[dict[str, Any], dict[str, type]]:
    make = from_shapes(INPUTS)
    axes, call = declared_axes(INPUTS), make({"n": 4}, 0)
    program = export(model, call, DIMS, axes, "here")
    found = signature(program, program, model, call, DIMS, axes, EagerWrites())
    return found, foreign_types(program.call_spec.out_spec)


def test_the_signature_has_constants_and_numbers() -> None:
    found, types = described(Model())
    assert found["inputs"] == [
        {"name": "x", "dtype": "float32", "shape": ["n", 3]},
        {"name": "flag", "constant": "False"},
        {"name": "names[0]", "constant": "'a'"},
        {"name": "names[1]", "constant": "None"},
    ]
    assert found["outputs"] == [
        {"name": "['y']", "dtype": "float32", "shape": ["n", 3]},
        {"name": "['size']", "number": "int", "value": "n"},
        {"name": "['name'][0]", "constant": "'a'"},
        {"name": "['name'][1]", "constant": "None"},
        {"name": "['pair'].left", "dtype": "float32", "shape": ["n", 3]},
        {"name": "['pair'].right", "constant": "0.5"},
    ]
    assert set(types) == {"tests.Record", f"{__name__}.Pair"}
    assert described(with_plain_outputs(Model()))[1] == {}


def test_inputs_of_types_without_keys_are_exported() -> None:
    class Taker(nn.Module):
        def forward(self, given: Keyless) -> torch.Tensor:
            return typing.cast("torch.Tensor", given.first + given.second)

    call = Call(args=(Keyless(torch.ones(4, 2), torch.ones(4, 2)),))
    dims, axes = (Dim("n", 2, 8, 4),), [{0: parse("n")}, {0: parse("n")}]
    program = export(Taker(), call, dims, axes, "here")
    found = signature(program, program, Taker(), call, dims, axes, EagerWrites())
    assert [(entry["name"], entry["shape"]) for entry in found["inputs"]] == [
        ("given[0]", ["n", 2]),
        ("given[1]", ["n", 2]),
    ]


def test_what_is_no_tensor_is_compared_by_type_and_value() -> None:
    entries = [{"name": "t", "dtype": "float32", "shape": []}, {"name": "c", "constant": "'a'"}]
    numbers = [
        {"name": "i", "number": "int", "value": "n"},
        {"name": "f", "number": "float", "value": "n/3"},
    ]
    got = as_returned(
        [
            torch.ones(()),
            None,
            torch.tensor(4),
            torch.tensor(1 / 3, dtype=torch.float32),
            torch.ones(1),
        ],
        {"outputs": [*entries, *numbers]},
    )
    assert got[1:3] == [Plain("'a'"), Plain("4")]
    assert isinstance(got[4], torch.Tensor)  # a buffer behind the outputs
    assert compare_plain("f", Plain(repr(1 / 3)), got[3])["ok"]
    assert not compare_plain("i", Plain("5"), got[2])["ok"]
    assert compare_plain("i", Plain("5"), got[2])["why"] == "4, expected 5"
    for one, other in (("1", "True"), ("1", "1.0"), ("None", "0"), ("'1'", "1"), ("0.5", "0.25")):
        assert not compare_plain("x", Plain(one), Plain(other))["ok"]
    assert compare_plain("x", Plain("nan"), Plain("nan"))["ok"]
    assert not compare_plain("x", Plain("nan"), Plain("0.5"))["ok"]
    assert not compare_plain("x", Plain("1"), torch.ones(()))["ok"]


def test_reference_files_keep_what_is_no_tensor(tmp_path: Path) -> None:
    case = Case("example", [torch.ones(2)], [torch.ones(2), Plain("None"), Plain("'é'")])
    save_reference_data(tmp_path / "reference.safetensors", ReferenceData([case]))
    (kept,) = load_reference_data(tmp_path / "reference.safetensors").cases
    assert kept.outputs is not None
    assert kept.outputs[1:] == [Plain("None"), Plain("'é'")]


def test_a_constant_that_is_another_in_eager_is_refused() -> None:
    found = {"outputs": [{"name": "n", "constant": "4"}]}
    reference_data = ReferenceData(
        [Case("example", [], [Plain("4")]), Case("max", [], [Plain("8")], sizes={"n": 8})]
    )
    check_constants(ReferenceData(reference_data.cases[:1]), found, "here")
    with pytest.raises(BuildError) as refused:
        check_constants(reference_data, found, "here")
    assert "the output n became the constant 4 in the export" in str(refused.value)
    assert "in eager mode it is 8 at n 8" in str(refused.value)


def test_nan_of_eager_alone_is_called_what_it_is() -> None:
    eager = torch.tensor([[1.0, 2.0], [math.nan, math.nan]])
    got = torch.tensor([[1.0, 2.0], [0.5, 0.5]])
    figures = compare("y", eager, got, {})
    assert not figures["ok"]
    assert figures["eager_nan"] == 2
    assert (
        "eager is NaN in 2 of 4 values where compiled code is finite, and all others agree"
        in figures["why"]
    )
    for other in (got + 1, -eager, torch.tensor([[math.nan, 2.0], [0.5, 0.5]])):
        assert "eager_nan" not in compare("y", eager, other, {})


def test_masks_are_as_probable_as_asked_for() -> None:
    def drawn(probability: float | None) -> float:
        mask = TensorInput((1000,), "bool", probability=probability)
        return float(from_shapes((mask,))({}, 0).tensors()[0].float().mean())

    assert drawn(1) == 1
    assert drawn(0) == 0
    assert 0.85 < drawn(0.9) < 0.95
    assert drawn(None) == drawn(0.5)


OPS = """\
import torch
from helper import register

library = torch.library.Library("watched", "FRAGMENT")
library.define("split(Tensor x) -> Tensor")
register("watched::helped")


@torch.library.custom_op("watched::own", mutates_args=["x"])
def own(x: torch.Tensor) -> None:
    x.add_(1)


def late():
    register("watched::late")
"""
HELPER = """\
import torch


def register(name):
    @torch.library.custom_op(name, mutates_args=[])
    def twice(x: torch.Tensor) -> torch.Tensor:
        return x * 2
"""
KERNELS = """\
import torch

import ops_of_test

torch.library.impl("watched::split", "CPU")(lambda x: x * 2)
"""


@pytest.fixture(scope="module")
def registrations(tmp_path_factory: pytest.TempPathFactory) -> Registrations:
    """After the imports of a project's modules; torch has no way to forget them."""
    root = tmp_path_factory.mktemp("modules")
    for name, text in {"ops_of_test": OPS, "helper": HELPER, "kernels_of_test": KERNELS}.items():
        (root / f"{name}.py").write_text(textwrap.dedent(text))
    found = Registrations()
    sys.path.insert(0, str(root))
    import kernels_of_test  # type: ignore[import-not-found]
    import ops_of_test  # type: ignore[import-not-found]

    assert kernels_of_test
    ops_of_test.late()
    return found


def test_the_module_that_is_being_imported_registers(registrations: Registrations) -> None:
    assert registrations.modules_of("watched::own") == ["ops_of_test"]
    assert registrations.modules_of("watched::helped") == ["ops_of_test"]
    assert registrations.modules_of("watched::split") == ["ops_of_test", "kernels_of_test"]
    assert registrations.modules_of("aten::add") == []
    # Of what nobody has seen the namespace is the best guess; the check's process tries it.
    assert registrations.modules_of("unheard::of") == ["unheard"]


def test_imports_are_listed_with_what_they_register(registrations: Registrations) -> None:
    operators = {"watched::own", "watched::split", "aten::add"}
    assert needed_imports(registrations, operators, {}, ("first.named",)) == [
        {"module": "first.named", "operators": [], "types": []},
        {"module": "ops_of_test", "operators": ["watched::own", "watched::split"], "types": []},
        {"module": "kernels_of_test", "operators": ["watched::split"], "types": []},
    ]


def test_a_module_that_only_brings_kernels_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The operator itself is there as soon as the module that defines it was imported."""
    defines = "import torch\nlibrary = torch.library.Library('two_parts', 'DEF')\n"
    defines += "library.define('f(Tensor x) -> Tensor')"
    kernels = (
        "import torch\nlibrary = torch.library.Library('two_parts', 'IMPL')\nlibrary.impl('f',"
        " torch.abs, 'CPU')"
    )
    (tmp_path / "defines_f.py").write_text(defines)
    (tmp_path / "kernels_of_f.py").write_text(kernels)
    (tmp_path / "quits.py").write_text("raise SystemExit(3)")
    monkeypatch.syspath_prepend(tmp_path)
    modules = ("defines_f", "kernels_of_f")
    import_registered(
        [{"module": name, "operators": ["two_parts::f"], "types": []} for name in modules]
    )
    assert torch.ops.two_parts.f(-torch.ones(1)) == 1
    with pytest.raises(ArtifactError, match="the module quits, which cannot be imported"):
        import_registered([{"module": "quits", "operators": [], "types": []}])


def test_transformers_outputs_name_their_module() -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
    }
    model = transformers.BertModel(transformers.BertConfig(vocab_size=20, **sizes)).eval()
    call = Call(kwargs={"input_ids": torch.zeros(2, 4, dtype=torch.int64)})
    program = export(model, call, (), [{}], "here")
    types = foreign_types(program.call_spec.out_spec)
    (entry,) = needed_imports(Registrations(), [], types, ())
    assert entry["module"] == "transformers.modeling_outputs"
    assert list(leaf_names(program.call_spec.out_spec)) == [
        "['last_hidden_state']",
        "['pooler_output']",
    ]


def test_diffusers_outputs_name_their_module() -> None:
    diffusers = pytest.importorskip("diffusers")
    blocks = {
        "down_block_types": ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",),
        "block_out_channels": (8,),
    }
    model = diffusers.UNet2DModel(
        sample_size=8, layers_per_block=1, norm_num_groups=4, **blocks
    ).eval()
    call = Call(args=(torch.zeros(1, 3, 8, 8), torch.tensor(3)))
    program = export(model, call, (), [{}, {}], "here")
    (kind,) = foreign_types(program.call_spec.out_spec).values()
    assert kind.__module__ == "diffusers.models.unets.unet_2d"
    assert list(leaf_names(program.call_spec.out_spec)) == ["['sample']"]
    program = export(with_plain_outputs(model), call, (), [{}, {}], "here")
    assert foreign_types(program.call_spec.out_spec) == {}
