"""What compiling for a GPU needs beside the C++ compiler: a driver that fits torch's CUDA, a GPU
that is not too old, Triton with a ptxas and a C compiler, and CUDA's headers.

By torch's sources, 2.11 to 2.14: the C++ wrapper of a package includes cuda.h and
cuda_runtime_api.h and is linked with -lcuda, both by way of CUDA_HOME; without one
`torch.utils.cpp_extension` refuses. Kernels are Triton's, which calls a ptxas and compiles a C file
against Python.h for its launcher. nvcc, or fatbinary, is called for `max_autotune` with CUTLASS and
for fat binaries alone.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aoti_build.common.directories import temporary_directory
from aoti_build.errors import DirectoryError
from aoti_build.host import cuda, distributions, installed_torch
from aoti_build.host.checks.finding import FAIL, OK, UNAVAILABLE, WARN, Finding
from aoti_build.host.checks.inductor import command_words, cpp_standard, cuda_home
from aoti_build.host.checks.programs import failure_of, gist
from aoti_build.host.cuda_driver import CudaDriver
from aoti_build.host.programs import compiler_command

_OLDEST_CAPABILITY = (7, 0)  # Triton's; torch._inductor refuses older GPUs with GPUTooOldForTriton
_ENOUGH_MEMORY = 2 << 30
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
    """The first visible device, and the newest CUDA version that its driver knows."""

    capability: tuple[int, int]
    driver: tuple[int, int]


def check_cuda(*, memory: bool = True) -> list[Finding]:
    """All checks of CUDA, or one finding that says why there is none. `memory` asks the device too,
    which takes it into use for a moment."""
    built = installed_torch.torch_cuda()
    if built is None:
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
    found = [
        _device(gpu),
        _driver(gpu, built),
        _triton(),
        _ptxas(gpu),
        _launcher_compiler(),
        check_headers(),
        _nvcc(),
    ]
    return [*found, *([_memory()] if memory else [])]


def first_gpu() -> Gpu | Finding:
    """The device that models are compiled for, or why there is none."""
    try:
        driver = CudaDriver.load()
    except OSError as error:
        return _finding("device", UNAVAILABLE, "there is no NVIDIA driver here", cause=str(error))
    return gpu_of(driver)


def gpu_of(driver: CudaDriver) -> Gpu | Finding:
    """As `first_gpu`, of a loaded driver."""
    code, count = driver.start()
    if code == 100 or (code == 0 and count == 0):
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
        said = "no GPU is visible" + (
            f": CUDA_VISIBLE_DEVICES={hidden!r}" if hidden is not None else ""
        )
        return _finding("device", UNAVAILABLE, said)
    if code != 0:
        why = _CUDA_ERRORS.get(code, "see CUresult in CUDA's documentation")
        said = f"the driver does not start: error {code}, {why}"
        return _finding("device", FAIL, said, fix="nvidia-smi must work first", stops=True)
    return Gpu(driver.capability(0), driver.version())


def _device(gpu: Gpu) -> Finding:
    said = f"compute capability {_dotted(gpu.capability)}"
    if gpu.capability < _OLDEST_CAPABILITY:
        least = _dotted(_OLDEST_CAPABILITY)
        return _finding(
            "device",
            FAIL,
            f"{said}: Triton needs {least} or later",
            fix="use another GPU, or devices: [cpu]",
        )
    return _finding("device", OK, said)


def _driver(gpu: Gpu, built: str) -> Finding:
    """CUDA's rules of compatibility: a driver runs what was built with an older CUDA; within one
    major version, since 11, also what was built with a newer minor one, but PTX of it is refused
    (which only packages for a named arch hold)."""
    parts = built.split(".")
    wanted = int(parts[0]), int(parts[1]) if len(parts) > 1 else 0
    said = f"driver for CUDA {_dotted(gpu.driver)}, torch built with {built}"
    if gpu.driver >= wanted:
        return _finding("driver", OK, said)
    if gpu.driver[0] == wanted[0]:
        return _finding(
            "driver",
            WARN,
            f"{said}: runs by minor version compatibility",
            fix="a newer driver removes doubt",
        )
    fix = (
        f"install a driver for CUDA {wanted[0]}, or a torch that is built for CUDA {gpu.driver[0]}"
    )
    return _finding("driver", FAIL, f"{said}: the driver is too old", fix=fix, stops=True)


def _triton() -> Finding:
    version = distributions.version_of("triton") or distributions.version_of("pytorch-triton")
    if importlib.util.find_spec("triton") is None:
        said = "triton is not installed, and inductor writes GPU kernels in it"
        return _finding(
            "triton", FAIL, said, fix="pip install triton, in the version that this torch asks for"
        )
    return _finding("triton", OK, f"triton {version or 'of unknown version'}")


def _ptxas(gpu: Gpu) -> Finding:
    """The ptxas that builds give Triton must run and know the GPU."""
    capability = _dotted(gpu.capability)
    variable = (
        "TRITON_PTXAS_BLACKWELL_PATH" if cuda.is_blackwell(capability) else "TRITON_PTXAS_PATH"
    )
    path = cuda.ptxas(capability)
    if path is None:
        return _finding(
            "ptxas",
            WARN,
            "neither torch nor triton has one in its usual place",
            fix=f"let {variable} name one",
        )
    try:
        told = subprocess.run(
            [path, "--help"],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=60,
            check=True,
            stdin=subprocess.DEVNULL,
        ).stdout
    except (OSError, subprocess.SubprocessError) as error:
        fix = f"unset {variable}, or let it name a ptxas that runs"
        return _finding("ptxas", FAIL, f"{path} does not run", cause=str(error), fix=fix)
    name = f"sm_{gpu.capability[0]}{gpu.capability[1]}"
    if name not in told:
        fix = f"update torch and triton, or let {variable} name the ptxas of a newer CUDA toolkit"
        return _finding("ptxas", FAIL, f"{path} does not know {name}, this GPU", fix=fix)
    return _finding("ptxas", OK, f"{path} knows {name}")


def _launcher_compiler() -> Finding:
    """The C compiler that Triton's launcher is made with: $CC, else gcc, else clang; with
    Python.h."""
    command = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    words = command_words(command or "")
    fix = "install gcc, or let CC name a C compiler"
    if command is None or not words or shutil.which(words[0]) is None:
        return _finding(
            "C compiler", FAIL, f"Triton finds no C compiler ({command or 'gcc, clang'})", fix=fix
        )
    include = sysconfig.get_paths()["include"]
    printed = _compile_failure(
        [*words, "-fsyntax-only", f"-I{include}"], "probe.c", "#include <Python.h>\n"
    )
    if printed is None:
        return _finding("C compiler", OK, f"{command}, with Python.h")
    if "Python.h" in printed:
        said, fix = (
            f"there is no Python.h in {include}, which Triton's launcher includes",
            "install python3-dev",
        )
    else:
        said = f"{command} cannot compile C"
    return _finding("C compiler", FAIL, said, cause=gist(printed), fix=fix)


def check_headers() -> Finding:
    """CUDA's headers and libcuda, as the wrapper of a package is compiled and linked with them."""
    home = cuda_home()
    if home is None:
        said = (
            "torch finds no CUDA toolkit: CUDA_HOME is not set, nvcc not on the PATH, and no"
            " /usr/local/cuda"
        )
        return _finding("CUDA headers", FAIL, said, fix=_other_home(None), stops=True)
    printed = _uses(home)
    if printed is None:
        return _finding("CUDA headers", OK, f"{home}/include, libcuda")
    if "lcuda" in printed:
        said = "the linker finds no libcuda.so"
        fix = (
            "CUDA_HOME=... with lib64/stubs, or LIBRARY_PATH=... of a directory where libcuda.so"
            " links to libcuda.so.1"
        )
        if "CUDA_HOME" not in os.environ and (home / "lib64" / "stubs").is_dir():
            fix = f"CUDA_HOME={home}"  # torch adds its stubs only if the variable names it
        return _finding("CUDA headers", FAIL, said, cause=gist(printed), fix=fix, stops=True)
    said = f"the headers in {home}/include, where torch looks, will not do"
    return _finding(
        "CUDA headers", FAIL, said, cause=gist(printed), fix=_other_home(home), stops=True
    )


