"""Models whose weights and inputs have their channels last in memory (`memory_format`)."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from conftest import Finished, run_inv
from projects import write_single
from torch import Tensor, nn

import aoti_build
from aoti_build._torch.jobs.prepared import prepare
from aoti_build._torch.jobs.probe import probes
from aoti_build._torch.program.inputs import from_callable
from aoti_build._torch.program.memory_formats import convert_weights, format_of
from aoti_build.common.memory_formats import strides_of
from aoti_build.models_file import load_project
from aoti_build.runtime.layouts import in_memory_format
from aoti_build.runtime.written import WrittenInputs

SOURCE = """
    import torch
    from torch import nn


    class Grey(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Conv2d(1, 8, 3, padding=1)
            self.norm = nn.BatchNorm2d(8)
            self.deep = nn.Conv2d(8, 8, 3, padding=1, groups=8)
            self.wide = nn.Conv2d(8, 4, 3, padding=1)
            self.head = nn.Linear(4, 5)

        def forward(self, x):
            x = torch.relu(self.norm(self.first(x)))
            x = self.wide(torch.relu(self.deep(x)))
            return x, self.head(x.mean((2, 3)))


    class Volume(nn.Module):
        def __init__(self):
            super().__init__()
            # torch computes small kernels in another way at a batch of 1.
            self.conv = nn.Conv3d(2, 4, 5, padding=2)
            self.norm = nn.BatchNorm3d(4)

        def forward(self, x):
            return torch.relu(self.norm(self.conv(x)))


    class Memory(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x, memory):
            memory.mul_(0.5).add_(self.conv(x))
            return memory.sum((1, 2, 3))


    def with_turned_memory(batch):
        return torch.rand(batch, 3, 5, 4), torch.rand(batch, 5, 4, 3).permute(0, 3, 1, 2)
"""
MODELS = """
    grey:
      source: net.py:Grey
      memory_format: channels_last
      dims: {batch: {max: 8}, height: {max: 16, example: 6}, width: {max: 16, example: 5}}
      inputs: {x: {shape: [batch, 1, height, width]}}
    plain:
      source: net.py:Grey
      dims: {batch: {max: 4}}
      inputs: {x: {shape: [batch, 1, 6, 5]}}
    volume:
      source: net.py:Volume
      memory_format: channels_last_3d
      dims: {batch: {max: 3}}
      inputs: [{shape: [batch, 2, 3, 4, 5]}]
    memory:
      source: net.py:Memory
      dims: {batch: {max: 4}}
      inputs: net.py:with_turned_memory
"""


def new(x: Tensor) -> Tensor:
    """A copy with the strides of a new tensor. `contiguous` may keep others for axes of size 1."""
    return x.clone(memory_format=torch.contiguous_format)


# Orders in memory of the same values.
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x,
    "channels last": lambda x: new(x.movedim(1, -1)).movedim(-1, 1),
    "in a wider one": lambda x: torch.stack((x, x), -1)[..., 0],
    "turned": lambda x: new(x.transpose(0, -1)).transpose(0, -1),
}
SIZES = [(2, 1, 6, 5), (1, 1, 6, 5), (1, 1, 1, 1), (3, 1, 1, 7), (3, 1, 7, 1), (8, 1, 16, 16)]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Finished]:
    root = tmp_path_factory.mktemp("formats") / "project"
    write_single(root, SOURCE, MODELS)
    finished = run_inv(root, "build", "--json")
    assert finished.code == 0, finished.out + finished.err
    return root, finished


@pytest.fixture(scope="module")
def net(built: tuple[Path, Finished]) -> ModuleType:
    return imported(built[0])


def imported(root: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("net_of_formats", root / "net.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def load(
    built: tuple[Path, Finished], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], Any]]:
    monkeypatch.setenv("AOTI_BUILD_RUNTIME_CACHE", "off")
    models = []

    def load(name: str) -> Any:
        models.append(aoti_build.load(name, artifacts=built[0] / "artifacts"))
        return models[-1]

    yield load
    for model in models:
        model.close()


def eager(kind: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return kind().eval().requires_grad_(False)


@pytest.mark.slow
def test_inputs_in_any_order_of_memory_are_answered_rightly(
    load: Callable[[str], Any], net: ModuleType
) -> None:
    model, expected = load("grey"), eager(net.Grey)
    for shape in SIZES:
        x = torch.rand(shape)
        for name, lay_out in LAYOUTS.items():
            results = model(x=lay_out(x))
            for result, value in zip(results, expected(x), strict=True):
                torch.testing.assert_close(result, value, msg=f"{shape} {name}")
    volume, expected = load("volume"), eager(net.Volume)
    for batch in (1, 2, 3):
        x = torch.rand(batch, 2, 3, 4, 5)
        for lay_out in LAYOUTS.values():
            torch.testing.assert_close(volume(lay_out(x)), expected(x))


@pytest.mark.slow
def test_one_channel_is_contiguous_whatever_strides_it_has(
    load: Callable[[str], Any], net: ModuleType, built: tuple[Path, Finished]
) -> None:
    """A convolution in a package without memory format takes these strides for another format."""
    model, expected = load("plain"), eager(net.Grey)
    x = torch.rand(2, 1, 6, 5)
    turned = LAYOUTS["channels last"](x)
    assert turned.stride() != x.stride()
    assert turned.is_contiguous()
    for given in (x, turned, LAYOUTS["turned"](x)):
        for result, value in zip(model(x=given), expected(x), strict=True):
            torch.testing.assert_close(result, value)
    root, _ = built
    torch.save(turned, root / "turned.pt")
    ran = run_inv(root, "run", "--target", "plain", "--input", "turned.pt", "--json")
    assert ran.code == 0, ran.out + ran.err


@pytest.mark.slow
def test_results_have_the_strides_of_eager_mode(
    load: Callable[[str], Any], net: ModuleType
) -> None:
    model, expected = load("grey"), eager(net.Grey).to(memory_format=torch.channels_last)
    x = torch.rand(2, 1, 6, 5)
    image, _ = expected(x.to(memory_format=torch.channels_last))
    assert model(x=x)[0].stride() == image.stride() == strides_of(image.shape, "channels_last")


@pytest.mark.slow
def test_new_weights_are_taken_in_the_order_of_the_package(
    load: Callable[[str], Any], net: ModuleType
) -> None:
    listed = {
        entry["name"]: entry.get("stride")
        for entry in load("grey").metadata["signature"]["weights"]
    }
    assert listed["wide.weight"] == [72, 1, 24, 8]
    inputs = {"grey": torch.rand(2, 1, 6, 5), "volume": torch.rand(2, 2, 3, 4, 5)}
    for name, kind in (("grey", net.Grey), ("volume", net.Volume)):
        model, x = load(name), inputs[name]
        for seed in (5, 6):
            other = eager(kind, seed)
            model.update_weights(other.state_dict())
            torch.testing.assert_close(model(x=x), other(x))


@pytest.mark.slow
def test_what_is_written_reaches_tensors_of_any_order(
    load: Callable[[str], Any], net: ModuleType
) -> None:
    model, expected = load("memory"), eager(net.Memory)
    for batch in (1, 2, 4):
        for lay_out in LAYOUTS.values():
            x, values = torch.rand(2, batch, 3, 5, 4)
            memory, wanted = lay_out(values), values.clone()
            before = memory.stride(), memory.data_ptr()
            torch.testing.assert_close(model(x, memory), expected(x, wanted))
            torch.testing.assert_close(memory, wanted)
            assert (memory.stride(), memory.data_ptr()) == before


@pytest.mark.slow
def test_manifest_verify_run_and_inspect_know_the_format(built: tuple[Path, Finished]) -> None:
    root, _ = built
    formats = {}
    for name in ("grey", "volume", "memory"):
        manifest = json.loads((root / "artifacts" / name / "cpu/manifest.json").read_text())
        inputs = manifest["signature"]["inputs"]
        formats[name] = [entry.get("memory_format") for entry in inputs]
    # A tensor of the callable keeps the strides that the callable gave it.
    assert formats == {
        "grey": ["channels_last"],
        "volume": ["channels_last_3d"],
        "memory": [None, "channels_last"],
    }
    verified = run_inv(root, "verify", "--jobs", "2", "--json")
    assert verified.code == 0, verified.out + verified.err
    refusals = {row["name"]: row for row in verified.target("memory/cpu")["refusals"]}
    assert refusals["memory: at an offset in its storage"]["said"] == "answered rightly"
    assert "stride" in refusals["memory: contiguous"]["said"]
    numbers = torch.rand(2, 1, 6, 5)
    torch.save(numbers, root / "x.pt")
    for given in ("x.pt", "random", "reference_data"):
        ran = run_inv(root, "run", "--target", "grey", "--input", given, "--json")
        assert ran.code == 0, ran.out + ran.err
    shown = run_inv(root, "inspect", "--target", "grey")
    assert "x  float32 [batch, 1, height, width] channels_last" in shown.out


def test_a_format_that_changes_nothing_is_refused_at_its_line(tmp_path: Path) -> None:
    model = """
        net:
          source: net.py:Volume
          inputs: [{shape: [2, 2, 3, 4, 5]}]
          memory_format: channels_last
    """
    write_single(tmp_path, SOURCE, model)
    finished = run_inv(tmp_path, "build")
    assert finished.code == 2
    assert "memory_format: channels_last changes nothing" in finished.out
    assert "models.yaml:7:20" in finished.out
    assert "no weight and no input has 4 dimensions" in finished.out


@pytest.mark.parametrize(
    ("name", "strides"),
    [(None, [(60, 20, 5, 1), (60, 1, 15, 3)]), ("contiguous", [(60, 20, 5, 1)] * 2),
     ("channels_last", [(60, 1, 15, 3)] * 2)],
)  # fmt: skip
def test_a_callable_keeps_its_strides_unless_the_model_has_a_format(
    tmp_path: Path, name: str | None, strides: list[tuple[int, ...]]
) -> None:
    source = """
        import torch

        Net = torch.nn.Identity


        def inputs():
            return torch.rand(2, 3, 4, 5), torch.rand(2, 4, 5, 3).permute(0, 3, 1, 2)
    """
    key = "" if name is None else f"\n          memory_format: {name}"
    model = f"""
        net:
          source: net_{name}.py:Net
          inputs: net_{name}.py:inputs{key}
    """
    write_single(tmp_path, source, model, file=f"net_{name}.py")
    (target,) = load_project(tmp_path / "models.yaml").targets
    places = dict.fromkeys(
        ["imports", "source", "kwargs", "weights", "dtype", "inputs", "memory_format"], "there"
    )
    prepared = prepare(target.model, "cpu", tmp_path, places)
    assert [value.stride() for value in prepared.example.tensors()] == strides


def test_weights_of_other_ranks_and_tied_weights_stay_as_they_are() -> None:
    module = nn.Module()
    module.image = nn.Parameter(torch.rand(4, 3, 2, 2))
    module.same = module.image
    module.volume = nn.Parameter(torch.rand(4, 3, 2, 2, 2))
    module.matrix = nn.Parameter(torch.rand(3, 4).t())
    values = module.image.detach().clone()
    # torch refuses `to` for such a module.
    assert convert_weights(module, "channels_last") == 1
    assert module.same is module.image
    assert torch.equal(module.image, values)
    assert format_of(module.image) == "channels_last"
    assert module.volume.is_contiguous()
    assert not module.matrix.is_contiguous()
    convert_weights(module, "contiguous")
    assert module.image.is_contiguous()
    assert module.matrix.is_contiguous()


@pytest.mark.parametrize("shape", [*SIZES, (2, 3, 4, 5), (2, 3, 1, 1), (1, 3, 4, 5), (0, 3, 4, 5)])
def test_axes_of_size_1_get_the_strides_of_a_new_tensor(shape: tuple[int, ...]) -> None:
    """Without a copy if the order of the values is right."""
    wanted = torch.empty(shape, memory_format=torch.channels_last)
    x = torch.rand(shape)
    for lay_out in LAYOUTS.values():
        given = lay_out(x)
        found = in_memory_format(given, "channels_last")
        assert torch.equal(found, x)
        if found.numel():
            assert found.stride() == wanted.stride()
        in_order = given.is_contiguous(memory_format=torch.channels_last)
        assert (found.data_ptr() == given.data_ptr()) == (in_order or not found.numel())


def test_an_input_in_its_format_is_passed_without_a_copy() -> None:
    layouts = WrittenInputs("m/cpu", [], ["x", "y"], ["channels_last", None])
    x = torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last)
    y = torch.rand(2, 3)
    inputs = [x, y]
    assert layouts.made_contiguous(inputs) == []
    assert inputs[0] is x
    assert inputs[1] is y
    # One tensor twice is no problem where nothing is written.
    contiguous = x.contiguous()
    inputs = [contiguous, contiguous]
    layouts.made_contiguous(inputs)
    assert inputs[0].stride() == x.stride()
    assert inputs[1] is contiguous


def test_probes_keep_the_format_except_those_of_strides() -> None:
    entry = {"name": "x", "dtype": "float32", "shape": ["batch", 3, 4, 5]}
    signature = {
        "inputs": [{**entry, "memory_format": "channels_last"}],
        "dims": {"batch": {"min": 2, "max": 8, "multiple_of": 1}},
    }
    x = torch.rand(4, 3, 4, 5).to(memory_format=torch.channels_last)
    tried = {probe.name: probe for probe in probes([x], signature, {"batch": 4})}
    for name in ("batch 9: above max 8", "batch 1: below min 2", "x: size 4 on axis 1"):
        # Otherwise it would be refused for its strides, whatever its size is.
        assert format_of(tried[name].inputs[0]) == "channels_last"
    moved = tried["x: at an offset in its storage"].inputs[0]
    assert (moved.storage_offset(), moved.stride()) == (3, x.stride())
    assert torch.equal(moved, x)
    assert tried["x: contiguous"].inputs[0].is_contiguous()
    assert tried["x: contiguous"].may_answer == "rightly"
    turned = tried["x: not contiguous"].inputs[0]
    assert turned.stride() not in (x.stride(), x.contiguous().stride())


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (torch.rand(4, 5, 3).permute(2, 0, 1).unsqueeze(0), "channels_last"),  # an image as read
        (torch.rand(2, 4, 5, 1).permute(0, 3, 1, 2), "channels_last"),
        (torch.rand(2, 3, 4, 5), "contiguous"),
        (torch.rand(3, 4).t(), "contiguous"),
        (torch.rand(1, 4).expand(3, 4), "contiguous"),
        (torch.rand(2, 3, 4, 5)[:, :, ::2], "contiguous"),
    ],
)
def test_tensors_of_a_callable_have_strides_that_the_loader_makes(
    value: torch.Tensor, name: str
) -> None:
    """Compiled code is called with these strides, whatever the example was a view of."""
    given = from_callable(lambda: (value,), "models.yaml:5")({}, 0).tensors()[0]
    assert given.stride() == strides_of(value.shape, name)
    assert torch.equal(given, value)
