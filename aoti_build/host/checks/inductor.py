"""Needs of the installed torch: the C++ compiler's options and further programs.

They are read from torch's files, since its releases differ. Torch is not imported.
"""

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
    default = re.search(
        r"def _get_cpp_std_cflag\(std_num: str = \"(c\+\+\w+)\"",
        _source("cpp_builder.py"),
    )
    return default[1] if default else _OLDEST_STANDARD


def calls_openssl() -> bool:
    """Whether inductor calls the program `openssl`, for digests that name precompiled headers."""
    return '"openssl", "sha512"' in _source("codecache.py")


def include_directories() -> tuple[Path, ...]:
    """The directories of torch's headers in inductor's own compile commands."""
    directory = installed_torch.torch_directory()
    if directory is None:
        return ()
    include = directory / "include"
    return include, include / "torch" / "csrc" / "api" / "include"


def command_words(command: str) -> list[str]:
    """The words of a compiler's command; none if the quotes do not match."""
    try:
        return shlex.split(command)
    except ValueError:
        return []


def cuda_home() -> Path | None:
    """The CUDA toolkit, found as torch.utils.cpp_extension finds it, or None.

    AOTInductor takes headers only from there, and not from the nvidia wheels.
    """
    variable = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    if variable:
        return Path(variable)
    nvcc = shutil.which("nvcc")
    if nvcc:
        return Path(nvcc).parent.parent
    default = Path("/usr/local/cuda")
    return default if default.exists() else None


@cache
def _source(name: str) -> str:
    """The text of a file of inductor; empty if it cannot be read."""
    directory = installed_torch.torch_directory()
    if directory is None:
        return ""
    file = directory / "_inductor" / name
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
