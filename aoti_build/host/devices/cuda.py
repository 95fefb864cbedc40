"""NVIDIA's GPUs.

The host code beside the kernels is always compiled for the building host's processor.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence, Set
from typing import TYPE_CHECKING, Any

from aoti_build.host import cpu, cuda, distributions
from aoti_build.host.devices.cpu import missing_features
from aoti_build.host.devices.device import NATIVE
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

# Options that go together with the arch. Kernels are tuned while torch compiles, by what it
# compiled for the GPU that is there. The other way, a first run of the whole model, would load what
# is for the arch asked for (triton_lazy_compile.py).
FATBIN_OPTIONS = {
    "aot_inductor.emit_multi_arch_kernel": True,
    "triton.autotune_at_compile_time": True,
}


class Cuda:
    """The GPUs that CUDA's driver shows: the device ``cuda``."""

    name = "cuda"
    architecture_key = "arch"
    preference = 1
    is_indexed = True
    builds_alone = True
    has_kernels = True
    torch_libraries: tuple[str, ...] = ("torch_cuda", "torch_cpu", "torch", "c10_cuda", "c10")

    def checks(self, *, memory: bool) -> Sequence[Finding]:
        from aoti_build.host.checks.cuda import check_cuda  # not on the no-op path

        return check_cuda(memory=memory)

    def count(self) -> int:
        return len(cuda.compute_capabilities())

    def require_architecture(self, name: str) -> None:
        if name != NATIVE:
            require_architecture(name)

    def toolchain_facts(self, architecture: str) -> dict[str, str]:
        capability = next(iter(cuda.compute_capabilities()), "")
        facts = {
            "cuda.compute_capability": capability,
            "ptxas": program_version(shlex.quote(cuda.ptxas(capability) or "ptxas")),
            "cpu.features": " ".join(cpu.cpu_features()),
        }
        if self._makes_fatbins(architecture):
            facts["fatbin"] = cuda.fatbin_tool_version()
        return facts

    def compile_options(self, architecture: str) -> dict[str, Any]:
        if not self._makes_fatbins(architecture):
            return {}
        return {"cuda.arch": number_of(architecture), **FATBIN_OPTIONS}

    def allowed_instructions(self, architecture: str) -> Set[str] | None:  # noqa: ARG002
        return None

    def cannot_build(self, architecture: str) -> str | None:
        capabilities = cuda.compute_capabilities()
        if not capabilities:
            return self.name
        if architecture == NATIVE:
            return None
        here, wanted = capabilities[0], capability_of(architecture)
        if wanted == here:
            return None
        text = f"cuda with compute capability {wanted}; this host's GPU has {here}"
        if numbers(wanted) > numbers(here):
            return text
        if not cuda.packages_for_other_gpus():
            torch = distributions.version_of("torch")
            return f"{text}, and torch {torch} compiles for the GPU it finds"
        if cuda.fatbin_tool() is None:
            return f"{text}, and neither nvcc nor fatbinary is here to package code for another"
        return None

    def requirements(self, architecture: str) -> dict[str, Any]:
        if architecture == NATIVE:
            capability = cuda.compute_capabilities()[0]
        else:
            capability = capability_of(architecture)
        return {"compute_capability": capability, "cpu_features": sorted(cpu.cpu_features())}

    def missing_device(self, index: int) -> str | None:
        count = self.count()
        if not count:
            return "no CUDA device, or a torch without CUDA"
        if not 0 <= index < count:
            return f"no CUDA device {index}: this host has {count}, counted from 0"
        return None

    def missing_for_architecture(self, needs: Mapping[str, Any], index: int = 0) -> list[str]:
        wanted = needs.get("compute_capability")
        capabilities = cuda.compute_capabilities() if wanted else ()
        if index >= len(capabilities) or self.code_rank(needs, index) is not None:
            return []
        codes = needs.get("gpu_code")
        listed = f" ({', '.join(codes)})" if codes else ""
        here = capabilities[index]
        return [f"built for compute capability {wanted}{listed}, this GPU has {here}"]

    def missing(self, needs: Mapping[str, Any], index: int = 0) -> list[str]:
        return [*missing_features(needs), *self.missing_for_architecture(needs, index)]

    def code_rank(self, needs: Mapping[str, Any], index: int = 0) -> Rank | None:
        capabilities = cuda.compute_capabilities()
        if index >= len(capabilities):
            return None
        # A manifest without `gpu_code` is of a package with machine code for what it needs.
        wanted = str(needs.get("compute_capability", "0.0"))
        codes = needs.get("gpu_code") or [f"sm_{wanted.replace('.', '')}"]
        return best_code(codes, capabilities[index])

    def _makes_fatbins(self, architecture: str) -> bool:
        """Whether kernels are packaged as machine code and PTX for `architecture`, so that later
        GPUs run them too.

        From compute capability 9.0 on this is no gain for the GPU's own architecture: torch
        compiles for features that no other GPU has.
        """
        if architecture == NATIVE or not cuda.packages_for_other_gpus():
            return False
        if cuda.fatbin_tool() is None:
            return False
        here = next(iter(cuda.compute_capabilities()), "")
        wanted = capability_of(architecture)
        return wanted != here or numbers(wanted) < OWN_FEATURES
