"""The check of CUDA's headers and of libcuda, which the C++ wrapper of a package needs.

By torch's sources, 2.11 to 2.14, the wrapper includes cuda.h and cuda_runtime_api.h and is linked
with -lcuda. Both are found through CUDA_HOME; without it `torch.utils.cpp_extension` refuses.
"""

from __future__ import annotations

import os
import shutil
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from aoti_build.host import installed_torch
from aoti_build.host.checks.finding import FAIL, OK, Finding
from aoti_build.host.checks.inductor import command_words, cpp_standard, cuda_home
from aoti_build.host.checks.programs import compile_failure, gist
from aoti_build.host.programs import compiler_command

_HEADER_PROBE = """\
#include <cuda.h>
#include <cuda_runtime_api.h>
extern "C" int aoti_build_probe() { return 0; }
"""


def check_headers() -> Finding:
    """Whether the wrapper of a package compiles with CUDA's headers and links with libcuda."""
    home = cuda_home()
    if home is None:
        return _finding(
            FAIL,
            "torch finds no CUDA toolkit: CUDA_HOME is not set, nvcc not on the PATH, and no"
            " /usr/local/cuda",
            fix=_fix_with_other_home(None),
            stops=True,
        )
    output = _wrapper_failure(home)
    if output is None:
        return _finding(OK, f"{home}/include, libcuda")
    if _is_about_libcuda(output):
        message = "the linker finds no libcuda.so"
        fix = _fix_for_libcuda(home)
    else:
        message = f"the headers in {home}/include, which torch uses, cannot be compiled"
        fix = _fix_with_other_home(home)
    return _finding(FAIL, message, cause=gist(output), fix=fix, stops=True)


def _is_about_libcuda(output: str) -> bool:
    """Whether the headers compiled, and only the linker failed: for ``-lcuda``."""
    return "lcuda" in output


def _fix_for_libcuda(home: Path) -> str:
    # torch looks for the stubs only if the variable names the toolkit.
    if "CUDA_HOME" not in os.environ and (home / "lib64" / "stubs").is_dir():
        return f"CUDA_HOME={home}"
    return (
        "CUDA_HOME=... with lib64/stubs, or LIBRARY_PATH=... of a directory where libcuda.so"
        " links to libcuda.so.1"
    )


def _wrapper_failure(home: Path) -> str | None:
    """The compiler's output if a package's includes and libraries fail with the toolkit in `home`.

    Returns None if they compile and link, or if there is no compiler: another check reports that.
    """
    words = command_words(compiler_command())
    if not words or shutil.which(words[0]) is None:
        return None
    call = [*words, f"-std={cpp_standard()}", "-fPIC", "-shared", "-DUSE_CUDA"]
    call.append(f"-I{home / 'include'}")
    further_include = os.environ.get("CUDA_INC_PATH")
    if further_include:
        call.append(f"-I{further_include}")
    libraries = [f"-L{path}" for path in _library_directories(home)]
    return compile_failure(call, "probe.cpp", _HEADER_PROBE, *libraries, "-lcuda")


def _library_directories(home: Path) -> Iterator[Path | str]:
    """The directories in which torch's own command looks for libraries."""
    library = home / "lib64"
    if not library.exists() and (home / "lib").exists():
        library = home / "lib"
    yield library
    if os.environ.get("CUDA_HOME") == str(home):
        yield from sorted(library.rglob("stubs"))
    # A conda environment may have libcuda there.
    python_library = sysconfig.get_config_var("LIBDIR")
    if python_library:
        yield python_library
    torch = installed_torch.torch_directory()
    if torch is not None:
        yield torch / "lib"


def _fix_with_other_home(home: Path | None) -> str:
    """The remedy for headers that are missing or unfit in `home`: another toolkit, if any."""
    for candidate in _homes():
        if candidate == home or not (candidate / "include" / "cuda.h").is_file():
            continue
        output = _wrapper_failure(candidate)
        if output is None or _is_about_libcuda(output):
            return f"CUDA_HOME={candidate}"
    version = installed_torch.torch_cuda()
    return f"install the CUDA toolkit {version} (its headers are enough) and set CUDA_HOME to it"


def _homes() -> Iterator[Path]:
    """Directories that may hold a CUDA toolkit, the newest first."""
    yield Path("/usr/local/cuda")
    yield from sorted(Path("/usr/local").glob("cuda-*"), reverse=True)
    yield Path("/opt/cuda")
    torch = installed_torch.torch_directory()
    if torch is not None:
        # The nvidia wheels.
        yield from sorted((torch.parent / "nvidia").glob("cu[0-9]*"), reverse=True)


def _finding(
    outcome: str,
    message: str,
    *,
    cause: str | None = None,
    fix: str | None = None,
    stops: bool = False,
) -> Finding:
    return Finding("CUDA headers", outcome, message, "cuda", cause, fix, stops)
