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
from typing import TYPE_CHECKING, Any

from aoti_build.host import distributions, gpu_architectures, toolchain

if TYPE_CHECKING:
    from aoti_build.models_file.project import Target


def requirements(target: Target) -> dict[str, Any]:
    """What an artifact of `target` built on this host needs, as the manifest records it."""
    needs: dict[str, Any] = {
        "device": target.device,
        "platform": sys.platform,
        "machine": os.uname().machine,
        "torch": distributions.version_of("torch"),
    }
    named = target.floor if target.has_floor else None
    if target.device == "cuda":
        needs["compute_capability"] = (
            gpu_architectures.capability_of(named) if named else toolchain.compute_capabilities()[0]
        )
        named = None  # the host code beside the kernels is compiled for this processor
    needs["cpu_features"] = sorted(
        toolchain.ISA_FEATURES[named] if named else toolchain.cpu_features()
    )
    return needs


def cannot_build(target: Target) -> str | None:
    """Why nothing can be built here for the target: the device that is missing, in words. None if
    it can be built, whether or not it can be run."""
    if target.device == "cpu":
        here = os.uname().machine
        foreign = target.has_floor and here != "x86_64"
        return (
            f"cpu with isa {target.floor}, which is of x86_64; this host is {here}"
            if foreign
            else None
        )
    known = toolchain.compute_capabilities()
    if not known:
        return "cuda"
    return _cannot_build_for(target.floor, known[0]) if target.has_floor else None


def _cannot_build_for(arch: str, here: str) -> str | None:
    wanted = gpu_architectures.capability_of(arch)
    said = f"cuda with compute capability {wanted}; this host's GPU has {here}"
    if wanted == here:
        return None
    if gpu_architectures.numbers(wanted) > gpu_architectures.numbers(here):
        return said
    if not toolchain.packages_for_other_gpus():
        return (
            f"{said}, and torch {distributions.version_of('torch')} compiles for the GPU it finds"
        )
    if toolchain.fatbin_tool() is None:
        return f"{said}, and neither nvcc nor fatbinary is here to package code for another"
    return None


def unfit(needs: Mapping[str, Any], device_index: int = 0) -> list[str]:
    """Sentences, one for each reason why this host cannot run the artifact on the device
    `device_index`; empty if it can. The driver is asked for devices only if the artifact needs
    one."""
    if needs.get("device") == "cpu":
        return lacking(needs)
    count = len(toolchain.compute_capabilities())
    if not count:
        return [*lacking(needs), "no CUDA device, or a torch without CUDA"]
    if not 0 <= device_index < count:
        return [
            *lacking(needs),
            f"no CUDA device {device_index}: this host has {count}, counted from 0",
        ]
    return lacking(needs, device_index)


def lacking(needs: Mapping[str, Any], device_index: int = 0) -> list[str]:
    """Sentences, one for each thing this host lacks; empty if it can run the artifact. The device's
    presence is not asked; where there is one, that of `device_index` counts."""
    found = [
        f"built for {name} {needs.get(name)}, this host is {here}"
        for name, here in (("platform", sys.platform), ("machine", os.uname().machine))
        if needs.get(name) != here
    ]
    built, here = needs.get("torch"), torch_version()
    if _minor(built) != _minor(here):
        found.append(f"built with torch {built}, this host has {here or 'none'}")
    return [*found, *_lacking_features(needs), *_lacking_capability(needs, device_index)]


def lacking_floor(needs: Mapping[str, Any], device_index: int = 0) -> list[str]:
    """Of `lacking`, what concerns the floor that a target names: the GPU for CUDA, else the
    processor."""
    if needs.get("device") == "cuda":
        return _lacking_capability(needs, device_index)
    return _lacking_features(needs)


def code_rank(needs: Mapping[str, Any], device_index: int = 0) -> gpu_architectures.Rank | None:
    """How good the artifact's GPU code is for the device `device_index`; None if there is no such
    device, or it can run none of it. Where the manifest does not say what code there is, it is
    machine code for what the artifact needs."""
    known = toolchain.compute_capabilities()
    wanted = str(needs.get("compute_capability", "0.0"))
    codes = needs.get("gpu_code") or [f"sm_{wanted.replace('.', '')}"]
    return (
        gpu_architectures.best_code(codes, known[device_index])
        if device_index < len(known)
        else None
    )


def torch_version() -> str | None:
    """The version of the torch that this process has imported; else of the installed one."""
    imported = getattr(sys.modules.get("torch"), "__version__", None)
    return str(imported) if imported else distributions.version_of("torch")


def _lacking_features(needs: Mapping[str, Any]) -> list[str]:
    missing = sorted(set(needs.get("cpu_features", ())) - set(toolchain.cpu_features()))
    return [f"this processor lacks {', '.join(missing)}"] if missing else []


def _lacking_capability(needs: Mapping[str, Any], device_index: int) -> list[str]:
    wanted = needs.get("compute_capability")
    known = toolchain.compute_capabilities() if wanted else ()
    if device_index >= len(known) or code_rank(needs, device_index) is not None:
        return []
    code = f" ({', '.join(needs['gpu_code'])})" if needs.get("gpu_code") else ""
    return [f"built for compute capability {wanted}{code}, this GPU has {known[device_index]}"]


def _minor(version: str | None) -> str:
    return ".".join((version or "").split(".")[:2])
