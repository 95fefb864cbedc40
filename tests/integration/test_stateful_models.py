"""Models that write into their buffers or inputs, and models whose outputs are large: built,
verified from Python and C++, run, and loaded. What stock torch miscompiles of them is refused."""

from __future__ import annotations

import io
import json
import queue
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import run_inv
from projects import write_single
from test_faults import tamper

from aoti_build._torch.checking.reference_data import Case, ReferenceData
from aoti_build._torch.checking.reference_writer import save_reference_data
from aoti_build._torch.events import Events
from aoti_build._torch.jobs import check
from aoti_build._torch.jobs.localize_compile import compiled_prefix
from aoti_build._torch.packages.loaded import in_compiled_layout
from aoti_build._torch.program.inputs import Call
from aoti_build._torch.program.writes import functional_form, writes_of
from aoti_build.messages import CheckJob
from aoti_build.models_file.project import Model, Source, Target
from aoti_build.models_file.records import target_to_json

NETS = """
    import torch
    from torch import nn


    class Delay(nn.Module):
        \"\"\"The copy of `last` must be of what it was before the call.\"\"\"

        def __init__(self):
            super().__init__()
            self.register_buffer("last", torch.zeros(4, 8))
            self.register_buffer("older", torch.zeros(4, 8))

        def forward(self, x):
            y = x - 2 * self.last + self.older
            self.older.copy_(self.last)
            self.last.copy_(x)
            return y


    class Written(nn.Module):
        \"\"\"`dst` must get what `src` was before the call; the output shows nothing of it.\"\"\"

        def forward(self, src, dst):
            dst[0:, :] = src[0:, :]
            src.add_(1)
            return src.shape[0] * torch.ones(2)


    class Turned(nn.Module):
        \"\"\"Its buffer is not contiguous.\"\"\"

        def __init__(self):
            super().__init__()
            self.register_buffer("ring", torch.arange(30.0).reshape(6, 5).t())

        def forward(self, x):
            self.ring[1:].copy_(self.ring[:-1].clone())
            self.ring[0].copy_(x)
            return self.ring.sum(0) + self.ring[-1]


    class Wide(nn.Module):
        \"\"\"Large outputs, and a dim from 1 beside one from 2.\"\"\"

        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(50, 8)
            self.head = nn.Linear(8, 9000)
            self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

        def forward(self, tokens):
            self.calls += 1
            hidden = self.embed(tokens)
            mixed = torch.softmax(hidden @ hidden.transpose(1, 2), -1) @ hidden
            return {"scores": self.head(mixed) + self.calls}


    def stock():
        \"\"\"Compiles without the pass that keeps old values, as torch does by itself.\"\"\"
        from aoti_build._torch.compiling import old_values

        old_values.keep_old_values = lambda graph: None
        return Delay()


    def drawn():
        return (torch.randn(4, 8),)
"""
MODELS = """
    delay:
      source: net.py:Delay
      inputs: [{shape: [4, 8]}]
    written:
      source: net.py:Written
      dims: {rows: {min: 2, max: 9, example: 4}}
      inputs: {src: {shape: [rows, 8]}, dst: {shape: [rows, 8]}}
"""
MORE_MODELS = """
    turned: {source: "net.py:Turned", inputs: [{shape: [6]}]}
    wide:
      source: net.py:Wide
      dims: {batch: {min: 1, max: 3, example: 2}, seq: {min: 2, max: 16, example: 7}}
      inputs: {tokens: {shape: [batch, seq], dtype: int64, high: 50}}
      reference_data: {limit: 12m}
"""


def built_with(root: Path, models: str) -> Path:
    """A project whose artifacts of `models` are built."""
    write_single(root, NETS, models)
    finished = run_inv(root, "build", "--json")
    assert finished.code == 0, finished.err
    return root


