"""The facts of a host that decide whether it can run an artifact, as a value."""

from __future__ import annotations

from typing import NamedTuple


class HostFacts(NamedTuple):
    """The facts of a host that matter to artifacts for one device.

    Attributes:
        platform: as `sys.platform`.
        machine: as `uname -m`.
        torch: the version of torch, or None if it is not installed.
        cpu_features: the processor's instruction set extensions, in the words of /proc/cpuinfo.
        gpu_capabilities: the compute capability ("9.0") of each GPU. Empty if the device is not a
            GPU.
    """

    platform: str
    machine: str
    torch: str | None
    cpu_features: tuple[str, ...]
    gpu_capabilities: tuple[str, ...] = ()
