"""What a host must have to run an artifact, and what this one lacks. Asked before any native code is loaded.

AOTInductor itself only logs a mismatch, and the process then dies of SIGILL or a CUDA error. A higher instruction set
than needed is fine, a lower one is not. The torch policy is equal major.minor: AOTInductor's C shim may change between
minors.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

from aoti_build import toolchain
from aoti_build.spec.project import Target

JOB_MEMORY = 3 << 30  # bytes: a worker with torch, an export and one C++ compiler; resnet18 peaks near 2 GiB


def requirements(target: Target) -> dict[str, Any]:
    """What an artifact of `target` built on this host needs, as the manifest records it."""
    needs: dict[str, Any] = {
        "device": target.device,
        "platform": sys.platform,
        "machine": os.uname().machine,
        "torch": toolchain.distribution_version("torch"),
    }
    isa = target.model.cpu.isa
    if target.device == "cuda":
        # The host code beside the kernels is compiled for this processor too.
        needs["compute_capability"] = toolchain.compute_capabilities()[0]
        isa = "native"
    needs["cpu_features"] = list(toolchain.cpu_features() if isa == "native" else sorted(toolchain.ISA_FEATURES[isa]))
    return needs


def lacking(needs: Mapping[str, Any]) -> list[str]:
    """Sentences, one for each thing this host lacks; empty if it can run the artifact. The device's presence is not
    asked."""
    found = [
        f"built for {name} {needs.get(name)}, this host is {here}"
        for name, here in (("platform", sys.platform), ("machine", os.uname().machine))
        if needs.get(name) != here
    ]
    built, here = needs.get("torch"), toolchain.distribution_version("torch")
    if _minor(built) != _minor(here):
        found.append(f"built with torch {built}, this host has {here or 'none'}")
    missing = sorted(set(needs.get("cpu_features", ())) - set(toolchain.cpu_features()))
    if missing:
        found.append(f"this processor lacks {', '.join(missing)}")
    if wanted := needs.get("compute_capability"):
        found += _lacking_capability(str(wanted))
    return found


def _lacking_capability(wanted: str) -> list[str]:
    """A cubin runs on its own major version from its minor on (CUDA programming guide, binary compatibility)."""
    here = toolchain.compute_capabilities()
    if not here:
        return []
    major, minor = _numbers(here[0])
    wanted_major, wanted_minor = _numbers(wanted)
    if major == wanted_major and minor >= wanted_minor:
        return []
    return [f"built for compute capability {wanted}, this GPU has {here[0]}"]


def _numbers(version: str) -> tuple[int, int]:
    major, _, minor = version.partition(".")
    return int(major), int(minor or 0)


def _minor(version: str | None) -> str:
    return ".".join((version or "").split(".")[:2])


def available_memory() -> int:
    """Bytes that new processes can have; everything physical where the system does not tell."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
