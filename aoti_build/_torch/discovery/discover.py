"""Decides which files, distributions, modules and variables an export used, so that the next plan
sees a change in any of them.

Files are those of imported modules outside site-packages, the standard library and this package,
and all others that the recorder saw being read. Other inputs of the file system are:

- a name that was searched for in vain, without a digest;
- a directory that was listed, under its name with a slash at the end;
- a link that was resolved, under its name with `LINK` at the end.

Files that this process wrote, such as downloads and caches, cannot have been edited during the
build. Files of system directories are no inputs.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from aoti_build._torch.discovery.audit_events import record_audit_events
from aoti_build._torch.discovery.loaded import (
    ModuleFile,
    ModuleOwners,
    distribution_name,
    missing_modules,
    module_files,
    names_without_files,
    top_level,
)
from aoti_build._torch.discovery.locations import Locations, is_tool_directory
from aoti_build._torch.discovery.patches import install_patches
from aoti_build._torch.discovery.paths import FileState, RealPaths, State, file_state
from aoti_build._torch.discovery.recorder import AccessRecorder
from aoti_build._torch.started import ENVIRONMENT
from aoti_build.artifact.fingerprint import variable_parts
from aoti_build.common.digests import (
    DIRECTORY,
    LINK,
    digest_bytes,
    digest_file,
    digest_names,
    is_listed,
    names_in,
)
from aoti_build.errors import EditedMeanwhile
from aoti_build.host import distributions as installed
from aoti_build.host.import_path import ImportPath

# The kernel's clock for file times moves in steps of up to 10 ms; this is twice as much.
_CLOCK_STEP_NS = 20_000_000


@dataclass
class Discovery:
    """Records from its creation on, until this process ends.

    Attributes:
        root: the directory of the project.
        declared: files that models.yaml names as sources, relative to `root`.
        python_path: the absolute directories that modules are imported from first.
        ignored: directories whose files are no inputs.
        environment: variables that the worker got another value for, with their values in the
            environment of the build (None: not set).
        skew_ns: how far the clock of the file system is ahead of this process', in nanoseconds.
    """

    root: Path
    declared: tuple[str, ...] = ()
    python_path: tuple[str, ...] = ()
    ignored: tuple[Path, ...] = ()
    environment: Mapping[str, str | None] = field(default_factory=dict)
    skew_ns: int = 0

    def __post_init__(self) -> None:
        self._loaded_before = set(sys.modules)
        # User code may change sys.path.
        self._import_path = ImportPath(str(self.root), self.python_path, ENVIRONMENT)
        self._path = self._import_path.installed
        self._started_ns = time.time_ns() + self.skew_ns
        self._locations = Locations(self.root, self.ignored)
        self._real_paths = RealPaths()
        is_project = self._locations.is_project
        self._recorder = AccessRecorder(is_project, self._locations.roots)
        record_audit_events(self._recorder)
        install_patches(self._recorder, is_project)
        for name in self.declared:
            self._recorder.note_opened(self.root / name)

    def note_kwargs(self, value: Any) -> None:
        """Note the files and directories that a `value` among the factory's arguments names.

        They are inputs even if native code reads them, and so is all that lies in the directories.
        """
        if isinstance(value, Mapping):
            for item in value.values():
                self.note_kwargs(item)
        elif isinstance(value, list | tuple):
            for item in value:
                self.note_kwargs(item)
        elif isinstance(value, str) and value:
            path = os.path.join(self.root, value)
            self._note_argument(path)

    def sources(self) -> dict[str, str | None]:
        """Digests of the files that were used, by path: None for an absent one.

        A path below the root is relative to it and has POSIX slashes.

        Raises:
            EditedMeanwhile: a file differs from its state at the first access, or changed so
                shortly before that access that a later change need not show.
        """
        self._real_paths = RealPaths()
        sources: dict[str, str | None] = {}
        sources.update(self._listings())
        sources.update(self._links())
        sources.update(self._files())
        # The names in models.yaml may be those of symbolic links.
        for name in self.declared:
            sources[name] = digest_file(self.root / name)
        return sources

    def distributions(self) -> dict[str, str | None]:
        """The identities of the distributions that were used, by name."""
        names = set(self._recorder.distributions)
        # A missing module may be installed and fail to import, or was only searched for.
        modules = self._missing_modules()
        for module in module_files(self._real_paths):
            if self._locations.is_in_site_directory(module.path):
                modules.add(module.name)
        for name in modules:
            names |= self._owners.of_module(name)
        # Project code may also read data files of a distribution.
        for path in tuple(self._recorder.requested):
            for entry in self._locations.site_entries(path):
                names |= self._owners_of_entry(entry)
        identities = {}
        for name in sorted(names):
            identities[name] = installed.identity(name, path=self._path)
        return identities

    def modules(self) -> dict[str, str | None]:
        """Where the project's top-level modules are found, and those that were searched for and are
        not loaded, by name.

        The next plan thus sees that an optional dependency was installed or removed, and that the
        search finds another module of the same name.
        """
        names = self._missing_modules()
        for module in module_files(self._real_paths):
            if self._is_input(module.path) and not module.name.startswith("__"):
                names.add(top_level(module.name))
        return self._import_path.module_parts(names)

    def variables(self) -> dict[str, str | None]:
        """Digests of the environment variables that project code read, by name.

        Their values are those in the environment of the build.
        """
        environment = dict(ENVIRONMENT)
        for name, value in self.environment.items():
            if value is None:
                environment.pop(name, None)
            else:
                environment[name] = value
        return variable_parts(tuple(self._recorder.variables), environment)

    def _note_argument(self, path: str) -> None:
        if os.path.isfile(path):
            self._recorder.note_opened(path)
        elif os.path.isdir(path):
            self._note_tree(path)

    def _note_tree(self, top: str) -> None:
        if self._locations.contains_root(top):
            return
        for directory, subdirectories, files in os.walk(top):
            for name in list(subdirectories):
                if not self._is_walked(directory, name):
                    # os.walk does not enter it then.
                    subdirectories.remove(name)
            self._recorder.note_listed(directory, always=True)
            for name in files:
                path = os.path.join(directory, name)
                self._recorder.note_opened(path)

    def _is_walked(self, parent: str, name: str) -> bool:
        path = os.path.join(parent, name)
        real_path = os.path.realpath(path)
        if not self._locations.is_project_directory(real_path):
            return False
        return not is_tool_directory(name)

    def _files(self) -> dict[str, str | None]:
        """Digests of the files that were read, tested or searched for."""
        without_files = names_without_files()
        modules = self._module_paths()
        paths = set(modules)
        # A copy, because other threads may still add to the states.
        for path in tuple(self._recorder.states):
            if self._is_input(path):
                paths.add(path)
        files: dict[str, str | None] = {}
        for path in sorted(paths):
            is_written = self._is_written(path)
            is_read = path in modules or path in self._recorder.opened
            if is_written and not is_read:
                continue  # Such as a log, or a cache that is only filled.
            if self._locations.is_temporary(path) and self._is_new(path):
                continue  # Made by this process or by a child process, such as a compiler.
            state = file_state(path)
            name = self._locations.name_of(path)
            if not is_written and self._has_changed(path, state):
                raise EditedMeanwhile(name)
            if state is None and path in without_files:
                continue
            files[name] = DIRECTORY if state == DIRECTORY else _digest(path)
        return files

    def _module_paths(self) -> set[str]:
        """Files of project modules, and of modules that were put by hand among installed ones."""
        paths = set()
        for module in module_files(self._real_paths):
            if self._is_input(module.path) or self._has_no_owner(module):
                paths.add(module.path)
        return paths

    def _has_no_owner(self, module: ModuleFile) -> bool:
        """Whether a module among installed ones belongs to no distribution."""
        if module.name in self._loaded_before:
            return False
        if not self._locations.is_in_site_directory(module.path):
            return False
        return not self._owners.of_module(module.name)

    def _is_input(self, path: str) -> bool:
        real_path = self._real_paths.resolve(path)
        if not self._locations.is_project(real_path):
            return False
        # Code without a file is named in angle brackets, such as <string>.
        if "<" in path or f"{os.sep}__pycache__{os.sep}" in path:
            return False
        state = self._recorder.states.get(path)
        is_requested = path in self._recorder.requested
        if state == DIRECTORY and not is_requested:
            return False  # On the way to something else.
        is_opened = path in self._recorder.opened
        if not is_opened and self._locations.is_in_tool_directory(path):
            return False
        if state is not None or is_requested:
            return True
        return self._locations.is_below_root(path)

    def _is_written(self, path: str) -> bool:
        """Whether this process made or changed `path`."""
        written = self._recorder.written
        return path in written or self._real_paths.resolve(path) in written

    def _is_new(self, path: str) -> bool:
        """Whether nothing had the name when the build began."""
        state = self._recorder.states.get(path)
        if isinstance(state, FileState):
            return state.changed_ns >= self._started_ns
        return state is None

    def _has_changed(self, path: str, now: State) -> bool:
        """Whether `path` differs from its state at the first access, or could have changed since
        then without showing."""
        recorder = self._recorder
        first = recorder.states.get(path, now)
        if not isinstance(now, FileState) or not isinstance(first, FileState):
            return now != first
        if path in recorder.touched:
            return not now.has_same_content(first)
        accessed_ns = self._started_ns
        if path in recorder.first_access_ns:
            accessed_ns = recorder.first_access_ns[path] + self.skew_ns
        # The change time alone: programs can set the other one, also into the future.
        return now != first or now.changed_ns > accessed_ns - _CLOCK_STEP_NS

    def _listings(self) -> dict[str, str]:
        """Digests of the names in directories that were listed."""
        listings = {}
        recorded = tuple(self._recorder.listings.items())
        for directory, names_before in recorded:
            if not self._is_listing(directory):
                continue
            name = self._locations.name_of(directory) + "/"
            try:
                names = names_in(directory)
            except OSError:
                raise EditedMeanwhile(name) from None
            for changed in names_before ^ names:
                if is_listed(changed) and not self._is_own_entry(directory, changed):
                    raise EditedMeanwhile(name)
            listings[name] = digest_names(names)
        return listings

    def _is_own_entry(self, directory: str, entry: str) -> bool:
        """Whether this process made or removed an `entry` of `names_in`."""
        name = entry.rstrip("/")
        real_directory = os.path.realpath(directory)
        path = os.path.join(real_directory, name)
        return path in self._recorder.written

    def _is_listing(self, directory: str) -> bool:
        """Whether the names in a directory that was listed are an input."""
        real_path = os.path.realpath(directory)
        written = self._recorder.written
        if directory in written or real_path in written:
            return False
        is_temporary = self._locations.is_temporary(directory)
        if is_temporary and not self._existed_before(real_path):
            return False  # Made by a child process.
        if not self._locations.is_project_directory(real_path):
            return False
        return not self._locations.is_in_tool_directory(directory)

    def _existed_before(self, directory: str) -> bool:
        """Whether a directory existed, and did not change, since the build began."""
        if not os.path.isdir(directory):
            return False
        status = os.stat(directory)
        return status.st_ctime_ns < self._started_ns

    def _links(self) -> dict[str, str]:
        """Digests of the texts of links that were resolved."""
        links = {}
        recorded = tuple(self._recorder.links.items())
        for link, target in recorded:
            if not self._is_link_input(link):
                continue
            name = self._locations.name_of(link)
            if not os.path.islink(link):
                raise EditedMeanwhile(name)
            if os.readlink(link) != target:
                raise EditedMeanwhile(name)
            text = os.fsencode(target)
            links[name + LINK] = digest_bytes(text)
        return links

    def _is_link_input(self, link: str) -> bool:
        for root in self._locations.roots:
            # The link is on the way to the project, and differs in another checkout.
            if root.startswith(link + os.sep):
                return False
        if link in self._recorder.written:
            return False
        if not self._locations.is_project(link):
            return False
        return not self._locations.is_in_tool_directory(link)

    def _missing_modules(self) -> set[str]:
        return missing_modules(tuple(self._recorder.searched_modules))

    def _owners_of_entry(self, entry: str) -> set[str]:
        """The distributions that an entry of a directory of distributions belongs to."""
        if entry.endswith(".dist-info"):
            return {distribution_name(entry)}
        return self._owners.of_module(entry)

    @cached_property
    def _owners(self) -> ModuleOwners:
        return ModuleOwners(self._locations.site_directories)


def _digest(path: str) -> str | None:
    """As `StatCache.digest`: None for what is no regular file, or cannot be read."""
    if not os.path.isfile(path):
        return None
    try:
        return digest_file(Path(path))
    except OSError:
        return None
