"""Records calls as CUDA graphs, by the interface of torch.

`torch.cuda.graph` is not used. It collects garbage and empties torch's cache of memory at each
capture. After a capture that failed it also leaves the capturing stream current.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

# Another thread may allocate memory during a capture.
_ERROR_MODE = "thread_local"
# This thread may load kernels as well, which no earlier call of the same package has loaded.
_UNPREPARED_ERROR_MODE = "relaxed"

_LONGEST_CAUSE = 120  # characters of a message from torch


class CaptureError(Exception):
    """A call cannot be recorded. The message says why."""


class CudaRecording:
    """One recorded call. `replay` runs it in the current stream. It writes into `outputs`."""

    def __init__(self, graph: torch.cuda.CUDAGraph, outputs: list[Tensor]) -> None:
        self._graph = graph
        self.outputs = outputs
        self.replay = graph.replay

    def release(self) -> None:
        """Free the graph. Its last replay must have ended."""
        self.outputs = []
        self._graph.reset()


class CudaRecorder:
    """Records the calls of one package on one device.

    All its graphs take their memory from one private pool. So only one of them may run at a time,
    which the caller ensures.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        # A stream of its own: a workspace of cuBLAS belongs to a stream.
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()
        self._last_stream: torch.cuda.Stream | None = None
        self._last_handle: int | None = None

    def enter_stream(self) -> bool:
        """Make the current stream wait for the calls that were made in another one.

        Returns False during a capture by the caller, in which no graph can be replayed.
        """
        if torch.cuda.is_current_stream_capturing():
            return False
        handle = torch._C._cuda_getCurrentRawStream(self._device.index)
        if handle != self._last_handle:
            stream = torch.cuda.current_stream(self._device)
            if self._last_stream is not None:
                stream.wait_stream(self._last_stream)
            self._last_stream = stream
            self._last_handle = handle
        return True

    def record(self, call: Callable[[], list[Tensor]], *, prepared: bool) -> CudaRecording:
        """Record what `call` launches, without running it.

        `prepared` says that the same package has run this call before, so that its kernels are
        loaded. Raises `CaptureError`, and `torch.OutOfMemoryError` if the GPU is full.
        """
        caller = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(caller)
        with contextlib.ExitStack() as contexts:
            contexts.enter_context(torch.cuda.device(self._device))
            contexts.enter_context(torch.cuda.stream(self._stream))
            contexts.enter_context(_no_garbage_collection())
            contexts.enter_context(_own_workspaces())
            # Inference tensors could not be written into by later calls.
            contexts.enter_context(torch.inference_mode(False))
            contexts.enter_context(torch.no_grad())
            recording = self._capture(call, _ERROR_MODE if prepared else _UNPREPARED_ERROR_MODE)
        caller.wait_stream(self._stream)
        return recording

    def forget(self) -> None:
        """Begin a new pool, after every graph was released: torch takes no pool up again."""
        self._pool = torch.cuda.graph_pool_handle()

    def memory(self) -> int:
        """The bytes of GPU memory in the pool of the graphs."""
        segments = torch.cuda.memory_snapshot(self._pool)
        return sum(segment["total_size"] for segment in segments)

    def synchronize(self) -> None:
        """Wait until every call has ended."""
        torch.cuda.synchronize(self._device)

    def _capture(self, call: Callable[[], list[Tensor]], error_mode: str) -> CudaRecording:
        graph = torch.cuda.CUDAGraph()
        try:
            graph.capture_begin(pool=self._pool, capture_error_mode=error_mode)
            outputs = call()
            graph.capture_end()
        except RuntimeError as error:
            self._abandon(graph)
            if isinstance(error, torch.OutOfMemoryError):
                raise
            raise CaptureError(_first_line(error)) from error
        except BaseException:  # an interrupt
            self._abandon(graph)
            raise
        return CudaRecording(graph, outputs)

    def _abandon(self, graph: torch.cuda.CUDAGraph) -> None:
        """End a failed capture, so that the process can go on as before."""
        try:
            graph.capture_end()
        except RuntimeError:
            # Then torch has not ended its own part of the capture either.
            index = self._device.index
            with contextlib.suppress(RuntimeError):
                torch._C._cuda_endAllocateToPool(index, self._pool)
            with contextlib.suppress(RuntimeError):
                torch._C._cuda_releasePool(index, self._pool)
        # torch's generator of random numbers refuses to work, in every thread, until a capture has
        # ended well. So a small one follows.
        following = torch.cuda.CUDAGraph()
        with contextlib.suppress(RuntimeError):
            following.capture_begin(capture_error_mode=_ERROR_MODE)
            torch.zeros(1, device=self._device)
            following.capture_end()


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """A collection may free GPU objects, which can end a capture."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextlib.contextmanager
def _own_workspaces() -> Iterator[None]:
    """Let cuBLAS allocate workspaces in the pool, and nobody else use them later.

    torch keeps one workspace for each stream. A graph that shared it with other work would have
    wrong results when both run at the same time.
    """
    torch._C._cuda_clearCublasWorkspaces()
    try:
        yield
    finally:
        torch._C._cuda_clearCublasWorkspaces()


def _first_line(error: RuntimeError) -> str:
    lines = str(error).splitlines()
    return lines[0][:_LONGEST_CAUSE] if lines else type(error).__name__