def _uses(home: Path) -> str | None:
    """None if a package's includes compile and link with the toolkit in `home`, else what the
    compiler said."""
    library = (
        home / "lib64" if (home / "lib64").exists() or not (home / "lib").exists() else home / "lib"
    )
    words = command_words(compiler_command())
    if not words or shutil.which(words[0]) is None:
        return None  # another check says so
    stubs = sorted(library.rglob("stubs")) if os.environ.get("CUDA_HOME") == str(home) else []
    includes = [f"-I{path}" for path in (home / "include", os.environ.get("CUDA_INC_PATH")) if path]
    # torch's own command looks into LIBDIR too, where a conda environment may have libcuda.
    places = (library, *stubs, sysconfig.get_config_var("LIBDIR"), _torch_libraries())
    libraries = [f"-L{path}" for path in places if path]
    flags = [f"-std={cpp_standard()}", "-fPIC", "-shared", "-DUSE_CUDA", *includes]
    text = (
        '#include <cuda.h>\n#include <cuda_runtime_api.h>\nextern "C" int aoti_build_probe() {'
        " return 0; }\n"
    )
    return _compile_failure([*words, *flags], "probe.cpp", text, *libraries, "-lcuda")


def _torch_libraries() -> Path | None:
    torch = installed_torch.torch_directory()
    return torch / "lib" if torch else None


