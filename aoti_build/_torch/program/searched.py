"""Says where a module was searched for in vain, and which key of models.yaml makes it be found."""

from __future__ import annotations

import os
import site
import sys
import sysconfig
from pathlib import Path

# How many directories above the root are looked into.
_LEVELS = 3
_MOST_ENTRIES = 200


def missing_module_hint(error: BaseException, root: Path) -> str | None:
    """What to do about a module that an import did not find; None for any other error."""
    if not isinstance(error, ModuleNotFoundError) or not error.name:
        return None
    top = error.name.partition(".")[0]
    if top in sys.modules:
        return None  # the package is there and lacks a part
    lines = [f"searched: {', '.join(_searched())}, and the installed packages"]
    directory = _directory_with(top, root)
    if directory is None:
        lines.append(
            "install the package, or name the directory that contains it: `python_path: [src]` in"
            " models.yaml"
        )
    elif directory.is_relative_to(root):
        entry = directory.relative_to(root).as_posix()
        lines.append(f"it is below {entry}/: set `python_path: [{entry}]` in models.yaml")
    else:
        lines.append(
            f"it is in {directory}, outside of the root {root}: let `root:` in models.yaml name a"
            " directory that contains both, and `python_path:` the directory of the module"
        )
    return "\n".join(lines)


def _searched() -> list[str]:
    """The entries of sys.path that hold neither installed packages nor the standard library."""
    others = {*site.getsitepackages(), site.getusersitepackages(), sys.prefix}
    library = sysconfig.get_path("stdlib")
    searched = []
    for entry in sys.path:
        is_library = entry.startswith(library) or entry.endswith(".zip")
        if entry and entry not in others and not is_library and os.path.isabs(entry):
            searched.append(entry)
    return searched


def _directory_with(module: str, root: Path) -> Path | None:
    """The nearest directory that contains a module: below the root, or in one of its parents."""
    parents = list(root.parents)[:_LEVELS]
    for start in (root, *parents):
        for directory in (start, start / "src", *_subdirectories(start)):
            if _contains(directory, module):
                return directory
        # Above a checkout there is nothing of the project.
        if (start / ".git").exists():
            return None
    return None


def _subdirectories(directory: Path) -> list[Path]:
    try:
        names = sorted(os.listdir(directory))[:_MOST_ENTRIES]
    except OSError:
        return []
    paths = [directory / name for name in names if not name.startswith((".", "_"))]
    return [path for path in paths if path.is_dir() and not (path / "pyvenv.cfg").exists()]


def _contains(directory: Path, module: str) -> bool:
    return (directory / f"{module}.py").is_file() or (directory / module / "__init__.py").is_file()
