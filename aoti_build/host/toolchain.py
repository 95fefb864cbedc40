"""Facts about the machine and the installed tools that change what a compile produces, found
without importing torch.

Every fact is a string under a name that a person can act on ("torch", "cxx.version"); together they
are the `toolchain` and `environment` parts of a source key. Bump `FACTS_VERSION` when the meaning
of a fact or the list changes.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from aoti_build.errors import ToolchainError
from aoti_build.host import distributions

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

# Instruction set extensions that gcc's -march=native may use; other words in /proc/cpuinfo do not
# change code.
_X86_FEATURES = frozenset({
    "adx", "aes", "amx_bf16", "amx_complex", "amx_fp16", "amx_int8", "amx_tile", "apx_f", "avx",
    "avx2", "avx512_4fmaps", "avx512_4vnniw", "avx512_bf16", "avx512_bitalg", "avx512_fp16",
    "avx512_ifma", "avx512_vbmi2", "avx512_vnni", "avx512_vp2intersect", "avx512_vpopcntdq",
    "avx512bw", "avx512cd", "avx512dq", "avx512er", "avx512f", "avx512ifma", "avx512pf",
    "avx512vbmi", "avx512vl", "avx_ifma", "avx_ne_convert", "avx_vnni", "avx_vnni_int8",
    "avx_vnni_int16", "avx10", "bmi1", "bmi2", "abm", "clwb", "clzero", "cldemote", "clflushopt",
    "cx16", "enqcmd", "f16c", "fma", "fma4", "fsgsbase", "fxsr", "gfni", "hle", "kl", "lahf_lm",
    "movbe", "movdir64b", "movdiri", "mwaitx", "pclmulqdq", "pku", "pni", "popcnt", "prefetchwt1",
    "ptwrite", "rdpid", "rdrand", "rdseed", "rtm", "serialize", "sha512", "sha_ni", "sm3", "sm4",
    "sse", "sse2", "sse4_1", "sse4_2", "sse4a", "ssse3", "tbm", "uintr", "vaes", "vpclmulqdq",
    "waitpkg", "wbnoinvd", "xop", "xsave", "xsavec", "xsaveopt", "xsaves",
})  # fmt: skip
# x86-64-v3 and the AVX-512 level inductor asks for, by /proc/cpuinfo's names (psABI x86-64
# microarchitecture levels).
_V3 = frozenset({
    "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "cx16", "lahf_lm", "popcnt",
    "pni", "sse4_1", "sse4_2", "ssse3", "sse", "sse2", "fxsr",
})  # fmt: skip
_V4 = _V3 | frozenset(["avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"])
ISA_FEATURES: Mapping[str, frozenset[str]] = {"avx2": _V3, "avx512": _V4}


def facts(device: str) -> dict[str, str]:
    """The toolchain facts that a target on `device` ("cpu" or "cuda") depends on."""
    found = {
        "python": ".".join(map(str, sys.version_info[:2])),
        "platform": sys.platform,
        "machine": os.uname().machine,
        **{
            name: version
            for name in CODEGEN_DISTRIBUTIONS
            if (version := distributions.version_of(name))
        },
        **_torch_build(),
        **_compiler(),
        "cpu.count": str(
            len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        ),
    }
    if "torch" not in found:
        raise ToolchainError(
            "torch is not installed here", hint="pip install torch torchvision, then run again"
        )
    if device == "cuda":
        capability = next(iter(compute_capabilities()), "")
        found["cuda.compute_capability"] = capability
        found["ptxas"] = _tool_version(shlex.quote(ptxas(capability) or "ptxas"))
    return found


def environment(variables: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment variables that can change generated code, by name."""
    variables = os.environ if variables is None else variables
    return {
        name: value
        for name, value in sorted(variables.items())
        if (name in ENVIRONMENT_NAMES or name.startswith(ENVIRONMENT_PREFIXES))
        and name not in ENVIRONMENT_IGNORED
    }


@cache
def cpu_features() -> tuple[str, ...]:
    """This processor's instruction set extensions, in /proc/cpuinfo's words, sorted. Empty where
    Linux does not tell."""
    try:
        text = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        return ()
    for line in text.splitlines():
        name, _, words = line.partition(":")
        if name.strip() == "flags":
            return tuple(sorted(_X86_FEATURES.intersection(words.split())))
        if name.strip() == "Features":  # aarch64: every word is an extension
            return tuple(sorted(words.split()))
    return ()


