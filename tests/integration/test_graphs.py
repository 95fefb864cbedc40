"""The logic of CUDA graphs without a GPU: a recorder of the CPU stands for that of CUDA.

It records a call by keeping the function, and replays by calling it and copying into the first
outputs. tests/gpu/test_cuda_graphs.py has the same on a GPU.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from aoti_build.errors import InputError, UsageError
from aoti_build.runtime.capture import CaptureError, CudaRecorder
from aoti_build.runtime.graph_options import CudaGraphs, graph_options, report_text
from aoti_build.runtime.graphs import GraphedCalls, graphed_calls
from aoti_build.runtime.leaves import Kinds, leaf_of
from aoti_build.runtime.static_inputs import StaticInputs

CPU = torch.device("cpu")
KINDS = Kinds(torch.Tensor, CPU, lambda name: getattr(torch, name))
DIMS = {
    "batch": {"min": 1, "max": 8, "multiple_of": 1},
    "past": {"min": 0, "max": 6, "multiple_of": 2},
}
INPUTS = [
    {"name": "x", "dtype": "float32", "shape": ["batch", 3]},
    {"name": "cache", "dtype": "float32", "shape": ["batch", "past + 1"]},
]
OUTPUTS = [{"name": "sum"}, {"name": "rows", "number": True}]


class Loader:
    """Stands for torch's loader: adds its weight and counts its calls, which is its state."""

    def __init__(self) -> None:
        self.weight = 1.0
        self.calls = 0
        self.running = 0

    def boxed_run(self, inputs: list[Tensor]) -> list[Tensor]:
        assert self.running == 0, "two calls at a time"
        self.running += 1
        x, cache = inputs
        inputs.clear()
        self.calls += 1
        output = x.sum(1) + cache.sum(1) + self.weight + self.calls
        cache.add_(1)
        self.running -= 1
        return [output, torch.tensor(x.shape[0])]


class Recording:
    def __init__(self, call: Callable[[], list[Tensor]], outputs: list[Tensor]) -> None:
        self._call = call
        self.outputs = outputs
        self.released = False

    def replay(self) -> None:
        assert not self.released
        for output, value in zip(self.outputs, self._call(), strict=True):
            output.copy_(value)

    def release(self) -> None:
        self.released = True


