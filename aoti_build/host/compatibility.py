"""Requirements of artifacts, and whether a host meets them. Judged before native code is loaded.

AOTInductor itself only logs a mismatch, and the process then dies of SIGILL or a CUDA error. A
better instruction set than required is fine, a lesser one is not. Torch must have the same
major.minor version, since AOTInductor's C shim may change between minor versions.

The `needs` of an artifact are the `requires` of its manifest. The host is a value, `HostFacts`;
`this_host` makes it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

from aoti_build.common.json_object import JsonObject
from aoti_build.host import cpu, distributions
from aoti_build.host.devices import device_named
from aoti_build.host.facts import HostFacts
from aoti_build.host.gpu_architectures import Rank


def this_host(device: str) -> HostFacts:
    """The facts of this host that matter to artifacts for `device`."""
    # GPUs are only looked for if the device is one. To ask for them starts the driver, which cannot
    # be used after a fork.
    return HostFacts(
        platform=sys.platform,
        machine=os.uname().machine,
        torch=torch_version(),
        cpu_features=cpu.cpu_features(),
        gpu_capabilities=device_named(device).capabilities(),
    )


def torch_version() -> str | None:
    """The version of the torch that this process imported, else of the installed one."""
    imported = getattr(sys.modules.get("torch"), "__version__", None)
    return str(imported) if imported else distributions.version_of("torch")


def requirements(device: str, architecture: str, host: HostFacts) -> JsonObject:
    """The requirements of an artifact that `host` builds, as the manifest records them."""
    return {
        "device": device,
        "platform": host.platform,
        "machine": host.machine,
        # Workers build with the installed torch, whatever this process has imported.
        "torch": distributions.version_of("torch"),
        **device_named(device).requirements(architecture, host),
    }


def obstacles(needs: Mapping[str, Any], host: HostFacts, device_index: int = 0) -> list[str]:
    """A sentence for each reason why the artifact cannot run on device `device_index` of the host.

    Empty if it can.
    """
    absent = device_named(needs["device"]).missing_device(host, device_index)
    if absent is not None:
        return [*missing(needs, host), absent]
    return missing(needs, host, device_index)


def missing(needs: Mapping[str, Any], host: HostFacts, device_index: int = 0) -> list[str]:
    """A sentence for each requirement that the host does not meet.

    If the host has the device `device_index`, it is judged too. An absent device is no reason here.
    """
    sentences = []
    if needs.get("platform") != host.platform:
        sentences.append(
            f"built for platform {needs.get('platform')}, this host is {host.platform}"
        )
    if needs.get("machine") != host.machine:
        sentences.append(f"built for machine {needs.get('machine')}, this host is {host.machine}")
    if _minor(needs.get("torch")) != _minor(host.torch):
        sentences.append(
            f"built with torch {needs.get('torch')}, this host has {host.torch or 'none'}"
        )
    sentences += device_named(needs["device"]).missing(needs, host, device_index)
    return sentences


def missing_for_architecture(
    needs: Mapping[str, Any],
    host: HostFacts,
    device_index: int = 0,
) -> list[str]:
    """The sentences of `missing` about the architecture that a target names."""
    device = device_named(needs["device"])
    return device.missing_for_architecture(needs, host, device_index)


def code_rank(needs: Mapping[str, Any], host: HostFacts, device_index: int = 0) -> Rank | None:
    """How good the artifact's code is for the device; None if it has no GPU code for it."""
    return device_named(needs["device"]).code_rank(needs, host, device_index)


def _minor(version: str | None) -> str:
    """Major and minor version: ``2.14`` of ``2.14.1+cu130``."""
    return ".".join((version or "").split(".")[:2])
