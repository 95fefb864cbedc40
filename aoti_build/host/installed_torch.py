"""The installed torch, found without importing it."""

from __future__ import annotations

import ast
import importlib.util
import os
from functools import cache
from pathlib import Path


@cache
def torch_directory() -> Path | None:
    """Where torch is installed, if it is."""
    spec = importlib.util.find_spec("torch")  # a top-level package: found, not imported
    return Path(spec.origin).parent if spec is not None and spec.origin is not None else None


def torch_cuda() -> str | None:
    """The CUDA version that torch was built with ("13.0"); None for a build without."""
    return torch_build().get("torch.cuda")


@cache
def torch_build() -> dict[str, str]:
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


def bundled_program(package: str, name: str) -> str | None:
    """The program `name` in a package's wheel, if it is there and may be executed."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return None
    directory = {"torch": "bin", "triton": "backends/nvidia/bin"}[package]
    path = Path(spec.origin).parent / directory / name
    return str(path) if os.access(path, os.X_OK) else None