class Recorder:
    """Records by running the call once on a copy of the loader, so that nothing goes on."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader
        self.recorded: list[bool] = []
        self.error: Exception | None = None
        self.capturing = False
        self.pools = 1

    def enter_stream(self) -> bool:
        return not self.capturing

    def record(self, call: Callable[[], list[Tensor]], *, prepared: bool) -> Recording:
        if self.error is not None:
            raise self.error
        self.recorded.append(prepared)
        before = vars(self.loader).copy()
        outputs = call()
        vars(self.loader).update(before)
        return Recording(call, outputs)

    def forget(self) -> None:
        self.pools += 1

    def memory(self) -> int:
        return 1000 * len(self.recorded)

    def synchronize(self) -> None:
        pass


@pytest.fixture
def loader() -> Loader:
    return Loader()


@pytest.fixture
def recorder(loader: Loader) -> Recorder:
    return Recorder(loader)


def graphed(loader: Loader, recorder: Recorder, **options: Any) -> GraphedCalls:
    leaves = [leaf_of(entry, DIMS, KINDS, frozenset({"cache"})) for entry in INPUTS]
    inputs = StaticInputs("net/cuda", leaves, DIMS, CPU)
    return GraphedCalls(
        "net/cuda",
        loader,
        inputs,
        recorder,
        CudaGraphs(**options),
        written=[1],
        outputs=OUTPUTS,
    )


def tensors(batch: int, past: int = 2, value: float = 1.0) -> list[Tensor]:
    return [torch.full((batch, 3), value), torch.full((batch, past + 1), 2.0)]


def test_every_call_gives_what_the_loader_gives(loader: Loader, recorder: Recorder) -> None:
    """Outputs, written inputs, state and several calls of several sizes in turns."""
    calls = graphed(loader, recorder)
    plain = Loader()
    for number, batch in enumerate([2, 3, 2, 2, 3, 1, 2]):
        given = tensors(batch, value=number)
        expected_inputs = tensors(batch, value=number)
        outputs = calls.run(given)
        expected = plain.boxed_run(list(expected_inputs))
        torch.testing.assert_close(outputs, expected)
        torch.testing.assert_close(given, expected_inputs)
    assert len(recorder.recorded) == 3
    assert all(recorder.recorded)  # each size ran before it was recorded


def test_outputs_stay_when_the_next_call_is_made(loader: Loader, recorder: Recorder) -> None:
    calls = graphed(loader, recorder)
    calls.run(tensors(2))
    first = calls.run(tensors(2))
    kept = first[0].clone()
    calls.run(tensors(2, value=9))
    torch.testing.assert_close(first[0], kept)


def test_static_outputs_are_those_of_the_graph(loader: Loader, recorder: Recorder) -> None:
    calls = graphed(loader, recorder, static_outputs=True)
    calls.run(tensors(2))
    first = calls.run(tensors(2))[0]
    second = calls.run(tensors(2, value=9))[0]
    assert first is second


def test_buffers_are_passed_without_a_copy(loader: Loader, recorder: Recorder) -> None:
    calls = graphed(loader, recorder)
    buffers = calls.buffers({"batch": 2, "past": 2})
    assert [tuple(value.shape) for value in buffers.values()] == [(2, 3), (2, 3)]
    calls.run(tensors(2))
    buffers["x"].fill_(5)
    buffers["cache"].fill_(2)
    outputs = calls.run([buffers["x"], buffers["cache"]])
    assert outputs[0].tolist() == [5 * 3 + 2 * 3 + 1 + 2] * 2
    assert calls.buffers({"batch": 2, "past": 2})["x"] is buffers["x"]
    assert buffers["cache"].eq(3).all()  # what the model wrote


def test_a_buffer_may_stand_for_another_input(loader: Loader, recorder: Recorder) -> None:
    """Each input is read before any buffer is written."""
    calls = graphed(loader, recorder)
    buffers = calls.buffers({"batch": 2, "past": 2})
    calls.run(tensors(2))
    for swapped in (False, True):
        buffers["x"].copy_(torch.tensor([[1.0, 2, 3], [4, 5, 6]]))
        buffers["cache"].fill_(10)
        given = [torch.full((2, 3), 100.0), buffers["x"]]
        if swapped:
            given = [buffers["cache"], buffers["x"].view(2, 3)]
        expected = given[0].sum(1) + given[1].sum(1) + 1 + loader.calls + 1
        torch.testing.assert_close(calls.run(given)[0], expected)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"batch": 2}, "a size for past is missing"),
        ({"batch": 2, "past": 3}, "past is 3"),
        ({"batch": 9, "past": 2}, "batch is 9"),
        ({"batch": True, "past": 2}, "batch is True"),
        ({"batch": 2, "past": 2, "bach": 1}, "no dim bach"),
        (None, "a size for batch is missing"),
    ],
)
def test_sizes_that_do_not_fit(
    loader: Loader, recorder: Recorder, sizes: dict[str, Any] | None, message: str
) -> None:
    calls = graphed(loader, recorder)
    for use in (calls.buffers, calls.warm_up):
        with pytest.raises(InputError, match=message):
            use(sizes)
    assert loader.calls == 0


def test_only_listed_sizes_are_recorded(loader: Loader, recorder: Recorder) -> None:
    calls = graphed(loader, recorder, sizes=[{"batch": 2, "past": 2}])
    for batch in (1, 2, 3, 2):
        calls.run(tensors(batch))
    assert calls.report()["graphs"] == [{"x": [2, 3], "cache": [2, 3]}]


def test_sizes_that_do_not_fit_are_refused_before_a_call(
    loader: Loader, recorder: Recorder
) -> None:
    with pytest.raises(InputError, match="batch is 20"):
        graphed(loader, recorder, sizes=[{"batch": 20, "past": 2}])


def test_the_number_of_graphs_is_limited(loader: Loader, recorder: Recorder) -> None:
    calls = graphed(loader, recorder, limit=2)
    for batch in (1, 2, 3, 4, 1, 3):
        assert calls.run(tensors(batch))[0].shape == (batch,)
    report = calls.report()
    assert len(report["graphs"]) == report["limit"] == 2


def test_memory_is_limited_and_reported(loader: Loader, recorder: Recorder) -> None:
    calls = graphed(loader, recorder, memory_limit=1500)
    for batch in (1, 2, 3, 4):
        calls.run(tensors(batch))
    report = calls.report()
    assert len(report["graphs"]) == 2  # 1000 bytes were not enough to stop
    assert report["memory"] > report["memory_limit"] == 1500


def test_a_package_that_cannot_be_recorded_runs_as_usual(
    loader: Loader, recorder: Recorder
) -> None:
    recorder.error = CaptureError("operation not permitted when stream is capturing")
    calls = graphed(loader, recorder)
    plain = Loader()
    with pytest.warns(RuntimeWarning, match="net/cuda runs without CUDA graphs: .*not permitted"):
        first = calls.run(tensors(2))
    torch.testing.assert_close(first, plain.boxed_run(tensors(2)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # once is enough
        again = calls.run(tensors(3))
    torch.testing.assert_close(again, plain.boxed_run(tensors(3)))
    report = calls.report()
    assert report["graphs"] == []
    assert "not permitted" in report_text(report)


def test_sizes_without_memory_run_as_usual(loader: Loader, recorder: Recorder) -> None:
    calls = graphed(loader, recorder)
    recorder.error = torch.OutOfMemoryError("CUDA out of memory")
    calls.run(tensors(8))
    recorder.error = None
    calls.run(tensors(2))
    calls.run(tensors(8))
    assert calls.report()["graphs"] == [{"x": [2, 3], "cache": [2, 3]}]


def test_new_weights_and_a_new_state_are_seen(loader: Loader, recorder: Recorder) -> None:
    calls = graphed(loader, recorder)
    calls.run(tensors(2))
    calls.run(tensors(2))
    fresh = Loader()
    fresh.weight = 100.0
    recorder.loader = fresh
    calls.forget(fresh)
    assert recorder.pools == 2
    for number in (1, 2):
        assert calls.run(tensors(2))[0].tolist() == [3 + 6 + 100 + number] * 2


def test_a_warm_up_does_not_change_the_state(loader: Loader, recorder: Recorder) -> None:
    calls = graphed(loader, recorder)
    calls.warm_up({"batch": 2, "past": 2}, Loader().boxed_run)
    assert (loader.calls, recorder.recorded) == (0, [False])
    assert calls.run(tensors(2))[0].tolist() == [3 + 6 + 1 + 1] * 2


def test_a_warm_up_without_a_graph_makes_one_call(loader: Loader, recorder: Recorder) -> None:
    calls = graphed(loader, recorder, sizes=[{"batch": 3, "past": 2}])
    calls.warm_up({"batch": 2, "past": 2})
    assert (loader.calls, recorder.recorded) == (1, [])


def test_a_call_during_a_capture_of_the_caller(loader: Loader, recorder: Recorder) -> None:
    calls = graphed(loader, recorder)
    calls.run(tensors(2))
    recorder.capturing = True
    calls.run(tensors(2))
    calls.run(tensors(3))
    assert len(calls.report()["graphs"]) == 1


def test_threads_take_turns(loader: Loader, recorder: Recorder) -> None:
    calls = graphed(loader, recorder)
    wrong = []

    def work(batch: int) -> None:
        for number in range(50):
            output = calls.run(tensors(batch, value=number))[0]
            if output.shape != (batch,) or len({*output.tolist()}) != 1:
                wrong.append(output)

    threads = [threading.Thread(target=work, args=(batch,)) for batch in (1, 2, 3, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert loader.calls == 200


def test_an_output_on_another_device_is_not_replayed(loader: Loader, recorder: Recorder) -> None:
    leaves = [leaf_of(entry, DIMS, KINDS, frozenset()) for entry in INPUTS]
    inputs = StaticInputs("net/cuda", leaves, DIMS, CPU)
    outputs = [{"name": "sum"}, {"name": "rows"}]
    calls = GraphedCalls("net/cuda", loader, inputs, recorder, CudaGraphs(), outputs=outputs)
    inputs.device = torch.device("meta")  # `rows` is on the CPU, and no number by its signature
    with pytest.warns(RuntimeWarning, match="its output rows is not on the GPU"):
        calls.run(tensors(2))


def test_an_interrupt_ends_a_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or torch would take the whole process for one that captures."""
    done: list[str] = []

    class Graph:
        def capture_begin(self, **_: Any) -> None:
            done.append("begin")

        def capture_end(self) -> None:
            done.append("end")

    def interrupted() -> list[Tensor]:
        raise KeyboardInterrupt

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    recorder = CudaRecorder.__new__(CudaRecorder)
    recorder._device, recorder._pool = CPU, (0, 0)
    with pytest.raises(KeyboardInterrupt):
        recorder._capture(interrupted, "thread_local")
    assert done == ["begin", "end", "begin", "end"]


