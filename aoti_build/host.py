"""What a host must have to run an artifact, and what this one lacks. Asked before any native code is loaded.

AOTInductor itself only logs a mismatch, and the process then dies of SIGILL or a CUDA error. A higher instruction set
than needed is fine, a lower one is not. The torch policy is equal major.minor: AOTInductor's C shim may change between
minors.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from aoti_build import toolchain

if TYPE_CHECKING:
    from aoti_build.spec.project import Target


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


def unfit(needs: Mapping[str, Any], device_index: int = 0) -> list[str]:
    """Sentences, one for each reason why this host cannot run the artifact on the device `device_index`; empty if it
    can. The driver is asked for devices only if the artifact needs one."""
    if needs.get("device") == "cpu":
        return lacking(needs)
    count = len(toolchain.compute_capabilities())
    if not count:
        return [*lacking(needs), "no CUDA device, or a torch without CUDA"]
    if not 0 <= device_index < count:
        return [*lacking(needs), f"no CUDA device {device_index}: this host has {count}, counted from 0"]
    return lacking(needs, device_index)


def lacking(needs: Mapping[str, Any], device_index: int = 0) -> list[str]:
    """Sentences, one for each thing this host lacks; empty if it can run the artifact. The device's presence is not
    asked; where there is one, that of `device_index` counts."""
    found = [
        f"built for {name} {needs.get(name)}, this host is {here}"
        for name, here in (("platform", sys.platform), ("machine", os.uname().machine))
        if needs.get(name) != here
    ]
    built, here = needs.get("torch"), torch_version()
    if _minor(built) != _minor(here):
        found.append(f"built with torch {built}, this host has {here or 'none'}")
    missing = sorted(set(needs.get("cpu_features", ())) - set(toolchain.cpu_features()))
    if missing:
        found.append(f"this processor lacks {', '.join(missing)}")
    if wanted := needs.get("compute_capability"):
        found += _lacking_capability(str(wanted), device_index)
    return found


def torch_version() -> str | None:
    """The version of the torch that this process has imported; else of the installed one."""
    imported = getattr(sys.modules.get("torch"), "__version__", None)
    return str(imported) if imported else toolchain.distribution_version("torch")


def _lacking_capability(wanted: str, device_index: int) -> list[str]:
    """A cubin runs on its own major version from its minor on (CUDA programming guide, binary compatibility)."""
    known = toolchain.compute_capabilities()
    if device_index >= len(known):
        return []
    here = known[device_index]
    major, minor = _numbers(here)
    wanted_major, wanted_minor = _numbers(wanted)
    if major == wanted_major and minor >= wanted_minor:
        return []
    return [f"built for compute capability {wanted}, this GPU has {here}"]


def _numbers(version: str) -> tuple[int, int]:
    major, _, minor = version.partition(".")
    return int(major), int(minor or 0)


def _minor(version: str | None) -> str:
    return ".".join((version or "").split(".")[:2])
