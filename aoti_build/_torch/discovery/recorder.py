"""Records what user code accesses in this process: files it reads or misses, links it resolves,
directories it lists, environment variables and modules.

`audit_events` and `patches` call the recorder. `discover` decides which accesses are inputs.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import wraps
from importlib.machinery import BYTECODE_SUFFIXES, EXTENSION_SUFFIXES, SOURCE_SUFFIXES
from typing import Any, Concatenate, ParamSpec

from aoti_build._torch.discovery.callers import (
    Callers,
    calling_file,
    is_import_system,
    is_metadata_library,
)
from aoti_build._torch.discovery.paths import (
    AnyPath,
    IsProject,
    State,
    absolute_and_real,
    file_state,
    is_path,
    native_readlink,
)
from aoti_build.common.digests import names_in

Parameters = ParamSpec("Parameters")

# As a name in `distributions`: names and versions of everything that is installed.
ALL_DISTRIBUTIONS = "*"
# In the order in which the import system tries them.
_MODULE_SUFFIXES = (
    *EXTENSION_SUFFIXES,
    *SOURCE_SUFFIXES,
    *BYTECODE_SUFFIXES,
)
_BETWEEN_WORDS = re.compile(r"""[\s'"=;|&<>()]+""")
_CREATING_FLAGS = os.O_WRONLY | os.O_TRUNC | os.O_CREAT
# "r+", the default of numpy.memmap, is not among them: as a rule its user only reads.
_NOT_READING_FLAGS = os.O_WRONLY | os.O_TRUNC | os.O_APPEND | os.O_EXCL


def _unless_recording(
    note: Callable[Concatenate[AccessRecorder, Parameters], None],
) -> Callable[Concatenate[AccessRecorder, Parameters], None]:
    """Skip a `note` method that is called while this thread runs another one.

    The recorder looks at files itself, and these accesses are no inputs.
    """

    @wraps(note)
    def guarded(
        recorder: AccessRecorder,
        /,
        *args: Parameters.args,
        **kwargs: Parameters.kwargs,
    ) -> None:
        with recorder.paused() as was_recording:
            if was_recording:
                note(recorder, *args, **kwargs)

    return guarded


class AccessRecorder:
    """Collects accesses of this process, until it ends.

    `is_project` tells whether a path may be the project's: neither installed nor the system's.
    `roots` are the names of the project's directory, each with a separator at the
    end. Below them, accesses of all code count. Elsewhere only those of project code and every
    opened file count.

    Paths are recorded both as absolute path and as real path.

    Attributes:
        states: paths that were opened, tested or searched for, with the state at the first access.
        first_access_ns: the time of that first access, in nanoseconds since the epoch.
        opened: those of `states` that were read, or may have been.
        requested: those of `states` that project code accessed itself.
        written: paths that this process created, changed or removed.
        touched: paths of which this process changed nothing but times and permissions.
        links: symbolic links that were resolved, with the text of each at that time.
        listings: directories, with the names in each when it was first listed.
        variables: names of environment variables that project code read.
        searched_modules: names of modules that were searched for because they were not loaded.
        distributions: names of distributions whose metadata project code read, or
            `ALL_DISTRIBUTIONS` if it listed them.
    """

    def __init__(self, is_project: IsProject, roots: tuple[str, ...]) -> None:
        self._is_project = is_project
        self._roots = roots
        self._callers = Callers(is_project)
        self._thread = threading.local()
        self.states: dict[str, State] = {}
        self.first_access_ns: dict[str, int] = {}
        self.opened: set[str] = set()
        self.requested: set[str] = set()
        self.written: set[str] = set()
        self.touched: set[str] = set()
        self.links: dict[str, str] = {}
        self.listings: dict[str, frozenset[str]] = {}
        self.variables: set[str] = set()
        self.searched_modules: set[str] = set()
        self.distributions: set[str] = set()

    @contextlib.contextmanager
    def paused(self) -> Iterator[bool]:
        """Record no accesses of this thread inside. Gives False if recording was paused already."""
        if getattr(self._thread, "is_paused", False):
            yield False
            return
        self._thread.is_paused = True
        try:
            yield True
        finally:
            self._thread.is_paused = False

    @_unless_recording
    def note_opened(self, path: AnyPath) -> None:
        """Note that `path` is read. A link and its target are both inputs."""
        self.opened |= self._note_state(path)

    @_unless_recording
    def note_open_call(self, path: AnyPath, flags: int) -> None:
        """Note a call of `open` with the `flags` of `os.open`."""
        if flags & _CREATING_FLAGS:
            self.written |= absolute_and_real(path)
        if flags & _NOT_READING_FLAGS:
            return
        names = self._note_state(path)
        self.opened |= names
        if self._callers.project_asks():
            self.requested |= names

    @_unless_recording
    def note_examined(self, path: AnyPath) -> None:
        """Note a test whether `path` exists: its answer matters, whichever it is."""
        by_project = self._callers.project_asks()
        if not by_project and not self._is_below_root(path):
            return
        names = self._note_state(path)
        if by_project:
            self.requested |= names

    @_unless_recording
    def note_written(self, path: AnyPath) -> None:
        """Note that this process creates, changes or removes `path`."""
        self.written |= absolute_and_real(path)

    @_unless_recording
    def note_touched(self, path: AnyPath) -> None:
        """Note that this process changes times or permissions of `path`."""
        self.touched |= self._note_state(path)

    @_unless_recording
    def note_link(self, path: AnyPath) -> None:
        """Note that the link `path` is resolved: its target's name can matter, besides the content
        there."""
        with contextlib.suppress(OSError, ValueError):
            name = os.path.abspath(os.fsdecode(path))
            if name in self.links:
                return
            if self._is_below_root(name) or self._callers.project_asks():
                self.links[name] = native_readlink(name)

    @_unless_recording
    def note_listed(self, path: AnyPath, *, always: bool = False) -> None:
        """Note that the directory `path` is listed, if that counts or `always` is set."""
        try:
            directory = os.path.abspath(os.fsdecode(path))
            if directory in self.listings:
                return
            if always or self._listing_counts(directory):
                self.listings[directory] = names_in(directory)
        except (OSError, ValueError):
            # It does not exist, and may be created later.
            self._note_state(path)

    def note_variable(self, name: str) -> None:
        """Note that an environment variable is read by its name."""
        if self._callers.project_asks_for_variable():
            self.variables.add(name)

    @_unless_recording
    def note_import(self, name: str, path: list[str]) -> None:
        """Note that the module `name` is not loaded and searched for in the directories `path`.

        For project code the locations that the import tries are inputs too. A file that appears at
        one of them shadows the module, or lets an optional import succeed.
        """
        self.searched_modules.add(name)
        if not self._callers.project_asks():
            return
        leaf = name.rpartition(".")[2]
        for entry in path:
            if not isinstance(entry, str):
                continue  # The import system ignores it as well.
            if self._note_module_locations(entry, leaf):
                return

    def note_distribution(self, name: str) -> None:
        """Note that the metadata of the distribution `name` are read."""
        if self._callers.project_asks():
            self.distributions.add(name)

    @_unless_recording
    def note_arguments(self, words: Any, directory: Any) -> None:
        """Note files among the arguments of a child process that starts in `directory`.

        Accesses of the child process itself are not recorded.
        """
        if not isinstance(words, list | tuple):
            return
        if not self._callers.project_asks():
            return
        start = os.fsdecode(directory or ".")
        for word in words:
            if not is_path(word):
                continue
            text = os.fsdecode(word)
            # A word may be a complete shell command, or an option with a value.
            parts = {text, *_BETWEEN_WORDS.split(text)}
            for part in parts:
                path = os.path.join(start, part)
                if part and os.path.isfile(path):
                    self.opened |= self._note_state(path)

    def _note_state(self, path: AnyPath) -> set[str]:
        """Note the state of `path` at the first access. Returns its names."""
        names = absolute_and_real(path)
        for name in names:
            if name not in self.states:
                self.first_access_ns[name] = time.time_ns()
                self.states[name] = file_state(name)
        return names

    def _note_module_locations(self, entry: str, leaf: str) -> bool:
        """Note where an import tries the module `leaf` for an `entry` of its search path.

        Returns whether one of these files exists, which ends the search.
        """
        directory = os.path.realpath(entry or ".")
        if not self._is_project(directory + os.sep):
            return False
        if not os.path.isdir(directory):
            # A relative entry is the name by which the finder of an editable install is known.
            # An absolute one is a zip file, or may become one.
            if os.path.isabs(entry):
                self.requested |= self._note_state(directory)
            return False
        package = os.path.join(directory, leaf)
        locations = []
        if os.path.isdir(package):
            initializer = os.path.join(package, "__init__")
            locations += [initializer + suffix for suffix in _MODULE_SUFFIXES]
        else:
            self.requested |= self._note_state(package)
        locations += [package + suffix for suffix in _MODULE_SUFFIXES]
        for location in locations:
            self.requested |= self._note_state(location)
            if self.states[location] is not None:
                return True
        return False

    def _is_below_root(self, path: AnyPath) -> bool:
        try:
            absolute = os.path.abspath(os.fsdecode(path))
        except OSError:
            # The path is relative, and the current directory was removed.
            return False
        return (absolute + os.sep).startswith(self._roots)

    def _listing_counts(self, directory: str) -> bool:
        caller = calling_file()
        # Every import lists the directories of sys.path.
        if is_import_system(caller):
            return False
        if not self._callers.project_asks():
            # A library that lists an entry of sys.path looks for installed modules.
            searched = map(os.path.abspath, sys.path)
            return self._is_below_root(directory) and directory not in searched
        real_path = os.path.realpath(directory)
        if not self._is_project(real_path + os.sep):
            # Project code finds plugins in this way.
            self.distributions.add(ALL_DISTRIBUTIONS)
        return not is_metadata_library(caller)
