"""What the installed torch asks of the C++ compiler and of programs beside it, read from its files:
torch is not imported, and its releases differ."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from functools import cache
from pathlib import Path

from aoti_build.host import installed_torch

_OLDEST_STANDARD = "c++17"  # torch 2.11's


@cache
def cpp_standard() -> str:
    """``c++20``: the default of inductor's `_get_cpp_std_cflag`, from cpp_builder.py."""
    found = re.search(
        r"def _get_cpp_std_cflag\(std_num: str = \"(c\+\+\w+)\"", _source("cpp_builder.py")
    )
    return found[1] if found else _OLDEST_STANDARD


def calls_openssl() -> bool:
    """Whether AOTInductor's precompiled headers are named by a digest that the program `openssl`
    makes."""
    return '"openssl", "sha512"' in _source("codecache.py")


def include_directories() -> tuple[Path, ...]:
    """Where inductor's own compile commands look for torch's headers."""
    directory = installed_torch.torch_directory()
    if directory is None:
        return ()
    return directory / "include", directory / "include" / "torch" / "csrc" / "api" / "include"


def command_words(command: str) -> list[str]:
    """The words of a compiler's command; none if it is no command."""
    try:
        return shlex.split(command)
    except ValueError:
        return []


def cuda_home() -> Path | None:
    """The CUDA toolkit as torch.utils.cpp_extension looks for it: the variables, nvcc's
    grandparent, /usr/local/cuda.

    AOTInductor takes headers from there and from nowhere else, not from the nvidia wheels.
    """
    if given := os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH"):
        return Path(given)
    if nvcc := shutil.which("nvcc"):
        return Path(nvcc).parent.parent
    usual = Path("/usr/local/cuda")
    return usual if usual.exists() else None


@cache
def _source(name: str) -> str:
    directory = installed_torch.torch_directory()
    if directory is None:
        return ""
    try:
        return (directory / "_inductor" / name).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
