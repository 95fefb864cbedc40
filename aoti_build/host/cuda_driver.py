"""NVIDIA's driver library, libcuda, called by ctypes."""

from __future__ import annotations

import ctypes
from typing import Any

_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76  # CUdevice_attribute of cuda.h


class CudaDriver:
    """A loaded libcuda. Call `start` first."""

    def __init__(self, library: Any) -> None:
        self._library = library

    @classmethod
    def load(cls) -> CudaDriver:
        """Raises OSError if there is no driver."""
        return cls(ctypes.CDLL("libcuda.so.1"))

    def start(self) -> tuple[int, int]:
        """Start the driver. Returns its error code (CUresult, 0 for success) and the number of
        devices that are visible."""
        count = ctypes.c_int()
        code = self._library.cuInit(0)
        if code == 0:
            code = self._library.cuDeviceGetCount(ctypes.byref(count))
        return int(code), count.value

    def version(self) -> tuple[int, int]:
        """The newest CUDA version that the driver supports: (13, 0)."""
        version = ctypes.c_int()
        self._library.cuDriverGetVersion(ctypes.byref(version))
        # cuDriverGetVersion's documentation: 1000 * major + 10 * minor.
        return version.value // 1000, version.value % 1000 // 10

    def capability(self, index: int) -> tuple[int, int]:
        """The compute capability of a device: (9, 0)."""
        device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
        attribute = self._library.cuDeviceGetAttribute
        self._library.cuDeviceGet(ctypes.byref(device), index)
        attribute(ctypes.byref(major), _CAPABILITY_MAJOR, device)
        attribute(ctypes.byref(minor), _CAPABILITY_MINOR, device)
        return major.value, minor.value

    def free_memory(self) -> int | None:
        """Bytes free on the first device; None if the driver does not say."""
        device, context = ctypes.c_int(), ctypes.c_void_p()
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        if self._library.cuInit(0) or self._library.cuDeviceGet(ctypes.byref(device), 0):
            return None
        if self._library.cuDevicePrimaryCtxRetain(ctypes.byref(context), device):
            return None
        try:
            if self._library.cuCtxSetCurrent(context):
                return None
            if self._library.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total)):
                return None
            return free.value
        finally:
            self._library.cuCtxSetCurrent(None)
            self._library.cuDevicePrimaryCtxRelease_v2(device)
