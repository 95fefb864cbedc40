"""Where imports of a project's modules are satisfied, found without importing any of them.

The search begins in the directories of `python_path` in models.yaml and goes on in those of the
variable PYTHONPATH. After them come installed distributions (`distributions`). Two environments
with another text of PYTHONPATH are the same if every module that a model uses is found at the same
place.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from importlib.machinery import all_suffixes

from aoti_build.host import distributions


class ImportPath:
    """The directories that are searched for a project's modules, as they are now.

    A directory that holds distributions, such as one of ``pip install --target``, counts among
    those of installed distributions.

    Args:
        root: the root of the project, absolute.
        python_path: the directories of models.yaml, absolute.
        variables: environment variables. A relative entry of PYTHONPATH begins at the root, where
            workers run.
    """

    def __init__(self, root: str, python_path: Sequence[str], variables: Mapping[str, str]) -> None:
        self._root = root
        entries = list(python_path)
        variable = variables.get("PYTHONPATH", "")
        if variable:
            entries += [os.path.join(root, entry) for entry in variable.split(os.pathsep)]
        self._found: dict[str, str | None] = {}
        directories = dict.fromkeys(map(os.path.normpath, entries))
        self._content = {directory: _names_in(directory) for directory in directories}
        self._with_distributions = [
            directory
            for directory, names in self._content.items()
            if any(name.endswith(".dist-info") for name in names)
        ]
        for directory in self._with_distributions:
            del self._content[directory]

    @cached_property
    def installed(self) -> tuple[str, ...]:
        """The directories of installed distributions and all else on sys.path, in their order."""
        return tuple(dict.fromkeys((*self._with_distributions, *sys.path)))

    def module_parts(self, names: Iterable[str]) -> dict[str, str | None]:
        """Where the modules with these names are found, and those that shadow another one.

        The value is a path (relative to the root for what lies below it), ``installed``, or None if
        there is no such module. Python's own modules and installed ones need not be among `names`:
        they have an entry if a directory of the search path has a module of the same name.
        """
        parts = {}
        for name in sorted({*names, *self._shadowing}):
            # The models of a project use the same modules.
            if name not in self._found:
                self._found[name] = self._location(name) or distributions.installed_module(
                    name, path=self.installed
                )
            parts[name] = self._found[name]
        return parts

    def _location(self, name: str) -> str | None:
        """The path of a module; that of a package ends with a slash. None if it is not here."""
        top = name.partition(".")[0]
        relative = name.replace(".", "/")
        portion = None  # of a namespace, which any module of that name takes precedence over
        for directory, entries in self._content.items():
            if top not in entries and not any(top + suffix in entries for suffix in all_suffixes()):
                continue
            path = f"{directory}/{relative}"
            if _is_package(path):
                return self._shown(path) + "/"
            for suffix in all_suffixes():
                if os.path.isfile(path + suffix):
                    return self._shown(path + suffix)
            if portion is None and os.path.isdir(path):
                portion = self._shown(path) + "/"
        return portion

    @cached_property
    def _shadowing(self) -> set[str]:
        """Names of modules here that are also names of Python's own modules or installed ones."""
        others = distributions.installed_names(self.installed) | sys.stdlib_module_names
        names = set()
        for directory, entries in self._content.items():
            for entry in entries:
                name = entry.partition(".")[0]
                if name in others and (entry != name or _is_package(f"{directory}/{name}")):
                    names.add(name)
        return names

    def _shown(self, path: str) -> str:
        prefix = self._root.rstrip("/") + "/"
        return path.removeprefix(prefix)


def _names_in(directory: str) -> set[str]:
    """The names of what may be a module in a directory, or a distribution."""
    suffixes = (*all_suffixes(), ".dist-info")
    try:
        entries = os.listdir(directory)
    except OSError:
        return set()
    return {entry for entry in entries if entry.endswith(suffixes) or "." not in entry}


def _is_package(path: str) -> bool:
    return any(os.path.isfile(f"{path}/__init__{suffix}") for suffix in all_suffixes())
