"""What NVIDIA's management library tells of the current GPU. It is called through ctypes."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator
from typing import Any

import torch

# From nvml.h: nvmlClockType_t, nvmlReturn_t, and the value of a size that the driver has not.
_CLOCK_SM = 1
_INSUFFICIENT_SIZE = 7
_NO_VALUE = 2**64 - 1


class _Process(ctypes.Structure):
    """nvmlProcessInfo_t, as version 3 of the function has it."""

    _fields_ = [
        ("pid", ctypes.c_uint),
        ("bytes", ctypes.c_ulonglong),
        ("gpu_instance", ctypes.c_uint),
        ("compute_instance", ctypes.c_uint),
    ]


def gpu_clock(device: str) -> int | None:
    """The rate of the current GPU's multiprocessors in MHz. None on a CPU, and where the driver
    does not tell."""
    if device != "cuda":
        return None
    with _opened() as opened:
        if opened is None:
            return None
        library, handle = opened
        rate = ctypes.c_uint()
        if library.nvmlDeviceGetClockInfo(handle, _CLOCK_SM, ctypes.byref(rate)):
            return None
        return rate.value


def process_memory() -> int | None:
    """The bytes of the current GPU that this process has. None where the driver does not tell, for
    example in a container, whose processes it knows by other numbers."""
    with _opened() as opened:
        if opened is None:
            return None
        for process in _processes(*opened):
            if process.pid == os.getpid() and process.bytes != _NO_VALUE:
                return int(process.bytes)
    return None


@contextlib.contextmanager
def _opened() -> Iterator[tuple[Any, Any] | None]:
    """The library and its handle of the current GPU; None if either is missing."""
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        yield None
        return
    if library.nvmlInit_v2():
        yield None
        return
    try:
        handle = _handle(library)
        yield None if handle is None else (library, handle)
    finally:
        library.nvmlShutdown()


def _handle(library: Any) -> Any:
    # CUDA and this library count GPUs differently. Both know this name.
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    name = f"GPU-{properties.uuid}".encode()
    handle = ctypes.c_void_p()
    if library.nvmlDeviceGetHandleByUUID(name, ctypes.byref(handle)):
        return None
    return handle


def _processes(library: Any, handle: Any) -> list[_Process]:
    """The processes that compute on a GPU; none where the driver has no such function."""
    if not hasattr(library, "nvmlDeviceGetComputeRunningProcesses_v3"):
        return []
    count = ctypes.c_uint(16)
    while True:
        found = (_Process * count.value)()
        # It sets the number of processes, also if there is no room for them.
        status = library.nvmlDeviceGetComputeRunningProcesses_v3(handle, ctypes.byref(count), found)
        if status != _INSUFFICIENT_SIZE:
            return [] if status else list(found[: count.value])
        count.value += 16
