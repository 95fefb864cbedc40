"""NVIDIA's driver library, libcuda, called through ctypes."""

from __future__ import annotations

import ctypes
from typing import Any

# CUdevice_attribute in cuda.h.
_CAPABILITY_MAJOR = 75
_CAPABILITY_MINOR = 76
_NAME_SIZE = 256  # bytes


class CudaDriver:
    """A loaded libcuda. Call `start` before anything else."""

    def __init__(self, library: Any) -> None:
        self._library = library

    @classmethod
    def load(cls) -> CudaDriver:
        """Raises OSError if there is no driver."""
        return cls(ctypes.CDLL("libcuda.so.1"))

    def start(self) -> tuple[int, int]:
        """Start the driver.

        Returns its error code (CUresult, 0 for success) and the number of visible devices.
        """
        count = ctypes.c_int()
        code = self._library.cuInit(0)
        if code == 0:
            code = self._library.cuDeviceGetCount(ctypes.byref(count))
        return int(code), count.value

    def version(self) -> tuple[int, int]:
        """The newest CUDA version that the driver supports, such as (13, 0)."""
        version = ctypes.c_int()
        self._library.cuDriverGetVersion(ctypes.byref(version))
        # By the documentation of cuDriverGetVersion: 1000 * major + 10 * minor.
        major, rest = divmod(version.value, 1000)
        return major, rest // 10

    def capability(self, index: int) -> tuple[int, int]:
        """The compute capability of a device, such as (9, 0)."""
        device = ctypes.c_int()
        major = ctypes.c_int()
        minor = ctypes.c_int()
        self._library.cuDeviceGet(ctypes.byref(device), index)
        get_attribute = self._library.cuDeviceGetAttribute
        get_attribute(ctypes.byref(major), _CAPABILITY_MAJOR, device)
        get_attribute(ctypes.byref(minor), _CAPABILITY_MINOR, device)
        return major.value, minor.value

    def name(self, index: int) -> str:
        """The name of a device, such as "NVIDIA H200"."""
        device = ctypes.c_int()
        text = ctypes.create_string_buffer(_NAME_SIZE)
        self._library.cuDeviceGet(ctypes.byref(device), index)
        if self._library.cuDeviceGetName(text, _NAME_SIZE, device):
            return ""
        return text.value.decode("ascii", "replace")

    def free_memory(self) -> int | None:
        """Free bytes on the first device, or None if the driver does not report them.

        The device is in use for a moment.
        """
        library = self._library
        device = ctypes.c_int()
        context = ctypes.c_void_p()
        free = ctypes.c_size_t()
        total = ctypes.c_size_t()
        # Each call returns 0 on success.
        if library.cuInit(0):
            return None
        if library.cuDeviceGet(ctypes.byref(device), 0):
            return None
        if library.cuDevicePrimaryCtxRetain(ctypes.byref(context), device):
            return None
        try:
            if library.cuCtxSetCurrent(context):
                return None
            if library.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total)):
                return None
            return free.value
        finally:
            library.cuCtxSetCurrent(None)
            library.cuDevicePrimaryCtxRelease_v2(device)