@cache
def compute_capabilities() -> tuple[str, ...]:
    """The compute capability ("9.0") of each visible CUDA device, asked of the driver; empty where
    there is none."""
    if not _torch_build().get("torch.cuda"):
        return ()
    import ctypes

    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return ()
    count = ctypes.c_int()
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return ()
    return tuple(_compute_capability(driver, index) for index in range(count.value))


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
        other = os.environ.get("TRITON_PTXAS_BLACKWELL_PATH") or _bundled(
            "triton", "ptxas-blackwell"
        )
        if other is not None:
            return other
    return (
        os.environ.get("TRITON_PTXAS_PATH")
        or _bundled("torch", "ptxas")
        or _bundled("triton", "ptxas")
    )


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
    return _tool_version(shlex.quote(fatbin_tool() or "fatbinary"))


def is_blackwell(capability: str) -> bool:
    """Whether Triton treats a GPU of this compute capability ("10.0") as Blackwell or later."""
    return int(capability.partition(".")[0] or 0) >= 10


def _bundled(package: str, name: str) -> str | None:
    """The program `name` in a package's wheel, if it is there and may be executed."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return None
    directory = {"torch": "bin", "triton": "backends/nvidia/bin"}[package]
    path = Path(spec.origin).parent / directory / name
    return str(path) if os.access(path, os.X_OK) else None


def has_device(device: str) -> bool:
    return device == "cpu" or bool(compute_capabilities())


def _compute_capability(driver: Any, index: int) -> str:
    import ctypes

    handle, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    driver.cuDeviceGet(ctypes.byref(handle), index)
    driver.cuDeviceGetAttribute(
        ctypes.byref(major), 75, handle
    )  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR
    driver.cuDeviceGetAttribute(ctypes.byref(minor), 76, handle)  # ..._MINOR
    return f"{major.value}.{minor.value}"


def torch_cuda() -> str | None:
    """The CUDA version that torch was built with ("13.0"); None for a build without."""
    return _torch_build().get("torch.cuda")


@cache
def torch_directory() -> Path | None:
    """Where torch is installed, if it is."""
    spec = importlib.util.find_spec("torch")  # a top-level package: found, not imported
    return Path(spec.origin).parent if spec is not None and spec.origin is not None else None


@cache
def _torch_build() -> dict[str, str]:
    """What torch/version.py says of the build, read as text: two builds of one version differ in
    CUDA and commit."""
    directory = torch_directory()
    if directory is None:
        return {}
    wanted = {
        "__version__": "torch.build",
        "git_version": "torch.git",
        "cuda": "torch.cuda",
        "hip": "torch.hip",
    }
    try:
        tree = ast.parse((directory / "version.py").read_text(encoding="utf-8"))
    except (OSError, SyntaxError):
        return {}
    found = {}
    for statement in tree.body:
        if isinstance(statement, ast.Assign):
            target, value = statement.targets[0], statement.value
        elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
            target, value = statement.target, statement.value
        else:
            continue
        if (
            isinstance(target, ast.Name)
            and target.id in wanted
            and isinstance(value, ast.Constant)
            and value.value
        ):
            found[wanted[target.id]] = str(value.value)
    return found


def _compiler() -> dict[str, str]:
    """The C++ compiler inductor will call (its cpp.cxx: $CXX, else the platform's)."""
    command = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    return {"cxx": command, "cxx.version": _tool_version(command)}


@cache
def _tool_version(command: str) -> str:
    """The part of ``command --version`` that names the release: every line, joined; "absent" if it
    cannot run."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        return f"unusable: {error}"
    if not words or shutil.which(words[0]) is None:
        return "absent"
    try:
        answer = subprocess.run(
            [*words, "--version"],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=30,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"unusable: {error}"
    lines = [line.strip() for line in answer.stdout.splitlines() if line.strip()]
    return (
        " | ".join(lines[:1] if "g++" in command or "clang" in command else lines)
        or f"exit {answer.returncode}"
    )
