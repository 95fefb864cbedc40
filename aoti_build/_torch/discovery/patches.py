"""Patches functions that raise no audit event, so that an `AccessRecorder` learns of their calls.

These are existence tests and links, opening relative to a directory, the environment, metadata of
distributions, and the native readers and writers of torch and safetensors. An import hook tells of
searched modules.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.machinery import ModuleSpec, SourceFileLoader
from types import FrameType
from typing import Any, NamedTuple

from aoti_build._torch.discovery.paths import (
    AnyPath,
    IsProject,
    is_path,
    path_in_directory,
)
from aoti_build._torch.discovery.recorder import AccessRecorder

Note = Callable[[AnyPath], None]
Function = Callable[..., Any]

# Modules of the standard library whose classes hold functions of `os` as attributes: pathlib's
# accessor in Python 3.10, glob's from 3.13 on.
_HOLDERS_OF_COPIES = ("glob", "pathlib", "pathlib._local", "pathlib._os")


def install_patches(recorder: AccessRecorder, is_project: IsProject) -> None:
    """Patch this process until it ends. `is_project` is that of the recorder."""
    _patch_native_files(recorder)
    _patch_existence_tests(recorder)
    _patch_open(recorder)
    _patch_metadata(recorder)
    _patch_environment(recorder)
    sys.meta_path.insert(0, _ImportHook(recorder))
    _compile_from_source(is_project)


class _ImportHook:
    """Notes every search for a module that is not loaded, and leaves it to the next finders."""

    def __init__(self, recorder: AccessRecorder) -> None:
        self._recorder = recorder

    def find_spec(
        self,
        name: str,
        path: Sequence[str] | None,
        _target: object = None,
    ) -> ModuleSpec | None:
        searched = sys.path if path is None else path
        self._recorder.note_import(name, list(searched))
        return None


def _patch_existence_tests(recorder: AccessRecorder) -> None:
    def note_lstat(path: AnyPath) -> None:
        # The frames above are the patched lstat and its caller. Resolving a path calls lstat for
        # every directory on the way; the links among them reach `note_link`.
        caller = sys._getframe(2).f_code.co_name
        if caller not in ("realpath", "_joinrealpath"):
            recorder.note_examined(path)

    _patch_path_function("stat", recorder.note_examined)
    _patch_path_function("access", recorder.note_examined)
    _patch_path_function("lstat", note_lstat)
    _patch_path_function("readlink", recorder.note_link)


def _patch_path_function(name: str, note: Note) -> None:
    """Patch the function `os.name`, whose first argument is a path or a descriptor."""
    native = getattr(os, name)

    def patched(path: Any, *args: Any, **kwargs: Any) -> Any:
        if is_path(path):
            note(path_in_directory(path, kwargs.get("dir_fd")))
        return native(path, *args, **kwargs)

    _copy_capabilities(native, patched)
    patched.__name__ = name
    patched.__qualname__ = name
    # pickle looks a function up by its module.
    patched.__module__ = "os"
    setattr(os, name, patched)
    _replace_copies(native, patched)


def _copy_capabilities(native: Any, patched: Any) -> None:
    """Add `patched` to the sets in which the standard library looks a function of `os` up."""
    capabilities: tuple[set[Any], ...] = (
        os.supports_dir_fd,
        os.supports_fd,
        os.supports_follow_symlinks,
        os.supports_effective_ids,
    )
    for functions in capabilities:
        if native in functions:
            functions.add(patched)


def _replace_copies(native: Any, patched: Any) -> None:
    """Replace `native` where classes of the standard library took it from `os` before."""
    for module_name in _HOLDERS_OF_COPIES:
        module = sys.modules.get(module_name)
        if module is None:
            continue
        for holder in list(vars(module).values()):
            if isinstance(holder, type):
                _replace_attributes(holder, native, patched)


def _replace_attributes(holder: type, native: Any, patched: Any) -> None:
    for name, value in list(vars(holder).items()):
        function = value.__func__ if isinstance(value, staticmethod) else value
        if function is native:
            setattr(holder, name, staticmethod(patched))


def _patch_metadata(recorder: AccessRecorder) -> None:
    """Note which distribution is asked for: the lookup lists directories that hold all of them."""
    from importlib.metadata import Distribution

    native = Distribution.from_name

    def from_name(name: str) -> Distribution:
        recorder.note_distribution(name)
        with recorder.paused():
            return native(name)

    Distribution.from_name = from_name  # type: ignore[method-assign]


def _patch_open(recorder: AccessRecorder) -> None:
    """The audit event of `os.open` does not give the directory of a relative path."""
    native = os.open

    def patched(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        descriptor = kwargs.get("dir_fd")
        if descriptor is None:
            return native(path, flags, *args, **kwargs)
        complete = path_in_directory(path, descriptor)
        if flags & (os.O_WRONLY | os.O_RDWR):
            recorder.note_written(complete)
        elif not flags & os.O_DIRECTORY:
            recorder.note_opened(complete)
        # The audit event has the incomplete path.
        with recorder.paused():
            return native(path, flags, *args, **kwargs)

    os.supports_dir_fd.add(patched)
    os.open = patched


class _Instruction(NamedTuple):
    """An instruction of a running function."""

    frame_id: int
    offset: int


def _patch_environment(recorder: AccessRecorder) -> None:
    """Note variables that are read by name.

    A copy of the complete environment, as for a child process, reads none.
    """
    from torch.compiler import is_dynamo_compiling

    environment_type: Any = type(os.environ)
    native_get = environment_type.__getitem__
    native_iterate = environment_type.__iter__
    # At most one: the instruction that iterated over the names last.
    last_iteration: list[_Instruction] = []

    def get(environment: Any, name: Any) -> Any:
        if is_dynamo_compiling():
            # The strict export cannot trace the code below. Eager mode reads the variable again.
            return native_get(environment, name)
        caller = sys._getframe(1)
        # A view of the values, or `dict(os.environ)`, takes the names and then their values in one
        # instruction.
        is_view = caller.f_code.co_name == "__iter__"
        is_copied = is_view or [_instruction_of(caller)] == last_iteration
        if isinstance(name, str | bytes) and not is_copied:
            recorder.note_variable(os.fsdecode(name))
        return native_get(environment, name)

    def iterate(environment: Any) -> Iterator[Any]:
        if is_dynamo_compiling():
            yield from native_iterate(environment)
            return
        caller: FrameType | None = sys._getframe(1)
        while caller is not None and caller.f_code.co_name == "__iter__":
            caller = caller.f_back
        last_iteration.clear()
        if caller is not None:
            last_iteration.append(_instruction_of(caller))
        yield from native_iterate(environment)

    environment_type.__getitem__ = get
    environment_type.__iter__ = iterate


def _instruction_of(frame: FrameType) -> _Instruction:
    return _Instruction(id(frame), frame.f_lasti)


def _patch_native_files(recorder: AccessRecorder) -> None:
    import safetensors
    import safetensors.torch
    import torch

    def note_read(path: AnyPath) -> None:
        if os.path.isfile(path):
            recorder.note_opened(path)

    note_written = recorder.note_written
    for module in (safetensors, safetensors.torch):
        _patch(module, "safe_open", _recording_function, note_read)
        _patch(module, "serialize_file", _recording_function, note_written)
    # torch.jit.load, torch.export.load and torch.package pass a path to the first two.
    _patch(torch._C, "PyTorchFileReader", _recording_class, note_read)
    _patch(torch._C, "import_ir_module", _recording_function, note_read)
    _patch(torch, "from_file", _recording_function, note_read)
    _patch(torch.UntypedStorage, "from_file", _recording_function, note_read)
    _patch(torch._C, "PyTorchFileWriter", _recording_class, note_written)


def _patch(
    owner: Any,
    name: str,
    recording: Callable[[Any, Note], Any],
    note: Note,
) -> None:
    native = getattr(owner, name)
    setattr(owner, name, recording(native, note))


def _recording_function(native: Function, note: Note) -> Function:
    """A function that notes its paths and calls `native`."""

    def call(*args: Any, **kwargs: Any) -> Any:
        _note_paths(note, args, kwargs)
        return native(*args, **kwargs)

    return call


def _recording_class(native: Any, note: Note) -> type:
    """A subclass of `native` that notes the paths that it is created with."""

    class Recording(native):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            _note_paths(note, args, kwargs)
            super().__init__(*args, **kwargs)

    Recording.__name__ = native.__name__
    Recording.__qualname__ = native.__name__
    return Recording


def _note_paths(note: Note, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    for value in (*args, *kwargs.values()):
        # Bytes are content here, not paths.
        if isinstance(value, str | os.PathLike):
            note(value)


def _compile_from_source(is_project: IsProject) -> None:
    """Keep the import system from using bytecode of project files.

    A .pyc counts as fresh by size and time, which an edit can keep. Besides, a module that is run
    by its path would be read from its bytecode alone. A loader whose `path_stats` fails compiles
    the source.
    """
    native = SourceFileLoader.path_stats

    def path_stats(loader: SourceFileLoader, path: str) -> Any:
        if is_project(os.path.realpath(path)):
            raise OSError("bytecode of project files is not used")
        return native(loader, path)

    SourceFileLoader.path_stats = path_stats  # type: ignore[method-assign, assignment]
