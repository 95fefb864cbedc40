"""The device ``cpu``: the host's processor."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence, Set
from typing import TYPE_CHECKING, Any

from aoti_build.common.json_object import JsonObject
from aoti_build.common.resources import processors
from aoti_build.host import cpu
from aoti_build.host.devices.device import NATIVE
from aoti_build.host.facts import HostFacts
from aoti_build.host.gpu_architectures import Rank

if TYPE_CHECKING:
    from aoti_build.host.checks.finding import Finding

# The isa of models.yaml -> inductor options. The march values are psABI levels. simdlen limits
# inductor's own vector width to the same level.
ISA_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    NATIVE: {},
    "avx2": {"cpp.march": "x86-64-v3", "cpp.simdlen": 256},
    "avx512": {"cpp.march": "x86-64-v4", "cpp.simdlen": 512},
}


class Cpu:
    """See `Device`."""

    name = "cpu"
    architecture_key = "isa"
    preference = 0
    is_indexed = False
    builds_alone = False
    has_kernels = False
    has_graphs = False
    torch_libraries: tuple[str, ...] = ("torch_cpu", "torch", "c10")

    def checks(self, *, memory: bool) -> Sequence[Finding]:  # noqa: ARG002 - for GPUs
        return ()

    def count(self) -> int:
        return 1

    def capabilities(self) -> tuple[str, ...]:
        return ()

    def host_class(self) -> str | None:
        # The number of processors is the one that the source key has.
        return f"{os.uname().machine}-{cpu.isa_level()}-{processors()}cpu"

    def require_architecture(self, name: str) -> None:
        if name not in ISA_OPTIONS:
            raise ValueError(f"{name!r} is not one of {', '.join(ISA_OPTIONS)}")

    def toolchain_facts(self, architecture: str) -> dict[str, str]:
        if architecture != NATIVE:
            return {}
        return {"cpu.features": " ".join(cpu.cpu_features())}

    def compile_options(self, architecture: str) -> JsonObject:
        return dict(ISA_OPTIONS[architecture])

    def allowed_instructions(self, architecture: str) -> Set[str] | None:
        return cpu.ISA_FEATURES.get(architecture)

    def cannot_build(self, architecture: str) -> str | None:
        machine = os.uname().machine
        if architecture == NATIVE or machine == "x86_64":
            return None
        return f"cpu with isa {architecture}, which is of x86_64; this host is {machine}"

    def requirements(self, architecture: str, host: HostFacts) -> JsonObject:
        features = cpu.ISA_FEATURES.get(architecture, host.cpu_features)
        return {"cpu_features": sorted(features)}

    def missing_device(
        self,
        host: HostFacts,  # noqa: ARG002 - every host has a processor
        index: int,  # noqa: ARG002
    ) -> str | None:
        return None

    def missing_for_architecture(
        self,
        needs: Mapping[str, Any],
        host: HostFacts,
        index: int = 0,
    ) -> list[str]:
        return self.missing(needs, host, index)

    def missing(
        self,
        needs: Mapping[str, Any],
        host: HostFacts,
        index: int = 0,  # noqa: ARG002 - for GPUs
    ) -> list[str]:
        return missing_features(needs, host)

    def code_rank(
        self,
        needs: Mapping[str, Any],  # noqa: ARG002 - for GPUs
        host: HostFacts,  # noqa: ARG002
        index: int = 0,  # noqa: ARG002
    ) -> Rank | None:
        return None


def missing_features(needs: Mapping[str, Any], host: HostFacts) -> list[str]:
    """A sentence if the processor lacks instruction set extensions that host code uses."""
    missing = set(needs.get("cpu_features", ())) - set(host.cpu_features)
    if not missing:
        return []
    return [f"this processor lacks {', '.join(sorted(missing))}"]
