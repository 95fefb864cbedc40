"""Facts about the machine and the installed tools that change what a compile produces, found
without importing torch.

Every fact is a string under a name that a person can act on ("torch", "cxx.version"); together they
are the `toolchain` and `environment` parts of a source key. Bump `FACTS_VERSION` when the meaning
of a fact or the list changes.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

from aoti_build.common.resources import processors
from aoti_build.errors import ToolchainError
from aoti_build.host import distributions
from aoti_build.host.devices import NATIVE, device_named
from aoti_build.host.installed_torch import torch_build
from aoti_build.host.programs import compiler_command, program_version

FACTS_VERSION = 2

# Distributions whose code takes part in lowering, code generation or export on every build.
CODEGEN_DISTRIBUTIONS = ("torch", "triton", "sympy", "numpy", "networkx")

# Inductor, dynamo, Triton and ATen read some 250 variables at import (torch/_inductor/config.py and
# beside it), more with each release. Prefixes are safer than their list: an unknown variable costs
# a rebuild, a forgotten one a wrong artifact.
ENVIRONMENT_PREFIXES = (
    "AOTINDUCTOR_", "AOT_INDUCTOR_", "ATEN_", "CUTEDSL_", "CUTLASS_", "ENABLE_PERSISTENT_",
    "ENABLE_TMA_", "ENABLE_TEMPLATE_", "INDUCTOR_", "PYTORCH_", "TORCHDYNAMO_", "TORCHINDUCTOR_",
    "TORCH_", "TRITON_",
)  # fmt: skip
ENVIRONMENT_NAMES = (
    "CC", "CPATH", "CPLUS_INCLUDE_PATH", "CUDA_HOME", "CUDA_PATH", "CXX", "C_INCLUDE_PATH",
    "ENABLE_HOST_SIDE_TMA", "LD_PRELOAD", "LIBRARY_PATH", "MKL_NUM_THREADS", "NVIDIA_TF32_OVERRIDE",
    "OMP_NUM_THREADS", "PYTHONPATH",
)  # fmt: skip
# Where caches and logs go, how much is printed and how many processes work: none of it reaches the
# artifact.
ENVIRONMENT_IGNORED = frozenset({
    "TORCHINDUCTOR_CACHE_DIR", "TORCHINDUCTOR_COMPILE_THREADS",
    "TORCHINDUCTOR_COMPILE_WORKER_WAIT_TIMEOUT", "TORCHINDUCTOR_COMPILE_WORKER_WATCHDOG_INTERVAL",
    "TORCHINDUCTOR_FILE_LOCK_TIMEOUT", "TORCHINDUCTOR_WORKER_START", "TORCH_HOME", "TORCH_LOGS",
    "TORCH_LOGS_FORMAT", "TORCH_LOGS_OUT", "TORCH_SHOW_CPP_STACKTRACES", "TORCH_TRACE",
    "TRITON_CACHE_DIR", "TRITON_DUMP_DIR", "TRITON_HOME", "PYTORCH_VERSION",
})  # fmt: skip
# Decides which source files are found, and those are known by themselves; its paths differ between
# checkouts.
ENVIRONMENT_OF_SOURCES = frozenset({"PYTHONPATH"})


def facts(device: str, architecture: str = NATIVE) -> dict[str, str]:
    """The toolchain facts that a target on `device` for `architecture` depends on.

    Raises `ToolchainError` if torch is not installed.
    """
    if distributions.version_of("torch") is None:
        raise ToolchainError(
            "torch is not installed here", hint="pip install torch torchvision, then run again"
        )
    versions = {name: distributions.version_of(name) for name in CODEGEN_DISTRIBUTIONS}
    return {
        "python": ".".join(map(str, sys.version_info[:2])),
        "platform": sys.platform,
        "machine": os.uname().machine,
        **{name: version for name, version in versions.items() if version},
        **torch_build(),
        **_compiler(),
        "cpu.count": str(processors()),
        **device_named(device).toolchain_facts(architecture),
    }


def environment(variables: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment variables that can change generated code, by name."""
    variables = os.environ if variables is None else variables
    return {
        name: value
        for name, value in sorted(variables.items())
        if (name in ENVIRONMENT_NAMES or name.startswith(ENVIRONMENT_PREFIXES))
        and name not in ENVIRONMENT_IGNORED
    }


def _compiler() -> dict[str, str]:
    """The C++ compiler that inductor will call, unless a preset sets its option cpp.cxx."""
    command = compiler_command()
    return {"cxx": command, "cxx.version": program_version(command)}
