"""Modules that this process has loaded, and the distributions that modules belong to."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from aoti_build._torch.discovery.paths import RealPaths


class ModuleFile(NamedTuple):
    """A loaded module, with the real path of its file."""

    name: str
    path: str


def top_level(module: str) -> str:
    return module.partition(".")[0]


def module_files(real_paths: RealPaths) -> list[ModuleFile]:
    """The loaded modules that have a file."""
    files = []
    for name, module in list(sys.modules.items()):
        path = getattr(module, "__file__", None)
        if isinstance(path, str) and os.path.isfile(path):
            real_path = real_paths.resolve(path)
            files.append(ModuleFile(name, real_path))
    return files


def names_without_files() -> set[str]:
    """Relative names of modules and entries of sys.path, as absolute paths that no file has.

    Code tests whether they exist. torch.ops names "_ops.py" as its file, and `inspect` looks for
    that. The finder of an editable install has an entry of its own on sys.path.
    """
    names: list[Any] = list(sys.path)
    for module in list(sys.modules.values()):
        names.append(getattr(module, "__file__", None))
    paths = set()
    for name in names:
        if not name or not isinstance(name, str):
            continue
        if os.path.isabs(name):
            continue
        try:
            paths.add(os.path.abspath(name))
        except OSError:
            # The current directory was removed.
            return set()
    return paths


def missing_modules(searched: Iterable[str]) -> set[str]:
    """Those of the `searched` modules that are not loaded.

    Parts of a loaded package are left out, because its distribution has them. Parts of a namespace
    are not: several distributions fill it.
    """
    missing = set()
    for name in searched:
        top = top_level(name)
        package = sys.modules.get(top)
        if name == top:
            is_missing = package is None
        else:
            # A namespace has no file, and neither has a package that is missing itself.
            package_file = getattr(package, "__file__", None)
            is_missing = package_file is None and name not in sys.modules
        if is_missing:
            missing.add(name)
    return missing


class ModuleOwners:
    """The distributions in `directories` by their top-level modules.

    importlib.metadata.packages_distributions gives the same in 0.4 s. Where a distribution lists
    its top-level modules, this class does not read its record of files, which for torch has 20,000
    lines.
    """

    def __init__(self, directories: Iterable[str]) -> None:
        self._owners: dict[str, set[str]] = {}
        for directory in directories:
            for metadata in Path(directory).glob("*.dist-info"):
                for module in _top_level_modules(metadata):
                    owners = self._owners.setdefault(module, set())
                    owners.add(distribution_name(metadata.name))

    def of_module(self, module: str) -> set[str]:
        return self._owners.get(top_level(module), set())


def distribution_name(metadata_directory: str) -> str:
    """The name in that of a directory such as ``torch-2.8.0.dist-info``."""
    name_and_version = metadata_directory.removesuffix(".dist-info")
    return name_and_version.rpartition("-")[0]


def _top_level_modules(metadata: Path) -> set[str]:
    listing = metadata / "top_level.txt"
    if listing.is_file():
        text = listing.read_text(errors="replace")
        return set(text.split())
    record = metadata / "RECORD"
    if not record.is_file():
        return set()
    modules = set()
    text = record.read_text(errors="replace")
    for line in text.splitlines():
        path = line.partition(",")[0]
        first_part = path.partition("/")[0]
        modules.add(top_level(first_part))
    return modules
