"""Weights as people have them: what is loaded, what is refused, and which rule an error names."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from aoti_build._torch.program.weights.load import load_weights  # noqa: E402
from aoti_build.errors import UsageError  # noqa: E402
from aoti_build.models_file.project import Weights  # noqa: E402

State = Mapping[str, Any]


class Net(nn.Module):  # type: ignore[misc]
    """Layers, a norm with counts, a head, a buffer outside the state dict, and a weight with two
    names."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.encoder = nn.ModuleList([nn.Linear(4, 4) for _ in range(3)])
        self.norm = nn.BatchNorm1d(4)
        self.head = nn.Linear(4, classes)
        self.embed = nn.Embedding(5, 4)
        self.output = nn.Linear(4, 5, bias=False)
        self.output.weight = self.embed.weight
        self.register_buffer("position_ids", torch.arange(4), persistent=False)


@pytest.fixture
def state() -> dict[str, Any]:
    torch.manual_seed(3)
    state = dict(Net().state_dict())
    for value in state.values():
        if value.is_floating_point():
            value.uniform_()
    return state


def load(root: Path, document: Any, *, module: nn.Module | None = None, **rules: Any) -> nn.Module:
    torch.save(document, root / "w.pt")
    module = Net() if module is None else module
    load_weights(module, Weights("w.pt", **rules), root, "models.yaml:9:14")
    return module


def refused(root: Path, document: Any, **rules: Any) -> UsageError:
    with pytest.raises(UsageError) as caught:
        load(root, document, **rules)
    assert caught.value.where == "models.yaml:9:14"
    return caught.value


def prefixed(prefix: str) -> Callable[[State], State]:
    return lambda state: {prefix + name: value for name, value in state.items()}


def replaced(old: str, new: str) -> Callable[[State], State]:
    return lambda state: {name.replace(old, new): value for name, value in state.items()}


def added(name: str, value: Any) -> Callable[[State], State]:
    return lambda state: {**state, name: value}


def without(*names: str) -> Callable[[State], State]:
    return lambda state: {name: value for name, value in state.items() if name not in names}


@pytest.mark.parametrize(
    ("change", "rules"),
    [
        (dict, {}),
        (prefixed("module."), {}),
        (prefixed("_orig_mod."), {}),
        (prefixed("_orig_mod.module."), {}),
        (prefixed("model._orig_mod."), {"prefix": "model."}),
        (
            lambda state: {**prefixed("student.")(state), "teacher.w": torch.ones(1)},
            {"prefix": "student."},
        ),
        (lambda state: {"model": state, "epoch": 3}, {"key": "model"}),
        (lambda state: {"state": {"ema.model": state}}, {"key": "state.ema.model"}),
        (without("output.weight"), {}),
        (without("norm.num_batches_tracked"), {}),
        (lambda state: {**state, "position_ids": torch.arange(4)}, {}),
        (
            lambda state: {**state, "position_ids": torch.ones(1, 512)},
            {"ignore": ("*position_ids",)},
        ),
        (replaced("encoder.", "layers."), {"rename": (("layers.", "encoder."),)}),
    ],
)
def test_what_is_loaded(
    tmp_path: Path, state: State, change: Callable[[State], Any], rules: Any
) -> None:
    loaded = load(tmp_path, change(state), **rules).state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in state.items())


