"""Calls that are replayed from CUDA graphs.

A compiled model launches many kernels, and each launch costs the processor some microseconds. A
CUDA graph has the launches of one whole call. It is recorded once for each combination of sizes and
then replayed by a single launch. It reads and writes at fixed places in memory, so inputs are
copied to static tensors before it and outputs are copied from static ones after it.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from aoti_build.runtime.capture import CaptureError, CudaRecorder
from aoti_build.runtime.graph_options import CudaGraphs
from aoti_build.runtime.leaves import Kinds, Signature, leaf_of, state_names
from aoti_build.runtime.static_inputs import Shapes, StaticInputs

# The stack level of the caller of `aoti_build.load` in a warning of `graphed_calls`.
_OF_LOAD = 6


class Recording(Protocol):
    """One recorded call. `replay` runs it in the current stream. It writes into `outputs`."""

    outputs: list[Tensor]

    @property
    def replay(self) -> Callable[[], None]: ...

    def release(self) -> None: ...


class Recorder(Protocol):
    """Records calls, as `aoti_build.runtime.capture.CudaRecorder` does."""

    def enter_stream(self) -> bool: ...

    def record(self, call: Callable[[], list[Tensor]], *, prepared: bool) -> Recording: ...

    def forget(self) -> None: ...

    def memory(self) -> int: ...

    def synchronize(self) -> None: ...


class GraphedCalls:
    """The calls of one loaded package, replayed where there is a graph.

    The first call of a combination of sizes runs as usual. Then it is recorded, which runs nothing:
    a model with state goes on by one call only. Later calls are replayed. Calls are made one at a
    time, by any number of threads and in any stream of the caller.

    If the package cannot be recorded, a warning says why, and all calls run as usual.
    """

    def __init__(
        self,
        target: str,
        loader: Any,
        inputs: StaticInputs,
        recorder: Recorder,
        options: CudaGraphs,
        *,
        written: Sequence[int] = (),
        outputs: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """`loader` is torch's, loaded with `run_single_threaded`. `written` has the positions of
        the inputs that the model writes into, and `outputs` is the signature's list of outputs.

        Raises `InputError` if the sizes in `options` do not fit the model.
        """
        self._target = target
        self._loader = loader
        self._inputs = inputs
        self._recorder = recorder
        self._options = options
        self._written = tuple(written)
        self._outputs = outputs
        self._allowed: frozenset[Shapes] | None = None
        if options.sizes is not None:
            self._allowed = frozenset(inputs.shapes(sizes) for sizes in options.sizes)
        self._graphs: dict[Shapes, _Graph] = {}
        self._buffers: dict[Shapes, list[Tensor]] = {}
        # Sizes for which there was no memory.
        self._too_large: set[Shapes] = set()
        # Why there are no graphs.
        self.why_not: str | None = None
        # Bytes in the pool of the graphs, after the last one was recorded.
        self._memory = 0
        # Reentrant: `warm_up` holds it during several steps.
        self._lock = threading.RLock()

    def run(self, inputs: list[Tensor]) -> list[Tensor]:
        """The outputs of one call. `inputs` fit the signature, are contiguous and on the device."""
        key = tuple([value.shape for value in inputs])
        with self._lock:
            can_replay = self._recorder.enter_stream()
            graph = self._graphs.get(key)
            if can_replay and graph is not None:
                return graph.run(inputs)
            outputs: list[Tensor] = self._loader.boxed_run(list(inputs))  # it empties its argument
            if can_replay and graph is None and self._may_record(key):
                self._record(key, prepared=True)
            return outputs

    def warm_up(
        self,
        sizes: Mapping[str, int] | None,
        rehearse: Callable[[list[Tensor]], Any] | None = None,
    ) -> None:
        """Record the graph for `sizes`, so that the first call is a fast one.

        `rehearse` makes one call, if not the package itself may do it. Where there can be no graph,
        the package makes one call. Raises `InputError` for sizes that do not fit.
        """
        key = self._inputs.shapes(sizes)
        with self._lock:
            can_replay = self._recorder.enter_stream()
            if key in self._graphs:
                return
            if not can_replay or not self._may_record(key):
                if rehearse is None:
                    self._loader.boxed_run(self._inputs.zeros(key))
                return
            buffers = list(self._buffers_of(key))
            if rehearse is None:
                self._loader.boxed_run(buffers)
            else:
                rehearse(buffers)
            self._record(key, prepared=rehearse is None)

    def buffers(self, sizes: Mapping[str, int] | None) -> dict[str, Tensor]:
        """The static inputs for `sizes`, by name. A call with these very tensors copies nothing."""
        key = self._inputs.shapes(sizes)
        with self._lock:
            return dict(zip(self._inputs.names, self._buffers_of(key), strict=True))

    def forget(self, loader: Any) -> None:
        """Drop all graphs, since weights or state are new. Later calls run on `loader`.

        No call is under way. Static inputs stay where they are, unless `loader` is None.
        """
        with self._lock:
            self._recorder.synchronize()
            for graph in self._graphs.values():
                graph.release()
            self._graphs.clear()
            self._recorder.forget()
            self._memory = 0
            self._loader = loader
            if loader is None:
                self._buffers.clear()

    def give_up(self, why: str, *, stacklevel: int = 5) -> None:
        """Run all calls without graphs, and say why in a warning.

        By default it points to the call of the model.
        """
        self.why_not = why
        message = f"{self._target} runs without CUDA graphs: {why}"
        warnings.warn(message, RuntimeWarning, stacklevel=stacklevel)

    def report(self) -> dict[str, Any]:
        """JSON values: the shapes of each graph, memory and limits, and why there are no graphs."""
        with self._lock:
            graphs = []
            for key in self._graphs:
                shapes = [list(shape) for shape in key]
                graphs.append(dict(zip(self._inputs.names, shapes, strict=True)))
            return {
                "graphs": graphs,
                "limit": self._options.limit,
                "memory": self._memory + self._buffer_bytes(),
                "memory_limit": self._options.memory_limit,
                "why_not": self.why_not,
            }

    def _may_record(self, key: Shapes) -> bool:
        if self.why_not is not None or key in self._too_large:
            return False
        if self._allowed is not None and key not in self._allowed:
            return False
        if len(self._graphs) >= self._options.limit:
            return False
        limit = self._options.memory_limit
        return limit is None or self._memory + self._buffer_bytes() < limit

    def _record(self, key: Shapes, *, prepared: bool) -> None:
        """Add the graph of one combination of sizes, or say why that is impossible."""
        try:
            buffers = self._buffers_of(key)
            recording = self._recorder.record(
                lambda: self._loader.boxed_run(list(buffers)), prepared=prepared
            )
        except CaptureError as error:
            self.give_up(
                "a call cannot be recorded, most likely because it waits for the GPU, as for a size"
                f" that depends on values ({error})"
            )
            return
        except torch.OutOfMemoryError:
            self._buffers.pop(key, None)
            self._too_large.add(key)
            return
        for entry, output in zip(self._outputs, recording.outputs, strict=False):
            if not self._is_replayed(entry, output):
                recording.release()
                self.give_up(f"its output {entry['name']} is not on the GPU")
                return
        self._memory = self._recorder.memory()
        static = self._options.static_outputs
        self._graphs[key] = _Graph(recording, buffers, self._written, static=static)

    def _is_replayed(self, entry: Mapping[str, Any], output: Tensor) -> bool:
        """Whether a replay computes the output again. A number depends on the sizes alone."""
        return "number" in entry or output.device == self._inputs.device

    def _buffers_of(self, key: Shapes) -> list[Tensor]:
        if key not in self._buffers:
            self._buffers[key] = self._inputs.zeros(key)
        return self._buffers[key]

    def _buffer_bytes(self) -> int:
        return sum(value.nbytes for values in self._buffers.values() for value in values)


class _Graph:
    """The recorded call of one combination of sizes, and its static inputs."""

    def __init__(
        self,
        recording: Recording,
        buffers: list[Tensor],
        written: tuple[int, ...],
        *,
        static: bool,
    ) -> None:
        self._recording = recording
        self._replay = recording.replay
        self._buffers = buffers
        self._addresses = frozenset(_address(buffer) for buffer in buffers)
        self._written = written
        self._static = static

    def run(self, inputs: list[Tensor]) -> list[Tensor]:
        # Only in this mode may inference tensors, and views of parameters, be written into. No
        # gradient is computed in it either. `torch.inference_mode` takes 3 microseconds for it.
        with torch._C._InferenceMode(True):
            sources = list(inputs)
            for position, buffer in enumerate(self._buffers):
                value = inputs[position]
                if value is not buffer and _address(value) in self._addresses:
                    # It is a buffer of another input, which is filled before or after this one.
                    sources[position] = value.clone()
            for buffer, value in zip(self._buffers, sources, strict=True):
                if value is not buffer:
                    buffer.copy_(value)
            self._replay()
            for position in self._written:
                if inputs[position] is not self._buffers[position]:
                    inputs[position].copy_(self._buffers[position])
        if self._static:
            return list(self._recording.outputs)
        return [output.clone() for output in self._recording.outputs]

    def release(self) -> None:
        self._recording.release()


def _address(value: Tensor) -> int:
    """The address of the memory that the tensor is a part of."""
    return value.untyped_storage().data_ptr()


class _NoRecorder:
    """Stands for `CudaRecorder` on a device without CUDA graphs."""

    def enter_stream(self) -> bool:
        return False

    def record(
        self,
        call: Callable[[], list[Tensor]],  # noqa: ARG002 - as in the protocol
        *,
        prepared: bool,  # noqa: ARG002
    ) -> Recording:
        raise CaptureError("this device has no graphs")

    def forget(self) -> None:
        pass

    def memory(self) -> int:
        return 0

    def synchronize(self) -> None:
        pass


def graphed_calls(
    target: str, signature: Signature, kinds: Kinds, loader: Any, options: CudaGraphs
) -> GraphedCalls:
    """The graphed calls of a loaded package with this signature.

    On the CPU, and for a model that keeps state there, they run without graphs and a warning says
    so. Raises `InputError` if the sizes in `options` do not fit the model.
    """
    written_names = frozenset(signature["mutates"]["inputs"])
    leaves = []
    for entry in signature["inputs"]:
        leaf = leaf_of(entry, signature["dims"], kinds, written_names)
        if leaf.constant is None:
            leaves.append(leaf)
    on_gpu = kinds.device.type == "cuda"
    calls = GraphedCalls(
        target,
        loader,
        StaticInputs(target, leaves, signature["dims"], kinds.device),
        CudaRecorder(kinds.device) if on_gpu else _NoRecorder(),
        options,
        written=[position for position, leaf in enumerate(leaves) if leaf.written],
        outputs=signature["outputs"],
    )
    on_cpu = _state_on_cpu(signature)
    if not on_gpu:
        calls.give_up(f"it runs on the device {kinds.device.type}", stacklevel=_OF_LOAD)
    elif on_cpu:
        calls.give_up(f"its state {on_cpu[0]} is on the CPU", stacklevel=_OF_LOAD)
    return calls


def _state_on_cpu(signature: Signature) -> list[str]:
    """The buffers that a call writes into, and that are not on a GPU."""
    weights = {entry["name"]: entry for entry in signature.get("weights") or ()}
    names = []
    for name in state_names(signature):
        device = weights.get(name, {}).get("device", "cuda")
        if device == "cpu":
            names.append(name)
    return names
