"""Facts about the machine and the installed tools that change the result of a compile.

Each fact is a text under a name that a person can act on ("torch", "cxx.version"). Together they
are the `toolchain` and `environment` parts of a source key. No torch is imported.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

from aoti_build.common.resources import processors
from aoti_build.errors import ToolchainError
from aoti_build.host import cpu, distributions
from aoti_build.host.devices import NATIVE, device_named
from aoti_build.host.installed_torch import torch_build
from aoti_build.host.programs import compiler_command, program_version

# Increase it when the meaning of a fact or the list of facts changes.
FACTS_VERSION = 3

# Distributions whose code takes part in lowering, code generation or export on every build.
CODEGEN_DISTRIBUTIONS = ("torch", "triton", "sympy", "numpy", "networkx")

# Inductor, dynamo, Triton and ATen read some 250 variables at import (for example in
# torch/_inductor/config.py), and more with each release. Prefixes are safer than a list: an unknown
# variable costs a rebuild, a forgotten one costs a wrong artifact.
ENVIRONMENT_PREFIXES = (
    "AOTINDUCTOR_", "AOT_INDUCTOR_", "ATEN_", "CUTEDSL_", "CUTLASS_", "ENABLE_PERSISTENT_",
    "ENABLE_TMA_", "ENABLE_TEMPLATE_", "INDUCTOR_", "PYTORCH_", "TORCHDYNAMO_", "TORCHINDUCTOR_",
    "TORCH_", "TRITON_",
)  # fmt: skip
# Not PYTHONPATH: what is imported through it is recorded itself; see `import_path`.
ENVIRONMENT_NAMES = (
    "CC", "CPATH", "CPLUS_INCLUDE_PATH", "CUDA_HOME", "CUDA_PATH", "CXX", "C_INCLUDE_PATH",
    "ENABLE_HOST_SIDE_TMA", "LD_PRELOAD", "LIBRARY_PATH", "MKL_NUM_THREADS", "NVIDIA_TF32_OVERRIDE",
    "OMP_NUM_THREADS",
)  # fmt: skip
# Variables for the paths of caches and logs, the amount of output and the number of processes. They
# do not affect the artifact.
ENVIRONMENT_IGNORED = frozenset({
    "TORCHINDUCTOR_CACHE_DIR", "TORCHINDUCTOR_COMPILE_THREADS",
    "TORCHINDUCTOR_COMPILE_WORKER_WAIT_TIMEOUT", "TORCHINDUCTOR_COMPILE_WORKER_WATCHDOG_INTERVAL",
    "TORCHINDUCTOR_FILE_LOCK_TIMEOUT", "TORCHINDUCTOR_WORKER_START", "TORCH_HOME", "TORCH_LOGS",
    "TORCH_LOGS_FORMAT", "TORCH_LOGS_OUT", "TORCH_SHOW_CPP_STACKTRACES", "TORCH_TRACE",
    "TRITON_CACHE_DIR", "TRITON_DUMP_DIR", "TRITON_HOME", "PYTORCH_VERSION",
})  # fmt: skip


def facts(
    device: str, architecture: str = NATIVE, *, fixed_threads: bool = False
) -> dict[str, str]:
    """The toolchain facts that a target on `device` for `architecture` depends on.

    With `fixed_threads` the options say for how many threads loops are compiled, so the number of
    processors is no fact.

    Raises:
        ToolchainError: torch is not installed.
    """
    result = common_facts()
    if not fixed_threads:
        result["cpu.count"] = _processors_text()
    result.update(device_named(device).toolchain_facts(architecture))
    return result


def common_facts() -> dict[str, str]:
    """The toolchain facts that every target depends on. Raises as `facts`."""
    if distributions.version_of("torch") is None:
        raise ToolchainError(
            "torch is not installed here",
            hint="pip install torch torchvision, then run again",
        )
    major, minor = sys.version_info[:2]
    result = {
        "python": f"{major}.{minor}",
        "platform": sys.platform,
        "machine": os.uname().machine,
    }
    for name in CODEGEN_DISTRIBUTIONS:
        version = distributions.version_of(name)
        if version:
            result[name] = version
    result.update(torch_build())
    # The compiler that inductor will call, unless a preset sets its option cpp.cxx.
    command = compiler_command()
    result["cxx"] = command
    result["cxx.version"] = program_version(command)
    return result


def _processors_text() -> str:
    """``4``, or ``4 of 8, 2 cores``: the processors that this process may use.

    torch starts a thread for each core, and inductor writes that number into OpenMP loops. It
    leaves the number out of them only if it is that of all processors of the host
    (`WorkSharing.parallel` in torch/_inductor/codegen/cpp.py). So these numbers decide as well.
    """
    count = processors()
    text = str(count)
    if os.cpu_count() not in (None, count):
        text += f" of {os.cpu_count()}"
    cores = cpu.physical_cores()
    if cores not in (None, count):
        text += f", {cores} cores"
    return text


def environment(variables: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment variables that can change generated code, by name."""
    variables = os.environ if variables is None else variables
    return {name: value for name, value in sorted(variables.items()) if _changes_code(name)}


def _changes_code(name: str) -> bool:
    if name in ENVIRONMENT_IGNORED:
        return False
    return name in ENVIRONMENT_NAMES or name.startswith(ENVIRONMENT_PREFIXES)
