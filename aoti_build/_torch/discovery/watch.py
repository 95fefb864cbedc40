"""What this process looks at while user code runs: files it reads or misses, links it resolves,
directories it lists, variables of the environment, modules it imports. `discover` beside this
decides what of that is an input.

Most of it is seen by a Python audit hook; `unaudited` wraps what raises no audit event.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import cache, wraps
from importlib.machinery import BYTECODE_SUFFIXES, EXTENSION_SUFFIXES, SOURCE_SUFFIXES
from typing import Any, Concatenate, ParamSpec

from aoti_build.common.digests import DIRECTORY, names_in

Parameters = ParamSpec("Parameters")
# Taken before they are wrapped: what this module asks is no input.
_stat, _lstat, _readlink = os.stat, os.lstat, os.readlink
_STDLIB = os.path.dirname(os.__file__) + os.sep
_MACHINERY = {__file__, os.path.join(os.path.dirname(__file__), "unaudited.py")}
# Through which code of anybody's asks for a variable; other modules of the standard library ask for
# themselves.
_ENVIRONMENT: frozenset[str | None] = frozenset(
    {
        os.__file__,
        sys.modules["_collections_abc"].__file__,
        os.path.expandvars.__code__.co_filename,
        threading.__file__,
        os.path.join(_STDLIB, "concurrent", "futures", "thread.py"),
        os.path.join(_STDLIB, "multiprocessing", "pool.py"),
    }
)
# In the import system's order.
_SUFFIXES = (
    *EXTENSION_SUFFIXES,
    *SOURCE_SUFFIXES,
    *BYTECODE_SUFFIXES,
)
# Event -> positions of the paths that it changes or takes away, each with that of its directory's
# descriptor.
_WRITES: dict[str, tuple[tuple[int, int | None], ...]] = {
    "os.remove": ((0, 1),),
    "os.rename": ((0, 2), (1, 3)),
    "os.rmdir": ((0, 1),),
    "os.truncate": ((0, None),),
    "shutil.move": ((0, None), (1, None)),
}
# The same of what fails where something is already: what was there is not of this process' making.
_MAKES: dict[str, tuple[int, int]] = {"os.link": (1, 3), "os.mkdir": (0, 2), "os.symlink": (1, 2)}
# The same of what changes a file's times and nothing in it.
_TOUCHES: dict[str, tuple[int, int]] = {"os.chmod": (0, 2), "os.chown": (0, 3), "os.utime": (0, 3)}
_METADATA = os.path.join(_STDLIB, "importlib", "metadata") + os.sep
_BETWEEN_WORDS = re.compile(r"""[\s'"=;|&<>()]+""")

Path = str | bytes | os.PathLike[Any]
# What a file was when it was first looked at: (device, inode, size, mtime_ns, ctime_ns); a
# directory is just that, since what is in it counts on its own; None: there was nothing.
State = tuple[int, ...] | str | None


def _unless_inside(
    note: Callable[Concatenate[Watch, Parameters], None],
) -> Callable[Concatenate[Watch, Parameters], None]:
    """A method that does nothing if this thread is inside another one: what we look at ourselves is
    no input."""

    @wraps(note)
    def noted(watch: Watch, /, *args: Parameters.args, **kwargs: Parameters.kwargs) -> None:
        with watch.quiet() as outermost:
            if outermost:
                note(watch, *args, **kwargs)

    return noted


class Watch:
    """Collects from its creation on, for the rest of the process' life.

    `is_project` says of a real path whether it may be the project's (not installed, not the
    system's). `roots` are the project's directory under each of its names, with a separator at the
    end: below them all that is asked for counts, elsewhere what project code asks for itself and
    every file that is opened.

    Attributes: seen: what was opened, examined or looked for in vain, by absolute path as given and
        by real path. looked: when that was first, in nanoseconds since the epoch. opened: those of
        them that were read, or may have been. asked: those of them that project code asked for
        itself. written: paths of what this process made, changed or took away, as given and real.
        touched: those of which it changed no more than times and permissions. links: symbolic links
        that somebody resolved, and what they said then. listed: directories and the names that were
        in each when it was first listed. variables: names of environment variables that project
        code asked for. modules: modules that were looked for because they were not loaded.
        distributions: names of distributions whose metadata project code asked for; ``*`` if it
        listed them all.
    """

    def __init__(self, is_project: Callable[[str], bool], roots: tuple[str, ...]) -> None:
        self._is_project = is_project
        self._roots = roots
        # Whether this thread is inside: what we look at ourselves is no input.
        self._own = threading.local()
        self._is_project_code = cache(lambda filename: is_project(os.path.realpath(filename)))
        self.seen: dict[str, State] = {}
        self.looked: dict[str, int] = {}
        self.opened: set[str] = set()
        self.asked: set[str] = set()
        self.written: set[str] = set()
        self.touched: set[str] = set()
        self.links: dict[str, str] = {}
        self.listed: dict[str, frozenset[str]] = {}
        self.variables: set[str] = set()
        self.modules: set[str] = set()
        self.distributions: set[str] = set()
        self._listeners: dict[str, Callable[[str, tuple[Any, ...]], None]] = {
            "open": self._on_open,
            **dict.fromkeys(_WRITES, self._on_write),
            **dict.fromkeys(_MAKES, self._on_make),
            **dict.fromkeys(_TOUCHES, self._on_touch),
            **dict.fromkeys(("os.listdir", "os.scandir"), self._on_list),
            "ctypes.dlopen": self._on_dlopen,
            "sqlite3.connect": self._on_connect,
            **dict.fromkeys(("subprocess.Popen", "os.posix_spawn", "os.system"), self._on_start),
        }
        sys.addaudithook(self._audit)

    @contextlib.contextmanager
    def quiet(self) -> Iterator[bool]:
        """Notes nothing of what this thread does inside; False if it is inside already."""
        if getattr(self._own, "inside", False):
            yield False
            return
        self._own.inside = True
        try:
            yield True
        finally:
            self._own.inside = False

    @_unless_inside
    def note_opened(self, path: Path) -> None:
        """`path` is read: an input under its own name, which may be a link's, and under that of its
        target."""
        self.opened |= self._see(path)

    @_unless_inside
    def note_examined(self, path: Path) -> None:
        """Somebody asks whether `path` is there: present or not, it decides something."""
        by_project = self._asked_by_project()
        if not by_project and not self._below_root(path):
            return
        names = self._see(path)
        if by_project:
            self.asked |= names

    @_unless_inside
    def note_written(self, path: Path) -> None:
        """`path` is made, changed or removed by this process."""
        self.written |= _names(path)

    @_unless_inside
    def note_link(self, path: Path) -> None:
        """The link `path` is resolved: where it leads may decide something that its content does
        not."""
        with contextlib.suppress(OSError, ValueError):
            name = os.path.abspath(os.fsdecode(path))
            if name not in self.links and (self._below_root(name) or self._asked_by_project()):
                self.links[name] = _readlink(name)

    @_unless_inside
    def note_listed(self, path: Path, *, anyway: bool = False) -> None:
        """The directory `path` is listed: by project code, or (or `anyway`) by a library in the
        project."""
        try:
            directory = os.path.abspath(os.fsdecode(path))
            if directory not in self.listed and (anyway or self._listing_counts(directory)):
                self.listed[directory] = names_in(directory)
        except (OSError, ValueError):
            self._see(path)  # not there yet

    def note_variable(self, name: str) -> None:
        """Somebody asks for an environment variable by its name."""
        if self._asked_by_project(_ENVIRONMENT):
            self.variables.add(name)

    @_unless_inside
    def note_import(self, name: str, path: list[str]) -> None:
        """Note that `name`, in the directories `path`, was not loaded; for project code also the
        places where its import would have been, or was, satisfied: a file that appears there
        shadows the module, or makes an optional import succeed."""
        self.modules.add(name)
        if self._asked_by_project():
            self._see_places(path, name.rpartition(".")[2])

    def note_distribution(self, name: str) -> None:
        """Somebody asks for the metadata of the distribution `name`."""
        if self._asked_by_project():
            self.distributions.add(name)

    def _audit(self, event: str, args: tuple[Any, ...]) -> None:
        listener = self._listeners.get(event)
        if listener is not None:
            listener(event, args)

    def _on_open(self, _event: str, args: tuple[Any, ...]) -> None:
        if isinstance(args[0], str | bytes):
            self._opened(args[0], args[2] if isinstance(args[2], int) else 0)

    def _on_write(self, event: str, args: tuple[Any, ...]) -> None:
        for position, directory in _WRITES[event]:
            if isinstance(args[position], str | bytes | os.PathLike):
                self.note_written(
                    in_directory(args[position], args[directory] if directory is not None else None)
                )

    def _on_make(self, event: str, args: tuple[Any, ...]) -> None:
        position, directory = _MAKES[event]
        path = in_directory(args[position], args[directory])
        with self.quiet():
            there = os.path.lexists(path)
        if not there:
            self.note_written(path)
        if event == "os.link":  # the other name may be read, and its change time moves
            self.note_opened(in_directory(args[0], args[2]))
            self._touch(in_directory(args[0], args[2]))

    def _on_touch(self, event: str, args: tuple[Any, ...]) -> None:
        position, directory = _TOUCHES[event]
        if isinstance(args[position], str | bytes | os.PathLike):
            self._touch(in_directory(args[position], args[directory]))

    @_unless_inside
    def _touch(self, path: str) -> None:
        self.touched |= self._see(path)

    def _on_list(self, _event: str, args: tuple[Any, ...]) -> None:
        self.note_listed(in_directory(".", args[0]) if isinstance(args[0], int) else args[0] or ".")

    def _on_dlopen(self, _event: str, args: tuple[Any, ...]) -> None:
        if isinstance(args[0], str | bytes) and os.sep in os.fsdecode(args[0]):
            self.note_opened(args[0])

    def _on_connect(self, _event: str, args: tuple[Any, ...]) -> None:
        if isinstance(args[0], str | bytes | os.PathLike):
            with self.quiet():
                there = os.path.isfile(args[0])
            if there:
                self.note_opened(args[0])
            self.note_written(args[0])

    def _on_start(self, event: str, args: tuple[Any, ...]) -> None:
        if event == "os.system":
            self._started([args[0]], None)
        else:
            self._started(args[1], args[2] if event == "subprocess.Popen" else None)

    @_unless_inside
    def _opened(self, path: str | bytes, flags: int) -> None:
        # "r+" (numpy.memmap's default) reads, and as a rule no more than that.
        if flags & (os.O_WRONLY | os.O_TRUNC | os.O_CREAT):
            self.written |= _names(path)
        if not flags & (os.O_WRONLY | os.O_TRUNC | os.O_APPEND | os.O_EXCL):
            names = self._see(path)
            self.opened |= names
            if self._asked_by_project():
                self.asked |= names

    @_unless_inside
    def _started(self, words: Any, directory: Any) -> None:
        """Files that a child process is given as arguments: what it reads of them is not seen
        here."""
        if not isinstance(words, list | tuple) or not self._asked_by_project():
            return
        for word in words:
            whole = os.fsdecode(word) if isinstance(word, str | bytes | os.PathLike) else ""
            # A word may be a shell's whole command.
            for part in {
                whole,
                *_BETWEEN_WORDS.split(whole),
            }:
                path = os.path.join(os.fsdecode(directory or "."), part)
                if part and os.path.isfile(path):
                    self.opened |= self._see(path)

    def _see(self, path: Path) -> set[str]:
        names = _names(path)
        for name in names:
            if name not in self.seen:
                self.looked[name] = time.time_ns()
                self.seen[name] = state(name)
        return names

    def _see_places(self, path: list[str], leaf: str) -> None:
        for entry in path:
            if not isinstance(entry, str):
                continue  # as the import system does
            directory = os.path.realpath(entry or ".")
            if not self._is_project(directory + os.sep):
                continue
            if not os.path.isdir(directory):
                # Else the name by which an editable install's finder knows itself.
                if os.path.isabs(entry):
                    self.asked |= self._see(directory)  # a zip file, or what may become one
                continue
            package = os.path.join(directory, leaf)
            places = [package + suffix for suffix in _SUFFIXES]
            if os.path.isdir(package):
                places[:0] = [os.path.join(package, f"__init__{suffix}") for suffix in _SUFFIXES]
            else:
                self.asked |= self._see(package)
            for place in places:
                self.asked |= self._see(place)
                if self.seen[place] is not None:
                    return

    def _below_root(self, path: Path) -> bool:
        try:
            return (os.path.abspath(os.fsdecode(path)) + os.sep).startswith(self._roots)
        except OSError:  # a relative path in a current directory that was removed
            return False

    def _listing_counts(self, directory: str) -> bool:
        frame = sys._getframe(1)
        while frame.f_code.co_filename == __file__ and frame.f_back is not None:
            frame = frame.f_back
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return False  # every import lists the directories of sys.path
        if self._asked_by_project():
            if not self._is_project(os.path.realpath(directory) + os.sep):
                self.distributions.add("*")  # plugins are found so
            return not frame.f_code.co_filename.startswith(_METADATA)
        # A library that lists the path of imports looks for what is installed.
        return self._below_root(directory) and directory not in map(os.path.abspath, sys.path)

    def _asked_by_project(self, machinery: frozenset[str | None] | None = None) -> bool:
        """Whether the code that asked, past the standard library's (or past just the files
        `machinery`), is the project's. A thread that runs nothing else, as those of pools do,
        counts as the project's."""
        frame = sys._getframe(1)
        while frame is not None:
            filename = frame.f_code.co_filename
            passed = filename in machinery if machinery is not None else _is_standard(filename)
            if not passed and filename not in _MACHINERY and not filename.startswith("<"):
                return self._is_project_code(filename)
            frame = frame.f_back  # type: ignore[assignment]
        return True


def state(path: str) -> State:
    try:
        status = _stat(path)
    except (OSError, ValueError):
        return None
    if stat.S_ISDIR(status.st_mode):
        return DIRECTORY
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def in_directory(path: Path, descriptor: Any) -> str:
    """`path` as one relative to the directory that is open as `descriptor`, where one is given (-1
    or None: none)."""
    name = os.fsdecode(path)
    if not isinstance(descriptor, int) or descriptor < 0 or os.path.isabs(name):
        return name
    try:
        return os.path.join(_readlink(f"/proc/self/fd/{descriptor}"), name)
    except OSError:
        return name


def _names(path: Path) -> set[str]:
    name = os.fsdecode(path)
    try:
        return {os.path.abspath(name), os.path.realpath(name)}
    except (OSError, ValueError):  # a current directory that was removed; a NUL
        return set()


@cache
def _is_standard(filename: str) -> bool:
    return filename.startswith(_STDLIB) and "site-packages" not in filename
