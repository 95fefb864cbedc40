"""Wraps what tells a `Watch` nothing by itself, because it raises no audit event: existence tests
and links, opening relative to a directory, the environment, imports, and the native readers and
writers of torch and safetensors."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.machinery import ModuleSpec, SourceFileLoader
from types import FrameType
from typing import Any

from aoti_build._torch.discovery.watch import Path, Watch, in_directory


def wrap(watch: Watch, is_project: Callable[[str], bool]) -> None:
    """Let `watch` see it all from now on; `is_project` as for `Watch`."""
    _wrap_native_files(watch)
    _wrap_existence_tests(watch)
    _wrap_open(watch)
    _wrap_metadata(watch)
    _wrap_environment(watch)
    sys.meta_path.insert(0, _Listener(watch))
    _compile_from_source(is_project)


class _Listener:
    """Hears of every import of what is not loaded, by whatever function, and leaves it to the
    finders behind it."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def find_spec(
        self, name: str, path: Sequence[str] | None, _target: object = None
    ) -> ModuleSpec | None:
        self._watch.note_import(name, list(sys.path if path is None else path))
        return None


def _wrap_existence_tests(watch: Watch) -> None:
    def noting(native: Any, note: Callable[[Path], None]) -> Any:
        def examine(path: Any, *args: Any, **kwargs: Any) -> Any:
            if isinstance(path, str | bytes | os.PathLike):
                note(in_directory(path, kwargs.get("dir_fd")))
            return native(path, *args, **kwargs)

        for supporting in (
            os.supports_dir_fd,
            os.supports_fd,
            os.supports_follow_symlinks,
            os.supports_effective_ids,
        ):
            if native in supporting:
                supporting.add(examine)  # the standard library asks by identity
        examine.__name__ = examine.__qualname__ = native.__name__
        examine.__module__ = "os"  # where pickle finds it
        return examine

    def examined(path: Path) -> None:
        # Resolving a path asks this of every directory on the way; its links are noted as such.
        if sys._getframe(2).f_code.co_name not in ("realpath", "_joinrealpath"):
            watch.note_examined(path)

    for name, note in (
        ("stat", watch.note_examined),
        ("access", watch.note_examined),
        ("lstat", examined),
        ("readlink", watch.note_link),
    ):
        native = getattr(os, name)
        wrapped = noting(native, note)
        setattr(os, name, wrapped)
        _replace_copies(native, wrapped)


def _replace_copies(native: Any, wrapped: Any) -> None:
    """Classes of the standard library that took the function before: pathlib's accessor (3.10),
    glob's (3.13 on)."""
    for module in [
        sys.modules.get(name) for name in ("glob", "pathlib", "pathlib._local", "pathlib._os")
    ]:
        for kind in [value for value in vars(module or object).values() if isinstance(value, type)]:
            for name, value in list(vars(kind).items()):
                if value is native or (
                    isinstance(value, staticmethod) and value.__func__ is native
                ):
                    setattr(kind, name, staticmethod(wrapped))


def _wrap_metadata(watch: Watch) -> None:
    """Asking for one distribution lists directories that hold all of them."""
    from importlib.metadata import Distribution

    native = Distribution.from_name

    def asked(name: str) -> Distribution:
        watch.note_distribution(name)
        with watch.quiet():
            return native(name)

    Distribution.from_name = asked  # type: ignore[method-assign]


def _wrap_open(watch: Watch) -> None:
    """The audit event of `os.open` does not say which directory a relative path begins at."""
    native = os.open

    def noting(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        if kwargs.get("dir_fd") is None:
            return native(path, flags, *args, **kwargs)
        whole = in_directory(path, kwargs["dir_fd"])
        if flags & (os.O_WRONLY | os.O_RDWR):
            watch.note_written(whole)
        elif not flags & os.O_DIRECTORY:
            watch.note_opened(whole)
        with watch.quiet():
            return native(path, flags, *args, **kwargs)

    os.supports_dir_fd.add(noting)
    os.open = noting


def _wrap_environment(watch: Watch) -> None:
    """A variable that is asked for by name. Taking the whole environment, as for a child process,
    asks for none."""
    from torch.compiler import is_dynamo_compiling

    kind: Any = type(os.environ)
    get, names = kind.__getitem__, kind.__iter__
    last: list[tuple[int, int]] = []  # the instruction that iterated over names last

    def asked(environment: Any, name: Any) -> Any:
        if is_dynamo_compiling():
            # The strict export cannot read what follows; eager mode asks again.
            return get(environment, name)
        caller = sys._getframe(1)
        # Values of a view, or of `dict(os.environ)`: one instruction takes the names and then their
        # values.
        taken = caller.f_code.co_name == "__iter__" or [_instruction(caller)] == last
        if isinstance(name, str | bytes) and not taken:
            watch.note_variable(os.fsdecode(name))
        return get(environment, name)

    def iterate(environment: Any) -> Iterator[Any]:
        if is_dynamo_compiling():
            yield from names(environment)
            return
        caller: FrameType | None = sys._getframe(1)
        while caller is not None and caller.f_code.co_name == "__iter__":
            caller = caller.f_back
        last[:] = [_instruction(caller)] if caller else []
        yield from names(environment)

    kind.__getitem__, kind.__iter__ = asked, iterate


def _instruction(frame: FrameType) -> tuple[int, int]:
    return id(frame), frame.f_lasti


def _wrap_native_files(watch: Watch) -> None:
    import safetensors
    import safetensors.torch
    import torch

    def read(path: Path) -> None:
        if os.path.isfile(path):
            watch.note_opened(path)

    for module in (safetensors, safetensors.torch):
        vars(module)["safe_open"] = _noting(module.safe_open, read, as_function=True)
        vars(module)["serialize_file"] = _noting(module.serialize_file, watch.note_written)
    # torch.jit.load, torch.export.load and torch.package hand the first two a path.
    readers = (
        (torch._C, "PyTorchFileReader"),
        (torch._C, "import_ir_module"),
        (torch, "from_file"),
        (torch.UntypedStorage, "from_file"),
    )
    for owner, name in readers:
        setattr(owner, name, _noting(getattr(owner, name), read))
    vars(torch._C)["PyTorchFileWriter"] = _noting(torch._C.PyTorchFileWriter, watch.note_written)


def _noting(native: Any, note: Callable[[Path], None], *, as_function: bool = False) -> Any:
    """`native`, a function or a class, with a `note` of those of its arguments that can be
    paths."""

    def note_paths(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        for value in (*args, *kwargs.values()):
            if isinstance(value, str | os.PathLike):
                note(value)

    if as_function or not isinstance(native, type):

        def call(*args: Any, **kwargs: Any) -> Any:
            note_paths(args, kwargs)
            return native(*args, **kwargs)

        return call

    class Noting(native):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            note_paths(args, kwargs)
            super().__init__(*args, **kwargs)

    Noting.__name__ = Noting.__qualname__ = native.__name__
    return Noting


def _compile_from_source(is_project: Callable[[str], bool]) -> None:
    """Believe no bytecode of the project's: a .pyc counts as fresh by size and time, which an edit
    can keep; and a module run by its path would be read from there only. A loader whose
    `path_stats` fails compiles the source."""
    stats = SourceFileLoader.path_stats

    def checked(loader: SourceFileLoader, path: str) -> Any:
        if is_project(os.path.realpath(path)):
            raise OSError("bytecode of project files is not used")
        return stats(loader, path)

    SourceFileLoader.path_stats = checked  # type: ignore[method-assign, assignment]
