"""The memory that a process takes for a model."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import torch

from aoti_build._torch.jobs.nvml import process_memory


class PeakMemory:
    """The most memory that this process needs for a model.

    On a CPU this is the peak of the whole process. On a GPU it is the peak of torch's allocator,
    and what was taken beside it: a package allocates its weights by itself, and libraries and
    graphs take memory too. If the driver does not tell what the process has, the figure comes from
    the free memory of the GPU. Another program that starts or ends there then falsifies it.

    Make it before the model is loaded, and call `settle` after its first call.
    """

    def __init__(self, device: str) -> None:
        self._is_cuda = device == "cuda"
        self._before = 0
        self._beside_torch = 0
        if self._is_cuda:
            # This starts CUDA, whose own memory does not count.
            (torch.ones(1, device=device) + 1).cpu()
            self._before = _used_beside_torch()

    def settle(self) -> None:
        """Count what the model took by now.

        Other workers of a comparison start after this, and take memory too.
        """
        if self._is_cuda:
            self._beside_torch = max(_used_beside_torch() - self._before, 0)

    def peak(self) -> int:
        """The peak in bytes until now."""
        if self._is_cuda:
            return int(torch.cuda.max_memory_allocated()) + self._beside_torch
        return _peak_of_process()


def _used_beside_torch() -> int:
    """The bytes of the current GPU that this process has without torch's allocator, or that all
    have where the driver does not tell of one process."""
    used = process_memory()
    if used is None:
        free, total = torch.cuda.mem_get_info()
        used = total - free
    return int(used - torch.cuda.memory_reserved())


def _peak_of_process() -> int:
    peak = _peak_of_program()
    if peak is not None:
        return peak
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts in units of 1024 bytes, macOS in bytes.
    return peak if sys.platform == "darwin" else peak * 1024


def _peak_of_program() -> int | None:
    """The peak of this program's own memory. None where the system does not tell.

    The peak in `getrusage` includes that of the process which started this one.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        name, _, value = line.partition(":")
        if name == "VmHWM":
            return int(value.split()[0]) * 1024  # it is in KiB
    return None