def test_gradients_and_inference_mode(loader: Loader, recorder: Recorder) -> None:
    calls = graphed(loader, recorder)
    with torch.inference_mode():
        calls.run(tensors(2))
    with torch.enable_grad():
        x, cache = tensors(2)
        output = calls.run([x.requires_grad_(), cache])[0]
    assert not output.requires_grad
    with torch.inference_mode():
        calls.run(tensors(2))


@pytest.fixture
def signature() -> dict[str, Any]:
    return {
        "inputs": INPUTS,
        "outputs": OUTPUTS,
        "dims": DIMS,
        "mutates": {"inputs": ["cache"], "buffers": []},
    }


def test_a_cpu_artifact_has_no_graphs(loader: Loader, signature: dict[str, Any]) -> None:
    with pytest.warns(RuntimeWarning, match="it runs on the device cpu"):
        calls = graphed_calls("net/cpu", signature, KINDS, loader, CudaGraphs())
    assert calls.run(tensors(2))[0].tolist() == [3 + 6 + 1 + 1] * 2
    assert calls.report()["why_not"] == "it runs on the device cpu"


def test_state_on_the_cpu_is_said_once(loader: Loader, signature: dict[str, Any]) -> None:
    mutates = {"inputs": [], "buffers": ["calls"]}
    weights = [{"name": "calls", "device": "cpu"}]
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        given = {**signature, "mutates": mutates, "weights": weights}
        calls = graphed_calls("net/cpu", given, KINDS, loader, CudaGraphs())
    assert len(said) == 1
    assert calls.report()["why_not"] == "it runs on the device cpu"


@pytest.mark.parametrize("value", ["yes", 3, {"batch": 1}, [3], ["batch"]])
def test_values_that_mean_nothing(value: Any) -> None:
    with pytest.raises(UsageError):
        graph_options(value)


@pytest.mark.parametrize(
    "options", [{"limit": 0}, {"limit": True}, {"memory_limit": 0}, {"limit": 1, "sizes": [{}, {}]}]
)
def test_limits_that_mean_nothing(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        CudaGraphs(**options)


def test_options() -> None:
    assert graph_options(False) is None
    assert graph_options(True) == CudaGraphs()
    assert graph_options([{"batch": 1}]) == CudaGraphs(sizes=[{"batch": 1}])
