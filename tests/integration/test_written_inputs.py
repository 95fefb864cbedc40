"""Models that write into their inputs, loaded with `aoti_build.load`: the caller's tensor gets what
was written, whatever its strides, or the call is refused."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import run_inv
from projects import write_single
from torch import Tensor, nn

import aoti_build
from aoti_build.errors import AotiBuildError, InputError
from aoti_build.runtime.model import LoadedModel
from aoti_build.runtime.written import WrittenInputs

SOURCE = """
    from torch import nn


    class Cache(nn.Module):
        def forward(self, x, memory, total):
            memory.copy_(memory * 0.5 + x)
            total.add_(x.sum(1))
            return memory + x
"""
MODEL = """
    cache:
      source: net.py:Cache
      inputs: [{shape: [4, 8]}, {shape: [4, 8]}, {shape: [4]}]
"""
WRITTEN = ["memory", "total"]


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("written") / "project"
    write_single(root, SOURCE, MODEL)
    finished = run_inv(root, "build", "--json")
    assert finished.code == 0, finished.err
    manifest = json.loads((root / "artifacts/cache/cpu/manifest.json").read_text())
    assert manifest["signature"]["mutates"] == {"inputs": WRITTEN, "buffers": []}
    return root / "artifacts"


@pytest.fixture
def model(artifacts: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoadedModel]:
    monkeypatch.setenv("AOTI_BUILD_RUNTIME_CACHE", "off")
    with aoti_build.load("cache", artifacts=artifacts) as loaded:
        yield loaded


def _inference() -> Tensor:
    with torch.inference_mode():
        return torch.ones(8, 4).t()


LAYOUTS: dict[str, Callable[[], Tensor]] = {
    "contiguous": lambda: torch.ones(4, 8),
    "turned": lambda: torch.ones(8, 4).t(),
    "every other column": lambda: torch.ones(4, 16)[:, ::2],
    "columns of a wider one": lambda: torch.ones(4, 30)[:, 5:13],
    "a slice of a cache": lambda: torch.ones(4, 2, 8)[:, 1],
    "a parameter": lambda: nn.Parameter(torch.ones(8, 4).t()),
    "a view that needs a gradient": lambda: torch.ones(8, 4, requires_grad=True).t(),
    "made in inference mode": _inference,
}


@pytest.mark.parametrize("make", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_what_is_written_reaches_the_callers_tensor(
    model: LoadedModel,
    make: Callable[[], Tensor],
) -> None:
    memory, total, x = make(), torch.zeros(4, 3)[:, 1], torch.randn(4, 8)
    strides, place = memory.stride(), memory.data_ptr()
    expected = memory.detach().clone()
    for _ in range(3):
        expected = expected * 0.5 + x
        torch.testing.assert_close(model(x, memory, total), expected + x)
        torch.testing.assert_close(memory.detach(), expected)
    torch.testing.assert_close(total, 3 * x.sum(1))
    assert (memory.stride(), memory.data_ptr()) == (strides, place)


def test_what_lies_between_strides_is_left_alone(model: LoadedModel) -> None:
    wide = torch.zeros(4, 16)
    model(torch.ones(4, 8), wide[:, ::2], torch.zeros(4))
    assert torch.equal(wide, torch.tensor([1.0, 0.0] * 8).expand(4, 16))


def _shared() -> tuple[Tensor, Tensor, Tensor]:
    x = torch.ones(4, 8)
    return x, x, torch.ones(4)


REFUSED: dict[str, tuple[str, Callable[[], tuple[Tensor, Tensor, Tensor]]]] = {
    "expanded": (
        "memory", lambda: (torch.ones(4, 8), torch.ones(1, 8).expand(4, 8), torch.ones(4)),
    ),
    "windows": (
        "memory", lambda: (torch.ones(4, 8), torch.ones(11).unfold(0, 8, 1), torch.ones(4)),
    ),
    "one tensor twice": ("memory", _shared),
    "views that overlap in part": (
        "memory", lambda: ((base := torch.ones(4, 16))[:, 2:10], base[:, 0:8], torch.ones(4)),
    ),
    "two views of one": (
        "memory", lambda: (torch.ones(4, 8), (m := torch.ones(4, 8)), m.view(-1)[8:12]),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("name", "make"), REFUSED.values(), ids=REFUSED.keys())
def test_a_write_without_a_defined_result_is_refused(
    model: LoadedModel, name: str, make: Callable[[], tuple[Tensor, Tensor, Tensor]]
) -> None:
    inputs = make()
    before = [value.clone() for value in inputs]
    with pytest.raises(InputError, match=f"input {name}: ") as caught:
        model(*inputs)
    assert "clone" in str(caught.value.hint)
    assert all(map(torch.equal, inputs, before)), "nothing was run"


def test_a_negated_view_is_read_as_what_it_means(model: LoadedModel) -> None:
    """torch marks such a view, as it does a conjugated one, and leaves its memory as it is."""
    x = torch._neg_view(torch.ones(4, 8))
    memory, total = torch.zeros(4, 8), torch.zeros(4)
    assert x.is_neg()
    assert torch.equal(model(x, memory, total), torch.full((4, 8), -2.0))
    with pytest.raises(InputError, match="input memory: "):
        model(torch.ones(4, 8), x, total)


def test_neighbours_in_one_storage_are_no_sharing() -> None:
    both = torch.zeros(2, 4, 8)
    apart, interleaved = [both[0], both[1]], [both.view(8, 8)[:, :4], both.view(8, 8)[:, 4:]]
    for inputs in (apart, interleaved, [torch.zeros(0), torch.zeros(0)]):
        WrittenInputs("m/cpu", [0, 1], ["a", "b"]).made_contiguous(list(inputs))


def test_elements_that_overlap_in_part_are_shared() -> None:
    """Their addresses differ by half an element, so that no two of them are equal."""
    memory = bytearray(200)
    inputs = [
        torch.frombuffer(memory, dtype=torch.float32, count=16, offset=offset)[::2]
        for offset in (0, 2)
    ]
    with pytest.raises(InputError, match="shares memory with another input"):
        WrittenInputs("m/cpu", [0], ["a", "b"]).made_contiguous(inputs)


def test_without_checks_of_inputs_it_is_written_back_too(artifacts: Path) -> None:
    memory, x = torch.randn(8, 4).t(), torch.randn(4, 8)
    expected = memory * 0.5 + x
    with aoti_build.load("cache", artifacts=artifacts, check_inputs=False) as model:
        model(x, memory, torch.zeros(4))
    torch.testing.assert_close(memory, expected)


@pytest.mark.parametrize(
    "duplicate",
    [copy.copy, copy.deepcopy, pickle.dumps, lambda model: copy.deepcopy({"model": [model]})],
    ids=["copy", "deepcopy", "pickle", "deepcopy of what holds it"],
)
def test_a_loaded_model_is_not_copied(model: LoadedModel, duplicate: Callable[[Any], Any]) -> None:
    with pytest.raises(TypeError, match="cannot be copied or pickled") as caught:
        duplicate(model)
    assert isinstance(caught.value, AotiBuildError)
    assert "aoti_build.load('cache/cpu'" in str(caught.value)
    assert model(torch.ones(4, 8), torch.ones(4, 8), torch.ones(4)).shape == (4, 8)


def test_loading_again_maps_nothing_more(artifacts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's loader does not let go of a library, so each path that it gets is another mapping."""
    monkeypatch.setenv("AOTI_BUILD_RUNTIME_CACHE", "off")

    def mapped(verify: Any) -> int:
        with aoti_build.load("cache", artifacts=artifacts, verify=verify) as model:
            model(torch.ones(4, 8), torch.ones(4, 8), torch.ones(4))
        return Path("/proc/self/maps").read_text().count(".wrapper.so")

    for verify in ("full", "stat", "off"):
        first = mapped(verify)
        assert {mapped(verify) for _ in range(3)} == {first}
