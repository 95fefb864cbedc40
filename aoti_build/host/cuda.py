"""CUDA on this host: the visible GPUs, and the programs that make code for them."""

from __future__ import annotations

import os
import shlex
import shutil
from functools import cache
from pathlib import Path

from aoti_build.host.installed_torch import bundled_program, torch_cuda, torch_directory
from aoti_build.host.programs import program_version


@cache
def compute_capabilities() -> tuple[str, ...]:
    """The compute capability ("9.0") of each CUDA device that the driver shows."""
    # A torch without CUDA cannot use a GPU.
    if torch_cuda() is None:
        return ()
    from aoti_build.host.cuda_driver import CudaDriver  # not on the no-op path of a CPU project

    try:
        driver = CudaDriver.load()
    except OSError:
        return ()
    code, count = driver.start()
    if code != 0:
        return ()
    capabilities = []
    for index in range(count):
        major, minor = driver.capability(index)
        capabilities.append(f"{major}.{minor}")
    return tuple(capabilities)


@cache
def first_gpu_name() -> str:
    """The name of the first CUDA device, such as "NVIDIA H200"; empty if there is none."""
    if not compute_capabilities():
        return ""
    from aoti_build.host.cuda_driver import CudaDriver

    return CudaDriver.load().name(0)


def ptxas(capability: str = "") -> str | None:
    """The assembler that Triton is to use for a GPU, or None if there is none.

    It is the one in TRITON_PTXAS_PATH, else the one in torch's wheel, else Triton's. For GPUs from
    compute capability 10.0 on, Triton has a second assembler, with a variable of its own.
    """
    # Builds set the variable to this path. Otherwise inductor's compile processes would take
    # torch's ptxas, and the process that benchmarks would take Triton's. If their versions differ,
    # the latter finds no kernel of the former and compiles all of them again, one after another.
    # Which of the two makes the shipped code would then be a matter of chance.
    if is_blackwell(capability):
        blackwell = os.environ.get("TRITON_PTXAS_BLACKWELL_PATH")
        blackwell = blackwell or bundled_program("triton", "ptxas-blackwell")
        if blackwell is not None:
            return blackwell
    variable = os.environ.get("TRITON_PTXAS_PATH")
    return variable or bundled_program("torch", "ptxas") or bundled_program("triton", "ptxas")


def is_blackwell(capability: str) -> bool:
    """Whether Triton treats a GPU of this compute capability ("10.0") as Blackwell or later."""
    major, _, _ = capability.partition(".")
    return int(major or 0) >= 10


@cache
def packages_for_other_gpus() -> bool:
    """Whether the installed torch can package kernels for another GPU than the one it finds.

    2.14 can. 2.11 has the options, but packages what it compiled for the GPU that it finds.
    """
    directory = torch_directory()
    if directory is None:
        return False
    file = directory / "_inductor" / "codegen" / "cuda" / "compile_utils.py"
    try:
        source = file.read_text(errors="replace")
    except OSError:
        return False
    return "def _aoti_cuda_target_arch(" in source


def fatbin_tool() -> str | None:
    """The program with which inductor makes fat binaries, or None if there is none.

    It is fatbinary. It is nvcc if there is no fatbinary, or if TORCH_CUDA_ARCH_LIST asks for
    machine code for further GPUs.
    """
    nvcc = shutil.which(os.environ.get("CUDACXX") or "nvcc")
    fatbinary = _fatbinary()
    has_further_gpus = os.environ.get("TORCH_CUDA_ARCH_LIST") not in (None, "", "native")
    if has_further_gpus or fatbinary is None:
        return nvcc
    return fatbinary


def _fatbinary() -> str | None:
    """The program fatbinary next to the nvcc in CUDACXX, else the one on the PATH."""
    nvcc = os.environ.get("CUDACXX")
    if nvcc:
        neighbour = Path(nvcc).with_name("fatbinary")
        if neighbour.exists():
            return str(neighbour)
    return shutil.which("fatbinary")


def fatbin_tool_version() -> str:
    return program_version(shlex.quote(fatbin_tool() or "fatbinary"))
