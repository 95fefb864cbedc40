"""The checks of what a compile for a GPU needs: driver, GPU, Triton, ptxas, C compiler, headers.

By torch's sources, 2.11 to 2.14, Triton compiles the kernels. It calls a ptxas, and compiles a C
file with Python.h for its launcher. nvcc or fatbinary is only called for `max_autotune` with
CUTLASS, and for fat binaries. The headers are in `cuda_headers`.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sysconfig
from dataclasses import dataclass

from aoti_build.host import cuda, distributions, installed_torch
from aoti_build.host.checks.cuda_headers import check_headers
from aoti_build.host.checks.finding import FAIL, OK, UNAVAILABLE, WARN, Finding
from aoti_build.host.checks.inductor import command_words
from aoti_build.host.checks.programs import compile_failure, gist
from aoti_build.host.cuda_driver import CudaDriver

_OLDEST_CAPABILITY = (7, 0)  # Triton's; torch._inductor refuses older GPUs with GPUTooOldForTriton
_ENOUGH_MEMORY = 2 << 30
_PTXAS_TIMEOUT_SECONDS = 60
# CUresult of cuda.h.
_NO_DEVICE = 100
_CUDA_ERRORS = {
    3: "not initialised",
    35: "the driver is too old",
    100: "no device",
    101: "invalid device",
    802: "the system is not ready: with NVSwitch, nvidia-fabricmanager must run",
    803: "the driver's library and its kernel module differ: reboot, or mount the host's libcuda",
    804: "forward compatibility is not supported on this GPU",
    999: "unknown; often a kernel module that is missing or needs a reload",
}


@dataclass(frozen=True)
class Gpu:
    """The compute capability of the first visible device, and its driver's newest CUDA version."""

    capability: tuple[int, int]
    driver: tuple[int, int]


def check_cuda(*, memory: bool = True) -> list[Finding]:
    """All checks of CUDA, or one finding that says why there is no GPU.

    With `memory`, the device is in use for a moment.
    """
    torch_cuda = installed_torch.torch_cuda()
    if torch_cuda is None:
        return [
            _finding(
                "device",
                UNAVAILABLE,
                "this torch is built without CUDA",
                fix="install a CUDA build of torch",
            )
        ]
    gpu = first_gpu()
    if isinstance(gpu, Finding):
        return [gpu]
    findings = [
        _device(gpu),
        _driver(gpu, torch_cuda),
        _triton(),
        _ptxas(gpu),
        _launcher_compiler(),
        check_headers(),
        _nvcc(),
    ]
    if memory:
        findings.append(_memory())
    return findings


def first_gpu() -> Gpu | Finding:
    """The device that models are compiled for, or a finding that says why there is none."""
    try:
        driver = CudaDriver.load()
    except OSError as error:
        return _finding("device", UNAVAILABLE, "there is no NVIDIA driver here", cause=str(error))
    return gpu_of(driver)


def gpu_of(driver: CudaDriver) -> Gpu | Finding:
    """The first device of a loaded driver, or a finding that says why there is none."""
    code, count = driver.start()
    if code == _NO_DEVICE or (code == 0 and count == 0):
        message = "no GPU is visible"
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        if visible is not None:
            message = f"{message}: CUDA_VISIBLE_DEVICES={visible!r}"
        return _finding("device", UNAVAILABLE, message)
    if code != 0:
        meaning = _CUDA_ERRORS.get(code, "see CUresult in CUDA's documentation")
        return _finding(
            "device",
            FAIL,
            f"the driver does not start: error {code}, {meaning}",
            fix="nvidia-smi must work first",
            stops=True,
        )
    return Gpu(driver.capability(0), driver.version())


def _device(gpu: Gpu) -> Finding:
    message = f"compute capability {_dotted(gpu.capability)}"
    if gpu.capability < _OLDEST_CAPABILITY:
        return _finding(
            "device",
            FAIL,
            f"{message}: Triton needs {_dotted(_OLDEST_CAPABILITY)} or later",
            fix="use another GPU, or devices: [cpu]",
        )
    return _finding("device", OK, message)


def _driver(gpu: Gpu, torch_cuda: str) -> Finding:
    """Whether the driver runs code of torch's CUDA version, by CUDA's rules of compatibility.

    A driver runs code of an older CUDA. Since CUDA 11 it also runs code of a newer minor version of
    its own major version. It then refuses PTX, but only packages for a named arch contain any.
    """
    parts = torch_cuda.split(".")
    needed_major = int(parts[0])
    needed_minor = int(parts[1]) if len(parts) > 1 else 0
    message = f"driver for CUDA {_dotted(gpu.driver)}, torch built with {torch_cuda}"
    if gpu.driver >= (needed_major, needed_minor):
        return _finding("driver", OK, message)
    driver_major, _ = gpu.driver
    if driver_major == needed_major:
        return _finding(
            "driver",
            WARN,
            f"{message}: runs by minor version compatibility",
            fix="a newer driver removes doubt",
        )
    return _finding(
        "driver",
        FAIL,
        f"{message}: the driver is too old",
        fix=f"install a driver for CUDA {needed_major}, or a torch that is built for CUDA"
        f" {driver_major}",
        stops=True,
    )