def _other_home(home: Path | None) -> str:
    for other in _homes():
        if (
            other != home
            and (other / "include" / "cuda.h").is_file()
            and not _headers_missing(other)
        ):
            return f"CUDA_HOME={other}"
    version = installed_torch.torch_cuda()
    return f"install the CUDA toolkit {version} (its headers are enough) and let CUDA_HOME name it"


def _homes() -> Iterator[Path]:
    yield Path("/usr/local/cuda")
    yield from sorted(Path("/usr/local").glob("cuda-*"), reverse=True)
    yield Path("/opt/cuda")
    if torch := installed_torch.torch_directory():
        yield from sorted((torch.parent / "nvidia").glob("cu[0-9]*"), reverse=True)


def _headers_missing(home: Path) -> bool:
    printed = _uses(home)
    return printed is not None and "lcuda" not in printed


def _nvcc() -> Finding:
    """With fatbinary, which does in its place for targets with a named `arch`, where this torch can
    build those."""
    found = (
        shutil.which("nvcc") or "none; only CUTLASS kernels and targets for a named arch need it"
    )
    if not cuda.packages_for_other_gpus():
        return _finding("nvcc", OK, found)
    tool = cuda.fatbin_tool()
    said = (
        f"packages for a named arch are made with {tool}"
        if tool
        else "packages for other GPUs cannot be made"
    )
    return _finding("nvcc", OK, f"{found}; {said}")


def _memory() -> Finding:
    free = CudaDriver.load().free_memory()
    if free is None:
        return _finding("GPU memory", WARN, "the driver does not tell how much is free")
    said = f"{free / 2**30:.1f} GiB free"
    if free < _ENOUGH_MEMORY:
        return _finding(
            "GPU memory", WARN, said, fix="see with nvidia-smi what else runs on the GPU"
        )
    return _finding("GPU memory", OK, said)


def _compile_failure(words: list[str], name: str, text: str, *after: str) -> str | None:
    """None if a file of this name and text compiles, else what was said."""
    try:
        place = temporary_directory()
        with tempfile.TemporaryDirectory(dir=place, prefix="aoti_build-doctor-") as scratch:
            source = Path(scratch, name)
            source.write_text(text, encoding="utf-8")
            return failure_of([*words, str(source), "-o", str(source.with_suffix(".so")), *after])
    except (OSError, DirectoryError) as error:
        return str(error)


def _finding(check: str, outcome: str, said: str, **more: Any) -> Finding:
    return Finding(check, outcome, said, device="cuda", **more)


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