@pytest.mark.parametrize(
    ("change", "rules", "said"),
    [
        (
            prefixed("model."),
            {},
            ["all 15 names that do not fit begin with 'model.': write `prefix: \"model.\"`"],
        ),
        (prefixed("a.model."), {"prefix": "a."}, ['write `prefix: "a.model."`']),
        (
            lambda state: {"net": prefixed("m.")(state)},
            {},
            ['write `key: net` and `prefix: "m."` (15 of the model\'s 15 names)'],
        ),
        (
            lambda state: {
                "a": {"model": state, "ema": state},
                "optimizer": {"state": {0: {"step": torch.ones(1)}}},
            },
            {},
            ["write `key: a.model`", "or write `key: a.ema`"],
        ),
        (
            lambda state: {"state": {"model": state}},
            {"key": "state.modle"},
            ["at 'state.modle'", "`key: state.model`"],
        ),
        (dict, {"key": "model"}, ["has no 'model'", "leave `key` out"]),
        (dict, {"prefix": "x."}, ["no name that begins with 'x.'", "embed., encoder., head."]),
        (
            replaced("encoder.", "layers."),
            {},
            [
                "encoder.0.weight [4, 4] (perhaps layers.0.weight)",
                '`rename: {"layers.": "encoder."}`',
            ],
        ),
        (
            replaced(".weight", ".gamma"),
            {},
            ["missing from the file: norm.weight [4]", "not in the model: norm.gamma [4]"],
        ),
        (
            lambda state: {n.removeprefix("encoder."): v for n, v in state.items()},
            {},
            ['`rename: {"": "encoder."}`'],
        ),
        (
            # Both rules would have the key "layers.": one of them is enough for a mapping.
            lambda state: {
                n.replace("encoder.", "layers.").replace("head.", "layers."): v
                for n, v in state.items()
            },
            {},
            ['`rename: {"layers.": "encoder."}`'],
        ),
        (
            added("head.weight", torch.ones(10, 4)),
            {},
            [
                "head.weight: the file has [10, 4], the model wants [3, 4]",
                '`ignore: ["head.weight"]`',
            ],
        ),
        (
            added("head.bias", torch.ones(3, dtype=torch.int8)),
            {},
            ["has int8, the model wants float32"],
        ),
        (
            added("output.weight", torch.ones(5, 4)),
            {},
            ["output.weight: it is the same tensor as embed"],
        ),
        (added("position_ids", torch.ones(4)), {}, ["the model computes this buffer itself"]),
        (
            without("norm.weight", "norm.bias"),
            {},
            ["missing from the file: norm.weight [4]", "check that this is the right file"],
        ),
        (
            added("extra.w", torch.ones(1)),
            {},
            ["not in the model: extra.w [1]", '`ignore: ["extra.w"]`'],
        ),
        (
            lambda _: nn.Linear(2, 2),
            {},
            ["an object of torch.nn.modules.linear.Linear", "save its state dict alone"],
        ),
        (lambda _: [1, 2], {}, ["it holds a list", "torch.save(model.state_dict(), path)"]),
        (
            lambda state: {**state, "a.head.bias": torch.ones(3)},
            {"rename": (("a.", ""),)},
            ["two tensors for one name", "head.bias and a.head.bias both become head.bias"],
        ),
    ],
)
def test_what_is_refused(
    tmp_path: Path, state: State, change: Callable[[State], Any], rules: Any, said: list[str]
) -> None:
    error = str(refused(tmp_path, change(state), **rules))
    assert [text for text in said if text not in error] == [], error


def test_another_floating_dtype_is_converted_and_the_log_says_so(
    tmp_path: Path, state: State, capfd: pytest.CaptureFixture[str]
) -> None:
    halves = {
        name: value.bfloat16() if value.is_floating_point() else value
        for name, value in state.items()
    }
    loaded = load(tmp_path, halves)
    assert loaded.head.weight.dtype == torch.float32
    assert torch.equal(loaded.head.weight, state["head.weight"].bfloat16().float())
    assert "weights: 14 tensors converted from bfloat16 to float32" in capfd.readouterr().err


def test_ignored_names_keep_what_the_model_has(tmp_path: Path, state: State) -> None:
    module = Net(classes=10)
    before = module.head.weight.clone()
    load(tmp_path, state, module=module, ignore=("head.*",))
    assert torch.equal(module.head.weight, before)
    assert torch.equal(module.norm.weight, state["norm.weight"])