@pytest.fixture(scope="module")
def states(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built_with(tmp_path_factory.mktemp("states") / "project", MODELS)


@pytest.fixture(scope="module")
def more_states(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models of the slow tests."""
    return built_with(tmp_path_factory.mktemp("more-states") / "project", MORE_MODELS)


@pytest.mark.parametrize("runtime", ["python", pytest.param("cpp", marks=pytest.mark.slow)])
def test_state_and_written_inputs_are_compared_after_every_call(
    states: Path, cpp_cache: dict[str, str], runtime: str
) -> None:
    finished = run_inv(
        states, "verify", "--jobs", "2", "--strict", "--json", "--runtime", runtime, env=cpp_cache
    )
    assert finished.code == 0, finished.out + finished.err
    delay = finished.target("delay/cpu")["cases"]
    assert [case.get("call", 1) for case in delay] == [1, 2, 3]
    assert {output["name"] for output in delay[0]["outputs"]} == {
        "output",
        "buffer last",
        "buffer older",
    }
    written = finished.target("written/cpu")["cases"]
    assert {output["name"] for output in written[0]["outputs"]} == {
        "output",
        "input src",
        "input dst",
    }
    assert {case["sizes"]["rows"] for case in written} == {2, 3, 4, 8, 9}


@pytest.mark.parametrize("stride", [None, [1, 4], [10, 2]], ids=["plain", "turned", "with gaps"])
def test_the_first_state_gets_the_strides_of_the_code(stride: list[int] | None) -> None:
    value = torch.arange(20.0).reshape(4, 5)
    entry = {"name": "held"} if stride is None else {"name": "held", "stride": stride}
    (held,) = in_compiled_layout({"held": value}, {"weights": [entry]}).values()
    assert held.stride() == tuple(stride or (5, 1))
    assert torch.equal(held, value)


def test_the_manifest_says_what_a_call_writes_into(states: Path) -> None:
    def mutates(model: str) -> Any:
        return json.loads((states / f"artifacts/{model}/cpu/manifest.json").read_text())[
            "signature"
        ]["mutates"]

    assert mutates("delay") == {"inputs": [], "buffers": ["last", "older"]}
    assert mutates("written") == {"inputs": ["src", "dst"], "buffers": []}
    shown = run_inv(states, "inspect", "--all", "--target", "delay,written").out
    assert "last, older" in shown
    assert "src, dst" in shown


@pytest.mark.slow
def test_large_outputs_are_all_compared_in_little_room(more_states: Path) -> None:
    """Eight sequences of three calls, up to 3 x 16 x 9,000 values each, in 12 MB."""
    reference_data = more_states / "artifacts/wide/cpu/reference.safetensors"
    assert reference_data.stat().st_size < 12.5 * (1 << 20)
    cases = run_inv(more_states, "verify", "--json", "--target", "wide").target("wide/cpu")["cases"]
    assert len(cases) == 24
    assert not [case for case in cases if "skipped" in case]
    sampled = [
        output["sampled"] for case in cases for output in case["outputs"] if "sampled" in output
    ]
    assert sampled


@pytest.mark.slow
def test_one_wrong_weight_is_found_through_the_sketches(more_states: Path, tmp_path: Path) -> None:
    copied = copy_of(more_states, tmp_path)

    def off(values: Any) -> None:
        values[100] += 1e-2

    tamper(copied / "artifacts/wide/cpu", off)
    finished = run_inv(copied, "verify", "--json", "--target", "wide")
    assert (finished.code, finished.target("wide/cpu")["verdict"]) == (3, "mismatch")


@pytest.mark.slow
def test_each_dim_keeps_the_lower_bound_that_it_declares(more_states: Path) -> None:
    """The package checks both; inductor's own setting has all lower bounds, or none."""
    refusals = run_inv(more_states, "verify", "--json", "--target", "wide").target("wide/cpu")[
        "refusals"
    ]
    lower = {
        refusal["name"]: refusal["ok"] for refusal in refusals if "below min" in refusal["name"]
    }
    assert lower == {"batch 0: below min 1": True, "seq 1: below min 2": True}


def test_a_run_compares_several_calls(states: Path) -> None:
    finished = run_inv(
        states,
        "run",
        "--json",
        "--target",
        "delay,written",
        "--input",
        "reference_data,random",
    )
    assert finished.code == 0, finished.out + finished.err
    for row in finished.json["targets"]:
        for one in row["runs"]:
            names = {verdict["name"] for verdict in one["verdicts"]}
            if row["target"] == "delay/cpu":
                assert {"buffer older", "output (call 2)", "buffer older (call 3)"} <= names
            else:
                assert names == {"output", "input src", "input dst"}


@pytest.mark.slow
def test_a_buffer_that_is_not_contiguous_is_compared(more_states: Path) -> None:
    words = ("--target", "turned", "--input", "reference_data,random")
    finished = run_inv(more_states, "run", "--json", *words)
    assert finished.code == 0, finished.out + finished.err
    for one in finished.target("turned/cpu")["runs"]:
        names = {verdict["name"] for verdict in one["verdicts"]}
        assert {"buffer ring", "buffer ring (call 3)"} <= names


def test_what_stock_torch_makes_of_state_is_refused(states: Path, tmp_path: Path) -> None:
    """Its first call looks right."""
    copied = copy_of(states, tmp_path)
    models = (copied / "models.yaml").read_text()
    (copied / "models.yaml").write_text(
        models + "  stock: {source: 'net.py:stock', inputs: 'net.py:drawn'}\n"
    )
    finished = run_inv(copied, "build", "--json", "--target", "stock", "--force")
    assert finished.code == 1
    error = finished.target("stock/cpu")["error"]
    assert "example inputs: buffer older" in error["cause"]
    assert "example call 2 inputs: output" in error["cause"]
    assert not (copied / "artifacts/stock").exists()


@pytest.mark.slow
def test_a_comparison_that_left_cases_out_is_not_called_passed(
    states: Path, tmp_path: Path
) -> None:
    copied = copy_of(states, tmp_path)
    models = (
        (copied / "models.yaml")
        .read_text()
        .replace("inputs: [{shape: [4, 8]}]", "inputs: net.py:drawn")
    )
    (copied / "models.yaml").write_text(
        models.replace("  delay:\n", "  delay:\n    reference_data: {limit: 2k}\n")
    )
    assert run_inv(copied, "build", "--target", "delay").code == 0
    finished = run_inv(copied, "verify", "--target", "delay")
    assert finished.code == 0, finished.out + finished.err
    assert "incomplete" in finished.out
    assert "1 of 3" in finished.out
    assert run_inv(copied, "verify", "--strict", "--target", "delay").code == 3
    assert run_inv(copied, "verify", "--strict", "--fresh", "--target", "delay").code == 0


def copy_of(root: Path, tmp_path: Path) -> Path:
    import shutil

    return Path(shutil.copytree(root, tmp_path / "project"))


def delayed(calls: list[Any]) -> list[Any]:
    """What Delay answers, from its first state."""
    last = older = torch.zeros(4, 8)
    answers = []
    for x in calls:
        answers.append(x - 2 * last + older)
        last, older = x, last
    return answers


def test_a_loaded_model_keeps_its_state_and_can_be_reset(states: Path) -> None:
    import aoti_build

    torch.manual_seed(0)
    calls = [torch.randn(4, 8) for _ in range(4)]
    with aoti_build.load("delay", artifacts=states / "artifacts") as model:
        assert model.state == ("last", "older")
        for _ in range(2):
            for answer, expected in zip([model(x) for x in calls], delayed(calls), strict=True):
                assert torch.allclose(answer, expected, atol=1e-5)
            model.reset_state()
        assert model.metadata["signature"]["mutates"]["buffers"] == ["last", "older"]
    with aoti_build.load("written", artifacts=states / "artifacts") as model:
        assert model.state == ()


def test_a_model_with_state_is_not_loaded_with_several_runners(states: Path) -> None:
    import aoti_build
    from aoti_build.errors import UsageError

    with pytest.raises(UsageError, match="state"):
        aoti_build.load("delay", artifacts=states / "artifacts", num_runners=2)


@pytest.mark.slow
def test_a_reset_keeps_new_weights(more_states: Path) -> None:
    import aoti_build

    tokens = torch.arange(14).reshape(2, 7)
    with aoti_build.load("wide", artifacts=more_states / "artifacts") as model:
        first = model(tokens=tokens)["scores"]
        bias = torch.zeros(9000)
        model.update_weights({"head.bias": bias}, partial=True)
        model(tokens=tokens)
        model.reset_state()
        again = model(tokens=tokens)["scores"]
        assert not torch.allclose(first, again)
        model.reset_state()
        assert torch.equal(model(tokens=tokens)["scores"], again)


class Summed(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(8, 8)
        self.register_buffer("total", torch.zeros(4, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.total.add_(x)
        return self.layer(self.total) * 2  # type: ignore[no-any-return]


@pytest.mark.slow
def test_a_bisection_compiles_each_prefix_with_the_first_state() -> None:
    call = Call(args=(torch.randn(4, 8),))
    with torch.no_grad():
        program = torch.export.export(Summed(), call.args, strict=False)
    (layer,) = (node.name for node in program.graph.nodes if "linear" in node.name)
    assert compiled_prefix(program, layer, call, {})["ok"]


SILENT = {"inputs": [], "outputs": [], "mutates": {"inputs": [], "buffers": ["held"]}}


@pytest.mark.parametrize(
    ("state", "shown", "passed"), [(True, True, True), (True, False, False), (False, False, False)]
)
def test_a_buffer_that_cannot_be_compared_is_not_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: bool, shown: bool, passed: bool
) -> None:
    """`state`: the reference data has what the buffer holds at first; `shown`: the package lets it
    be read."""
    held = torch.randn(10)
    reference_data = tmp_path / "reference.safetensors"
    save_reference_data(
        reference_data,
        ReferenceData([Case("example", [], [held])], state={"held": held} if state else {}),
    )
    model = Model(name="silent", source=Source("Silent", path="net.py"), inputs=())
    target = json.loads(json.dumps(target_to_json(Target(model, "cpu"))))
    job = CheckJob(
        root=str(tmp_path),
        reference_data=str(reference_data),
        model="",
        target_document=target,
        tolerance={},
        signature=SILENT,
        imports=(),
        runner=None,
    )

    class Package:
        def calls(self, sequence: list[Any]) -> list[list[Any]]:
            return [[held if shown else None] for _ in sequence]

    monkeypatch.setattr(check, "open_package", lambda job, state: Package())
    found = check.check(job, Events(io.StringIO(), queue.Queue()))
    assert found.passed is passed
    assert [case.skipped is not None for case in found.cases] == [not passed]


class Tied(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("one", torch.zeros(4))
        self.register_buffer("other", self.one)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.one.add_(x)
        return x + self.other


class Branching(Tied):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        def count(x: torch.Tensor) -> torch.Tensor:
            self.one.add_(x)
            return x + self.one

        return torch.cond(x.sum() > 0, count, torch.neg, (x,))  # type: ignore[no-any-return]


@pytest.mark.parametrize("model", [Tied, Branching])
def test_writes_that_torch_cannot_make_functional_are_state(model: type[torch.nn.Module]) -> None:
    with torch.no_grad():
        program = torch.export.export(model().eval(), (torch.ones(4),), strict=False)
    functional = functional_form(program)
    assert functional is program
    assert {"one", "other"} & {*writes_of(functional, ["x"]).buffers}