def _triton() -> Finding:
    if importlib.util.find_spec("triton") is None:
        return _finding(
            "triton",
            FAIL,
            "triton is not installed, and inductor writes GPU kernels in it",
            fix="pip install triton, in the version that this torch asks for",
        )
    version = distributions.version_of("triton") or distributions.version_of("pytorch-triton")
    return _finding("triton", OK, f"triton {version or 'of unknown version'}")


def _ptxas(gpu: Gpu) -> Finding:
    """Whether the ptxas that builds give to Triton runs and knows the GPU."""
    capability = _dotted(gpu.capability)
    variable = "TRITON_PTXAS_PATH"
    if cuda.is_blackwell(capability):
        variable = "TRITON_PTXAS_BLACKWELL_PATH"
    path = cuda.ptxas(capability)
    if path is None:
        return _finding(
            "ptxas",
            WARN,
            "neither torch nor triton has one in its usual place",
            fix=f"set {variable} to one",
        )
    try:
        process = subprocess.run(
            [path, "--help"],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PTXAS_TIMEOUT_SECONDS,
            check=True,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.SubprocessError) as error:
        return _finding(
            "ptxas",
            FAIL,
            f"{path} does not run",
            cause=str(error),
            fix=f"unset {variable}, or set it to a ptxas that runs",
        )
    major, minor = gpu.capability
    architecture = f"sm_{major}{minor}"
    # The help lists the architectures.
    if architecture not in process.stdout:
        return _finding(
            "ptxas",
            FAIL,
            f"{path} does not know {architecture}, this GPU",
            fix=f"install newer torch and triton, or set {variable} to the ptxas of a newer CUDA"
            " toolkit",
        )
    return _finding("ptxas", OK, f"{path} knows {architecture}")


def _launcher_compiler() -> Finding:
    """Whether the C compiler of Triton's launcher ($CC, else gcc, else clang) finds Python.h."""
    command = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    words = command_words(command or "")
    fix = "install gcc, or set CC to a C compiler"
    if not words or shutil.which(words[0]) is None:
        message = f"Triton finds no C compiler ({command or 'gcc, clang'})"
        return _finding("C compiler", FAIL, message, fix=fix)
    include = sysconfig.get_paths()["include"]
    call = [*words, "-fsyntax-only", f"-I{include}"]
    output = compile_failure(call, "probe.c", "#include <Python.h>\n")
    if output is None:
        return _finding("C compiler", OK, f"{command}, with Python.h")
    message = f"{command} cannot compile C"
    if "Python.h" in output:
        message = f"there is no Python.h in {include}, which Triton's launcher includes"
        fix = "install python3-dev"
    return _finding("C compiler", FAIL, message, cause=gist(output), fix=fix)


def _nvcc() -> Finding:
    """Whether there is nvcc or, for targets with a named `arch`, fatbinary. Neither is required."""
    message = shutil.which("nvcc")
    if message is None:
        message = "none; only CUTLASS kernels and targets for a named arch need it"
    if not cuda.packages_for_other_gpus():
        return _finding("nvcc", OK, message)
    tool = cuda.fatbin_tool()
    if tool:
        return _finding("nvcc", OK, f"{message}; packages for a named arch are made with {tool}")
    return _finding("nvcc", OK, f"{message}; packages for other GPUs cannot be made")


def _memory() -> Finding:
    free = CudaDriver.load().free_memory()
    if free is None:
        return _finding("GPU memory", WARN, "the driver does not report how much is free")
    message = f"{free / 2**30:.1f} GiB free"
    if free < _ENOUGH_MEMORY:
        fix = "see with nvidia-smi what else runs on the GPU"
        return _finding("GPU memory", WARN, message, fix=fix)
    return _finding("GPU memory", OK, message)


def _finding(
    check: str,
    outcome: str,
    message: str,
    *,
    cause: str | None = None,
    fix: str | None = None,
    stops: bool = False,
) -> Finding:
    return Finding(check, outcome, message, "cuda", cause, fix, stops)


def _dotted(version: tuple[int, int]) -> str:
    major, minor = version
    return f"{major}.{minor}"
