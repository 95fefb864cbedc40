"""The device ``cuda``: NVIDIA's GPUs that the driver shows.

The host code of a package is always compiled for the building host's processor.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence, Set
from typing import TYPE_CHECKING, Any

from aoti_build.common.json_object import JsonObject
from aoti_build.host import cpu, cuda, distributions
from aoti_build.host.devices.cpu import missing_features
from aoti_build.host.devices.device import NATIVE
from aoti_build.host.facts import HostFacts
from aoti_build.host.gpu_architectures import (
    OWN_FEATURES,
    Rank,
    best_code,
    capability_of,
    number_of,
    numbers,
    require_architecture,
)
from aoti_build.host.programs import program_version

if TYPE_CHECKING:
    from aoti_build.host.checks.finding import Finding

# Inductor options for a target with a named arch. Kernels are tuned while torch compiles, with the
# code that it compiled for the GPU at hand. Otherwise a first run of the whole model would tune
# them (triton_lazy_compile.py), and load the code for the named arch.
FATBIN_OPTIONS = {
    "aot_inductor.emit_multi_arch_kernel": True,
    "triton.autotune_at_compile_time": True,
}


class Cuda:
    """See `Device`."""

    name = "cuda"
    architecture_key = "arch"
    preference = 1
    is_indexed = True
    builds_alone = True
    has_kernels = True
    has_graphs = True
    torch_libraries: tuple[str, ...] = ("torch_cuda", "torch_cpu", "torch", "c10_cuda", "c10")

    def checks(self, *, memory: bool) -> Sequence[Finding]:
        from aoti_build.host.checks.cuda import check_cuda  # not on the no-op path

        return check_cuda(memory=memory)

    def count(self) -> int:
        return len(self.capabilities())

    def capabilities(self) -> tuple[str, ...]:
        return cuda.compute_capabilities()

    def host_class(self) -> str | None:
        capability = self._first_capability()
        if not capability:
            return None
        # GPUs of one capability differ in their memory and number of processors.
        words = re.sub("[^a-z0-9]+", "-", cuda.first_gpu_name().lower()).strip("-")
        return f"sm_{capability.replace('.', '')}-{words or 'unnamed'}"

    def require_architecture(self, name: str) -> None:
        if name != NATIVE:
            require_architecture(name)

    def toolchain_facts(self, architecture: str) -> dict[str, str]:
        capability = self._first_capability()
        ptxas = cuda.ptxas(capability) or "ptxas"
        facts = {
            "cuda.compute_capability": capability,
            "ptxas": program_version(shlex.quote(ptxas)),
            "cpu.features": " ".join(cpu.cpu_features()),
        }
        if self._makes_fatbins(architecture):
            facts["fatbin"] = cuda.fatbin_tool_version()
        return facts

    def compile_options(self, architecture: str) -> JsonObject:
        if not self._makes_fatbins(architecture):
            return {}
        return {"cuda.arch": number_of(architecture), **FATBIN_OPTIONS}

    def allowed_instructions(self, architecture: str) -> Set[str] | None:  # noqa: ARG002
        return None

    def cannot_build(self, architecture: str) -> str | None:
        capability = self._first_capability()
        if not capability:
            return self.name
        if architecture == NATIVE:
            return None
        needed = capability_of(architecture)
        if needed == capability:
            return None
        reason = f"cuda with compute capability {needed}; this host's GPU has {capability}"
        if numbers(needed) > numbers(capability):
            return reason
        if not cuda.packages_for_other_gpus():
            torch = distributions.version_of("torch")
            return f"{reason}, and torch {torch} compiles for the GPU it finds"
        if cuda.fatbin_tool() is None:
            return f"{reason}, and neither nvcc nor fatbinary is here to package code for another"
        return None

    def requirements(self, architecture: str, host: HostFacts) -> JsonObject:
        if architecture == NATIVE:
            capability = host.gpu_capabilities[0]
        else:
            capability = capability_of(architecture)
        return {
            "compute_capability": capability,
            "cpu_features": sorted(host.cpu_features),
        }

    def missing_device(self, host: HostFacts, index: int) -> str | None:
        count = len(host.gpu_capabilities)
        if not count:
            return "no CUDA device, or a torch without CUDA"
        if not 0 <= index < count:
            return f"no CUDA device {index}: this host has {count}, counted from 0"
        return None

    def missing_for_architecture(
        self,
        needs: Mapping[str, Any],
        host: HostFacts,
        index: int = 0,
    ) -> list[str]:
        needed = needs.get("compute_capability")
        if not needed or index >= len(host.gpu_capabilities):
            return []
        if self.code_rank(needs, host, index) is not None:
            return []
        codes = needs.get("gpu_code")
        in_package = f" ({', '.join(codes)})" if codes else ""
        capability = host.gpu_capabilities[index]
        return [
            f"built for compute capability {needed}{in_package}, this GPU has {capability}",
        ]

    def missing(self, needs: Mapping[str, Any], host: HostFacts, index: int = 0) -> list[str]:
        return [
            *missing_features(needs, host),
            *self.missing_for_architecture(needs, host, index),
        ]

    def code_rank(
        self,
        needs: Mapping[str, Any],
        host: HostFacts,
        index: int = 0,
    ) -> Rank | None:
        if index >= len(host.gpu_capabilities):
            return None
        codes = needs.get("gpu_code")
        if not codes:
            # Such a manifest is of a package with machine code for the capability it requires.
            needed = str(needs.get("compute_capability", "0.0"))
            codes = [f"sm_{needed.replace('.', '')}"]
        return best_code(codes, host.gpu_capabilities[index])

    def _first_capability(self) -> str:
        """The compute capability of the GPU that models are compiled for; empty without a GPU."""
        return next(iter(self.capabilities()), "")

    def _makes_fatbins(self, architecture: str) -> bool:
        """Whether kernels are packaged as machine code and PTX, so that later GPUs run them too."""
        if architecture == NATIVE or not cuda.packages_for_other_gpus():
            return False
        if cuda.fatbin_tool() is None:
            return False
        needed = capability_of(architecture)
        # From compute capability 9.0 on, torch compiles for features that no other GPU has. A fat
        # binary for the GPU's own architecture is then no gain.
        return needed != self._first_capability() or numbers(needed) < OWN_FEATURES
