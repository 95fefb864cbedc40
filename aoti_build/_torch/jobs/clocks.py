"""The clock rate of a GPU, by NVIDIA's management library, called through ctypes."""

from __future__ import annotations

import ctypes
from typing import Any

import torch

# nvmlClockType_t in nvml.h.
_CLOCK_SM = 1


def gpu_clock(device: str) -> int | None:
    """The rate of the current GPU's multiprocessors in MHz. None on a CPU, and where the driver
    does not tell."""
    if device != "cuda":
        return None
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None
    if library.nvmlInit_v2():
        return None
    try:
        return _clock(library)
    finally:
        library.nvmlShutdown()


def _clock(library: Any) -> int | None:
    # CUDA and this library count GPUs differently. Both know this name.
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    name = f"GPU-{properties.uuid}".encode()
    handle = ctypes.c_void_p()
    rate = ctypes.c_uint()
    if library.nvmlDeviceGetHandleByUUID(name, ctypes.byref(handle)):
        return None
    if library.nvmlDeviceGetClockInfo(handle, _CLOCK_SM, ctypes.byref(rate)):
        return None
    return rate.value
