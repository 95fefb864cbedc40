"""Tells where a path lies: in the project, in the system, among installed distributions."""

from __future__ import annotations

import os
import site
import sys
import sysconfig
import tempfile
from collections.abc import Iterable
from pathlib import Path

_THIS_PACKAGE = Path(__file__).resolve().parents[2]
# Libraries and settings of the system. Not /usr/local, /var or /opt, where models are kept too.
_SYSTEM = (
    "/bin",
    "/dev",
    "/etc",
    "/lib",
    "/lib64",
    "/proc",
    "/run",
    "/sbin",
    "/sys",
    "/usr/bin",
    "/usr/include",
    "/usr/lib",
    "/usr/lib64",
    "/usr/libexec",
    "/usr/sbin",
    "/usr/share/locale",
    "/usr/share/zoneinfo",
)
# Users keep data in these directories of the system. Nothing is written here.
_DATA = (
    "/dev/shm/",  # noqa: S108
    "/run/media/",
    "/run/user/",
)
# Directories of tools. A walk over the project passes them and does not depend on them.
_TOOLS = frozenset(
    {
        ".git",
        ".hg",
        ".hypothesis",
        ".idea",
        ".ipynb_checkpoints",
        ".mypy_cache",
        ".nox",
        ".pytest_cache",
        ".ruff_cache",
        ".svn",
        ".tox",
        ".venv",
        ".vscode",
        "__pycache__",
    }
)


class Locations:
    """The directories around the project below `root`, as they are when this is created.

    `ignored` are directories whose files are no inputs.

    Attributes:
        roots: the real and the given name of the project's directory, with a separator at the end.
        site_directories: real paths of the directories that hold installed distributions.
    """

    def __init__(self, root: Path, ignored: Iterable[Path]) -> None:
        self.site_directories = _site_directories()
        self._site_prefixes = tuple(map(_with_separator, self.site_directories))
        real_root = _with_separator(os.path.realpath(root))
        self.roots = (real_root, str(root) + os.sep)
        temporary = os.path.realpath(tempfile.gettempdir())
        self._temporary = (_with_separator(temporary), *_DATA)
        self._outside: tuple[str, ...] = ()
        directories: tuple[str | Path, ...] = (
            *self.site_directories,
            *_standard_library_paths(),
            _THIS_PACKAGE,
            *_SYSTEM,
            *ignored,
        )
        for directory in directories:
            prefix = _with_separator(os.path.realpath(directory))
            # A project may itself lie in a directory of the system.
            if not real_root.startswith(prefix):
                self._outside += (prefix,)

    def is_project(self, path: str) -> bool:
        """Whether a real path may be the project's: neither installed nor the system's.

        A directory needs a separator at its end.
        """
        if path.startswith(_DATA):
            return True
        return not path.startswith(self._outside)

    def is_project_directory(self, path: str) -> bool:
        return self.is_project(_with_separator(path))

    def is_below_root(self, path: str) -> bool:
        return path.startswith(self.roots)

    def contains_root(self, directory: str) -> bool:
        """Whether the project lies in `directory`, or is that directory."""
        real_root = self.roots[0]
        # The root directory of the system ends with a separator already.
        prefix = os.path.join(os.path.realpath(directory), "")
        return real_root.startswith(prefix)

    def is_temporary(self, path: str) -> bool:
        """Whether programs make temporary files where `path` lies."""
        if self.is_below_root(path):
            return False
        return path.startswith(self._temporary)

    def is_in_tool_directory(self, path: str) -> bool:
        """Whether `path` is a tool's directory in the project, or lies in one."""
        if not self.is_below_root(_with_separator(path)):
            return False
        parts = self.name_of(path).split("/")
        return not _TOOLS.isdisjoint(parts)

    def is_in_site_directory(self, path: str) -> bool:
        return path.startswith(self._site_prefixes)

    def site_entries(self, path: str) -> list[str]:
        """The first part of `path` below each directory of installed distributions around it."""
        entries = []
        for prefix in self._site_prefixes:
            if path.startswith(prefix):
                name = path.removeprefix(prefix)
                entries.append(name.partition(os.sep)[0])
        return entries

    def name_of(self, path: str) -> str:
        """`path` relative to the root with POSIX slashes; unchanged if it lies elsewhere."""
        for root in self.roots:
            if _with_separator(path).startswith(root):
                name = path[len(root) :]
                return Path(name).as_posix()
        return path


def is_tool_directory(name: str) -> bool:
    return name in _TOOLS


def _with_separator(path: str) -> str:
    return path + os.sep


def _site_directories() -> set[str]:
    """Directories of installed distributions: those of `site`, and entries of sys.path that hold
    some."""
    directories = {
        *site.getsitepackages(),
        site.getusersitepackages(),
        sysconfig.get_path("purelib"),
        sysconfig.get_path("platlib"),
    }
    for entry in sys.path:
        # The empty entry stands for the current directory.
        if entry and _holds_distributions(entry):
            directories.add(entry)
    return set(map(os.path.realpath, directories))


def _holds_distributions(directory: str) -> bool:
    if not os.path.isdir(directory):
        return False
    return any(Path(directory).glob("*.dist-info"))


def _standard_library_paths() -> set[str]:
    paths = {
        sysconfig.get_path("stdlib"),
        sysconfig.get_path("platstdlib"),
    }
    # An archive of the library is on sys.path, whether it exists or not.
    version = sys.version_info
    archive = f"python{version.major}{version.minor}.zip"
    for prefix in (sys.base_prefix, sys.prefix):
        paths.add(os.path.join(prefix, sys.platlibdir, archive))
    return paths
