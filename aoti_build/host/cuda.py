"""CUDA on this host: the GPUs that the driver shows, and the programs that make code for them."""

from __future__ import annotations

import os
import shlex
import shutil
from functools import cache
from pathlib import Path

from aoti_build.host.installed_torch import bundled_program, torch_build, torch_directory
from aoti_build.host.programs import program_version


@cache
def compute_capabilities() -> tuple[str, ...]:
    """The compute capability ("9.0") of each visible CUDA device, asked of the driver; empty where
    there is none."""
    if not torch_build().get("torch.cuda"):
        return ()
    from aoti_build.host.cuda_driver import CudaDriver  # not on the no-op path of a CPU project

    try:
        driver = CudaDriver.load()
    except OSError:
        return ()
    code, count = driver.start()
    if code != 0:
        return ()
    capabilities = [driver.capability(index) for index in range(count)]
    return tuple(f"{major}.{minor}" for major, minor in capabilities)


def ptxas(capability: str = "") -> str | None:
    """The assembler that Triton is to use for a GPU: what TRITON_PTXAS_PATH says, else the one in
    torch's wheel, else Triton's.

    Left alone, inductor's compile processes take torch's and the process that benchmarks takes
    Triton's. If the two are of different versions, no kernel that the former compiled is found by
    the latter, which compiles all of them again, one after another; and which of the two made the
    code that is shipped is a matter of chance.

    From compute capability 10.0 on (Blackwell), Triton takes another one, if it brings one, with a
    variable of its own.
    """
    if is_blackwell(capability):
        other = os.environ.get("TRITON_PTXAS_BLACKWELL_PATH") or bundled_program(
            "triton", "ptxas-blackwell"
        )
        if other is not None:
            return other
    return (
        os.environ.get("TRITON_PTXAS_PATH")
        or bundled_program("torch", "ptxas")
        or bundled_program("triton", "ptxas")
    )


def is_blackwell(capability: str) -> bool:
    """Whether Triton treats a GPU of this compute capability ("10.0") as Blackwell or later."""
    return int(capability.partition(".")[0] or 0) >= 10


@cache
def packages_for_other_gpus() -> bool:
    """Whether the installed torch's inductor can package kernels for another GPU than the one it
    finds (2.14 can; 2.11 has the options and packages what it compiled for that one)."""
    directory = torch_directory()
    try:
        source = (
            directory / "_inductor" / "codegen" / "cuda" / "compile_utils.py" if directory else None
        )
        return source is not None and "def _aoti_cuda_target_arch(" in source.read_text(
            errors="replace"
        )
    except OSError:
        return False


def fatbin_tool() -> str | None:
    """The program with which inductor makes fat binaries: fatbinary, or nvcc where there is none or
    machine code for further GPUs is asked for. None if it is not here."""
    nvcc = shutil.which(os.environ.get("CUDACXX") or "nvcc")
    beside = (
        Path(os.environ["CUDACXX"]).with_name("fatbinary") if os.environ.get("CUDACXX") else None
    )
    fatbinary = str(beside) if beside is not None and beside.exists() else shutil.which("fatbinary")
    further = os.environ.get("TORCH_CUDA_ARCH_LIST") not in (None, "", "native")
    return nvcc if further or fatbinary is None else fatbinary


def fatbin_tool_version() -> str:
    return program_version(shlex.quote(fatbin_tool() or "fatbinary"))
