"""The host's processor."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence, Set
from typing import TYPE_CHECKING, Any

from aoti_build.host import cpu
from aoti_build.host.devices.device import NATIVE
from aoti_build.host.gpu_architectures import Rank

if TYPE_CHECKING:
    from aoti_build.host.checks.finding import Finding

# The isa of models.yaml -> inductor options. The march values are psABI levels; simdlen keeps
# inductor's own vector width to the same level.
ISA_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    NATIVE: {},
    "avx2": {"cpp.march": "x86-64-v3", "cpp.simdlen": 256},
    "avx512": {"cpp.march": "x86-64-v4", "cpp.simdlen": 512},
}


class Cpu:
    """The processor: the device ``cpu``."""

    name = "cpu"
    architecture_key = "isa"
    preference = 0
    is_indexed = False
    builds_alone = False
    has_kernels = False
    torch_libraries: tuple[str, ...] = ("torch_cpu", "torch", "c10")

    def checks(self, *, memory: bool) -> Sequence[Finding]:  # noqa: ARG002 - for GPUs
        return ()

    def count(self) -> int:
        return 1

    def require_architecture(self, name: str) -> None:
        if name not in ISA_OPTIONS:
            raise ValueError(f"{name!r} is not one of {', '.join(ISA_OPTIONS)}")

    def toolchain_facts(self, architecture: str) -> dict[str, str]:
        if architecture != NATIVE:
            return {}
        return {"cpu.features": " ".join(cpu.cpu_features())}

    def compile_options(self, architecture: str) -> dict[str, Any]:
        return dict(ISA_OPTIONS[architecture])

    def allowed_instructions(self, architecture: str) -> Set[str] | None:
        return cpu.ISA_FEATURES.get(architecture)

    def cannot_build(self, architecture: str) -> str | None:
        machine = os.uname().machine
        if architecture == NATIVE or machine == "x86_64":
            return None
        return f"cpu with isa {architecture}, which is of x86_64; this host is {machine}"

    def requirements(self, architecture: str) -> dict[str, Any]:
        features = cpu.ISA_FEATURES.get(architecture, cpu.cpu_features())
        return {"cpu_features": sorted(features)}

    def missing_device(self, index: int) -> str | None:  # noqa: ARG002 - there is one
        return None

    def missing_for_architecture(self, needs: Mapping[str, Any], index: int = 0) -> list[str]:
        return self.missing(needs, index)

    def missing(self, needs: Mapping[str, Any], index: int = 0) -> list[str]:  # noqa: ARG002
        return missing_features(needs)

    def code_rank(self, needs: Mapping[str, Any], index: int = 0) -> Rank | None:  # noqa: ARG002
        return None


def missing_features(needs: Mapping[str, Any]) -> list[str]:
    """A sentence if this processor lacks instruction set extensions that host code uses."""
    missing = sorted(set(needs.get("cpu_features", ())) - set(cpu.cpu_features()))
    return [f"this processor lacks {', '.join(missing)}"] if missing else []
