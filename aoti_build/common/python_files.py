"""Finds the Python files of a project."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

_SKIPPED_DIRECTORIES = frozenset({"__pycache__", "node_modules"})


def python_files(root: Path, is_skipped: Callable[[Path], object]) -> Iterator[Path]:
    """The Python files below `root`, in a fixed order.

    Hidden directories and virtual environments are left out, and whatever file or directory
    `is_skipped` is true for.
    """
    for folder, directories, files in os.walk(root):
        if "pyvenv.cfg" in files:
            directories.clear()
            continue
        kept = []
        for name in sorted(directories):
            is_hidden = name.startswith(".") or name in _SKIPPED_DIRECTORIES
            if not is_hidden and not is_skipped(Path(folder, name)):
                kept.append(name)
        directories[:] = kept
        for name in sorted(files):
            path = Path(folder, name)
            if name.endswith(".py") and not is_skipped(path):
                yield path
