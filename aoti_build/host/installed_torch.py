"""The installed torch, read from its files without importing it."""

from __future__ import annotations

import ast
import importlib.util
import os
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

# Names in torch/version.py -> names of the facts.
_BUILD_FACTS: Mapping[str, str] = {
    "__version__": "torch.build",
    "git_version": "torch.git",
    "cuda": "torch.cuda",
    "hip": "torch.hip",
}
# Where the wheels have their programs.
_PROGRAM_DIRECTORIES: Mapping[str, str] = {
    "torch": "bin",
    "triton": "backends/nvidia/bin",
}


@cache
def torch_directory() -> Path | None:
    """The directory of the package torch, or None if it is not installed."""
    # find_spec does not import a top-level package.
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent


def torch_cuda() -> str | None:
    """The CUDA version that torch was built with ("13.0"), or None for a build without CUDA."""
    return torch_build().get("torch.cuda")


@cache
def torch_build() -> dict[str, str]:
    """Facts about the build of torch, from the text of torch/version.py.

    Two builds of one version can differ in CUDA and commit.
    """
    directory = torch_directory()
    if directory is None:
        return {}
    try:
        tree = ast.parse((directory / "version.py").read_text(encoding="utf-8"))
    except (OSError, SyntaxError):
        return {}
    facts = {}
    for name, value in _constants(tree):
        if name in _BUILD_FACTS and value:
            facts[_BUILD_FACTS[name]] = str(value)
    return facts


def _constants(tree: ast.Module) -> Iterator[tuple[str, object]]:
    """The names and values of assignments of constants: ``a = 1`` and ``a: int = 1``."""
    for statement in tree.body:
        if isinstance(statement, ast.Assign):
            target = statement.targets[0]
        elif isinstance(statement, ast.AnnAssign):
            target = statement.target
        else:
            continue
        if isinstance(target, ast.Name) and isinstance(statement.value, ast.Constant):
            yield target.id, statement.value.value


def bundled_program(package: str, name: str) -> str | None:
    """The path of a program in the wheel of torch or triton, or None if it cannot be executed."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / _PROGRAM_DIRECTORIES[package] / name
    return str(path) if os.access(path, os.X_OK) else None
