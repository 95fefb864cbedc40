"""Facts about this machine for people who read a measurement. No decision depends on them."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from aoti_build import __version__
from aoti_build.host import cuda, distributions

_ROOT = Path("/")
# The load of a processor, over the last minute, from which on measured times mean little.
_BUSY = 0.7


def machine_facts(device: str, root: Path = _ROOT) -> dict[str, str]:
    """What tells this machine apart, by names such as "processor". What is unknown is left out.

    With the device "cuda" the GPU and its driver are among the facts. Files are read below `root`,
    which tests replace.
    """
    facts = {
        "processor": _line_of(root / "proc/cpuinfo", "model name") or platform.machine(),
        "processors": str(len(os.sched_getaffinity(0))),
        "memory": _memory(root),
        "governor": _text(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "kernel": os.uname().release,
        "python": platform.python_version(),
        "torch": distributions.version_of("torch") or "",
        "aoti_build": __version__,
    }
    if device == "cuda":
        facts["gpu"] = cuda.first_gpu_name()
        facts["driver"] = _text(root / "sys/module/nvidia/version")
    return {name: value for name, value in facts.items() if value}


def busy_host() -> str | None:
    """A sentence if other programs keep this host busy. None if they do not."""
    load = os.getloadavg()[0]
    usable = len(os.sched_getaffinity(0))
    if load <= _BUSY * usable:
        return None
    return (
        f"other programs kept this host busy (load {load:.1f} with {usable} processors), so times"
        " are longer than on a quiet one"
    )


def _memory(root: Path) -> str:
    """The physical memory, such as "15.6 GiB"."""
    words = _line_of(root / "proc/meminfo", "MemTotal").split()
    if not words or not words[0].isdecimal():
        return ""
    return f"{int(words[0]) / (1 << 20):.1f} GiB"  # it is in KiB


def _line_of(file: Path, name: str) -> str:
    """The value of the first line ``name: value`` of a file; empty if there is none."""
    for line in _text(file).splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