def test_a_model_on_the_meta_device_is_made_of_the_file(tmp_path: Path, state: State) -> None:
    with torch.device("meta"):
        module = Net()
    module.position_ids = torch.arange(4)
    loaded = load(tmp_path, state, module=module)
    assert all(torch.equal(loaded.state_dict()[name], value) for name, value in state.items())
    assert loaded.output.weight is loaded.embed.weight
    with torch.device("meta"):
        incomplete = Net()
    with pytest.raises(
        UsageError, match="does not have the buffers that the model has on the meta device"
    ):
        load(tmp_path, state, module=incomplete)


def write_shards(root: Path, state: State, suffix: str) -> None:
    from safetensors.torch import save_file

    weight_map = {name: f"model-{at % 2}.{suffix}" for at, name in enumerate(sorted(state))}
    for shard in set(weight_map.values()):
        part = {name: state[name].clone() for name, where in weight_map.items() if where == shard}
        if suffix == "safetensors":
            save_file(part, root / shard)
        else:
            torch.save(part, root / shard)
    (root / f"model.{suffix}.index.json").write_text(json.dumps({"weight_map": weight_map}))


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_sharded_files(tmp_path: Path, state: State, suffix: str) -> None:
    write_shards(tmp_path, state, suffix)
    module = Net()
    load_weights(module, Weights(f"model.{suffix}.index.json"), tmp_path, "here")
    assert all(torch.equal(module.state_dict()[name], value) for name, value in state.items())
    (tmp_path / f"model.{suffix}.index.json").write_text("{}")
    with pytest.raises(UsageError, match="is not an index of shards"):
        load_weights(module, Weights(f"model.{suffix}.index.json"), tmp_path, "here")


def test_the_format_before_2020(tmp_path: Path, state: State) -> None:
    torch.save(dict(state), tmp_path / "w.pt", _use_new_zipfile_serialization=False)
    module = Net()
    load_weights(module, Weights("w.pt"), tmp_path, "here")
    assert torch.equal(module.head.weight, state["head.weight"])


def test_modules_may_rename_what_is_old(tmp_path: Path) -> None:
    """torch's own rules for old state dicts hold: weight_norm's names before 2.1, here."""
    old = {"weight_g": torch.rand(3, 1), "weight_v": torch.rand(3, 4), "bias": torch.rand(3)}
    module = nn.utils.parametrizations.weight_norm(nn.Linear(4, 3))
    load(tmp_path, old, module=module)
    assert torch.equal(module.parametrizations.weight.original1, old["weight_v"])


def test_shards_of_two_checkpoints_are_refused(tmp_path: Path, state: State) -> None:
    """What an index says of a name is not enough: the shard of another name may have it too, with
    other values."""
    suffix = "bin"
    write_shards(tmp_path, state, suffix)
    shards = sorted(path for path in tmp_path.iterdir() if "index" not in path.name)
    parts = [torch.load(path, weights_only=True) for path in shards]
    name = next(iter(parts[0]))
    torch.save({**parts[-1], name: parts[0][name].clone()}, shards[-1])
    load_weights(Net(), Weights(f"model.{suffix}.index.json"), tmp_path, "here")
    torch.save({**parts[-1], name: parts[0][name] + 1}, shards[-1])
    with pytest.raises(UsageError, match=f"has {name} twice"):
        load_weights(Net(), Weights(f"model.{suffix}.index.json"), tmp_path, "here")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["output.weight", "position_ids"])
@pytest.mark.parametrize("made", [lambda value: value.to_sparse(), lambda value: value.to("meta")])
def test_tensors_without_plain_values_do_not_fit(
    tmp_path: Path, state: State, name: str, made: Callable[[Any], Any]
) -> None:
    value = state.get(name, torch.arange(4))
    error = refused(tmp_path, {**state, name: made(value)})
    assert f"{name}: " in (error.cause or "")


def test_a_count_that_neither_file_nor_callable_has_is_zero(tmp_path: Path, state: State) -> None:
    with torch.device("meta"):
        module = nn.BatchNorm1d(4)
    norm = {
        name.removeprefix("norm."): value
        for name, value in state.items()
        if name.startswith("norm.")
    }
    del norm["num_batches_tracked"]
    load(tmp_path, norm, module=module)
    assert int(module.num_batches_tracked) == 0
