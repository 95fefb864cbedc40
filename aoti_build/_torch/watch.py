"""What this process looks at while user code runs: files it reads or misses, directories it lists, variables of the
environment, modules it imports. `aoti_build._torch.discover` decides what of that is an input of the model.

Most of it is seen by a Python audit hook. Three things raise no audit event and are wrapped: `os.stat` (existence
tests), reading `os.environ`, and the readers of safetensors and of torch archives, whose opens are native code.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from importlib.machinery import SourceFileLoader
from typing import Any

_EVENTS = frozenset({"open", "os.rename", "shutil.move", "os.mkdir", "os.listdir", "os.scandir", "import"})
_STDLIB = os.path.dirname(os.__file__) + os.sep


class Watch:
    """Collects from its creation on, for the rest of the process' life.

    `is_project` says of a real path whether it may be the project's (not installed, not the system's): only such code's
    imports, listings and variables are noted. `roots` are the project's directory under each of its names, with a
    separator at the end: only there are listings and existence tests noted, since elsewhere they are libraries' caches.

    Attributes:
        read: files that were opened, examined or looked for in vain, by absolute path as given and by real path.
        written: real paths of files that this process made or changed.
        listed: directories (real path) and the names that were in each when it was first listed.
        variables: names of environment variables that project code asked for.
    """

    def __init__(self, is_project: Callable[[str], bool], roots: tuple[str, ...]) -> None:
        self._is_project = is_project
        self._roots = roots
        self._own = threading.local()  # whether this thread is inside: what we look at ourselves is no input
        self.read: set[str] = set()
        self.written: set[str] = set()
        self.listed: dict[str, frozenset[str]] = {}
        self.variables: set[str] = set()
        self._wrap_native_readers()
        self._wrap_stat()
        self._wrap_environment()
        self._compile_from_source()
        sys.addaudithook(self._audit)

    def note(self, path: str | bytes | os.PathLike[str]) -> None:
        """`path` was read: an input under its own name, which may be a link's, and under that of its target."""
        name = os.fsdecode(path)
        self.read |= {os.path.abspath(name), os.path.realpath(name)}

    def _audit(self, event: str, args: tuple[Any, ...]) -> None:
        if event not in _EVENTS or self._inside():
            return
        self._own.inside = True
        try:
            if event == "open" and isinstance(args[0], str | bytes):
                self._opened(args[0], args[2] if isinstance(args[2], int) else 0)
            elif event == "os.mkdir":
                self.written.add(os.path.realpath(os.fsdecode(args[0])))
            elif event in ("os.rename", "shutil.move"):
                self.written.add(os.path.realpath(os.fsdecode(args[1])))
            elif event in ("os.listdir", "os.scandir") and not isinstance(args[0], int):
                self._listed(os.fsdecode("." if args[0] is None else args[0]))
            elif event == "import" and args[1] is None:
                self._imported(args[0])
        finally:
            self._own.inside = False

    def _inside(self) -> bool:
        return getattr(self._own, "inside", False)

    def _below_root(self, path: str | os.PathLike[str]) -> bool:
        return (os.path.abspath(path) + os.sep).startswith(self._roots)

    def _opened(self, path: str | bytes, flags: int) -> None:
        if flags & (os.O_WRONLY | os.O_RDWR):
            self.written.add(os.path.realpath(os.fsdecode(path)))
        # "r+" reads as well: numpy.memmap's default.
        if not flags & os.O_WRONLY and not flags & os.O_TRUNC:
            self.note(path)

    def _listed(self, path: str) -> None:
        directory = os.path.realpath(path)
        by_import = sys._getframe(2).f_code.co_filename.startswith("<frozen importlib")
        if by_import or directory in self.listed or not self._below_root(directory) or not self._asked_by_project():
            return
        try:
            self.listed[directory] = frozenset(os.listdir(directory))
        except OSError:
            self.note(path)  # not there yet

    def _imported(self, name: str) -> None:
        """Note the places where project code's import of `name`, or of a package around it, would have been satisfied
        sooner: a file that appears there shadows the module, or makes an optional import succeed."""
        if not self._asked_by_project():
            return
        path, parts = list(sys.path), name.split(".")
        for index, leaf in enumerate(parts):
            loaded = sys.modules.get(".".join(parts[: index + 1]))
            path = self._note_places(path, leaf) if loaded is None else list(getattr(loaded, "__path__", ()))

    def _note_places(self, path: list[str], leaf: str) -> list[str]:
        """Note where `leaf` is looked for in `path`; where its own modules would be, if it is found and a package."""
        for entry in path:
            directory = os.path.realpath(entry or ".")
            if self._is_project(directory):
                for place in (os.path.join(directory, leaf, "__init__.py"), os.path.join(directory, f"{leaf}.py")):
                    self.read.add(place)
                    if os.path.exists(place):
                        return [os.path.dirname(place)] if place.endswith("__init__.py") else []
        return []

    def _asked_by_project(self) -> bool:
        """Whether the code that asked, past the standard library's, is the project's."""
        frame = sys._getframe(1)
        while frame is not None and _is_machinery(frame.f_code.co_filename):
            frame = frame.f_back  # type: ignore[assignment]
        return frame is not None and self._is_project(os.path.realpath(frame.f_code.co_filename))

    def _wrap_native_readers(self) -> None:
        import safetensors
        import safetensors.torch
        import torch

        native = safetensors.safe_open

        def noting(filename: Any, *args: Any, **kwargs: Any) -> Any:
            self.note(filename)
            return native(filename, *args, **kwargs)

        for module in (safetensors, safetensors.torch):
            vars(module)["safe_open"] = noting
        # torch.jit.load, torch.export.load and torch.package hand the first two a path.
        readers = ((torch._C, "PyTorchFileReader"), (torch._C, "import_ir_module"), (torch, "from_file"))
        for owner, name in readers:
            setattr(owner, name, self._noting_paths(getattr(owner, name)))

    def _noting_paths(self, reader: Any) -> Any:
        """`reader`, a class or a function, noting those of its positional arguments that name existing files."""

        def note(args: tuple[Any, ...]) -> None:
            for value in args:
                if isinstance(value, str | os.PathLike) and os.path.isfile(value):
                    self.note(value)

        if not isinstance(reader, type):

            def read(*args: Any, **kwargs: Any) -> Any:
                note(args)
                return reader(*args, **kwargs)

            return read

        class Noting(reader):  # type: ignore[misc]
            def __init__(self, *args: Any, **kwargs: Any) -> None:
                note(args)
                super().__init__(*args, **kwargs)

        Noting.__name__ = Noting.__qualname__ = reader.__name__
        return Noting

    def _wrap_stat(self) -> None:
        """A file whose existence was asked for is an input too: present or not, it decided something."""
        stat = os.stat

        def noting(path: Any, *args: Any, **kwargs: Any) -> os.stat_result:
            if isinstance(path, str | os.PathLike) and not self._inside() and self._below_root(path):
                self.note(path)
            return stat(path, *args, **kwargs)

        for supporting in (os.supports_dir_fd, os.supports_fd, os.supports_follow_symlinks):
            if stat in supporting:
                supporting.add(noting)  # the standard library asks by identity
        os.stat = noting

    def _wrap_environment(self) -> None:
        kind: Any = type(os.environ)
        get = kind.__getitem__

        def noting(environment: Any, name: Any) -> Any:
            if isinstance(name, str) and self._asked_by_project():
                self.variables.add(name)
            return get(environment, name)

        kind.__getitem__ = noting

    def _compile_from_source(self) -> None:
        """Believe no bytecode of the project's: a .pyc counts as fresh by size and time, which an edit can keep; and a
        module run by its path would be read from there only. A loader whose `path_stats` fails compiles the source."""
        stats = SourceFileLoader.path_stats

        def checked(loader: SourceFileLoader, path: str) -> Any:
            if self._is_project(os.path.realpath(path)):
                raise OSError("bytecode of project files is not used")
            return stats(loader, path)

        SourceFileLoader.path_stats = checked  # type: ignore[method-assign, assignment]


def _is_machinery(filename: str) -> bool:
    """The standard library's (`os.getenv`, `importlib.import_module`), the import system's, and this module's."""
    installed = "site-packages" in filename
    return filename.startswith("<") or filename == __file__ or (filename.startswith(_STDLIB) and not installed)
