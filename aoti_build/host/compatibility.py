"""What a host must have to run an artifact, and what this one lacks. Asked before any native code
is loaded.

AOTInductor itself only logs a mismatch, and the process then dies of SIGILL or a CUDA error. A
higher instruction set than needed is fine, a lower one is not. The torch policy is equal
major.minor: AOTInductor's C shim may change between minors.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

from aoti_build.host import distributions
from aoti_build.host.devices import device_named
from aoti_build.host.gpu_architectures import Rank


def requirements(device: str, architecture: str) -> dict[str, Any]:
    """What an artifact that is built on this host needs, as the manifest records it."""
    return {
        "device": device,
        "platform": sys.platform,
        "machine": os.uname().machine,
        "torch": distributions.version_of("torch"),
        **device_named(device).requirements(architecture),
    }


def unfit(needs: Mapping[str, Any], device_index: int = 0) -> list[str]:
    """A sentence for each reason why this host cannot run the artifact on the device
    `device_index`; empty if it can."""
    absent = device_named(needs["device"]).missing_device(device_index)
    if absent is not None:
        return [*lacking(needs), absent]
    return lacking(needs, device_index)


def lacking(needs: Mapping[str, Any], device_index: int = 0) -> list[str]:
    """A sentence for each thing that this host lacks; empty if it can run the artifact.

    Whether the device is there is not asked. Where it is, that of `device_index` counts.
    """
    sentences = []
    for name, here in (("platform", sys.platform), ("machine", os.uname().machine)):
        if needs.get(name) != here:
            sentences.append(f"built for {name} {needs.get(name)}, this host is {here}")
    built, installed = needs.get("torch"), torch_version()
    if _minor(built) != _minor(installed):
        sentences.append(f"built with torch {built}, this host has {installed or 'none'}")
    return [*sentences, *device_named(needs["device"]).missing(needs, device_index)]


def lacking_architecture(needs: Mapping[str, Any], device_index: int = 0) -> list[str]:
    """Of `lacking`, what concerns the architecture that a target names."""
    return device_named(needs["device"]).missing_for_architecture(needs, device_index)


def code_rank(needs: Mapping[str, Any], device_index: int = 0) -> Rank | None:
    """How good the artifact's code is for device `device_index`; None if it has no code for it."""
    return device_named(needs["device"]).code_rank(needs, device_index)


def torch_version() -> str | None:
    """The version of the torch that this process has imported; else of the installed one."""
    imported = getattr(sys.modules.get("torch"), "__version__", None)
    return str(imported) if imported else distributions.version_of("torch")


def _minor(version: str | None) -> str:
    return ".".join((version or "").split(".")[:2])
