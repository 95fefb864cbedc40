"""Passes the audit events of Python that tell of accesses to an `AccessRecorder`.

Functions that raise no audit event are the subject of `patches`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from aoti_build._torch.discovery.paths import is_path, path_in_directory
from aoti_build._torch.discovery.recorder import AccessRecorder

Arguments = tuple[Any, ...]
Handler = Callable[[str, Arguments], None]


class PathArgument(NamedTuple):
    """The positions of a path among an event's arguments, and of its directory's descriptor."""

    path: int
    descriptor: int | None = None


# Events of functions that change or remove these paths.
_WRITES: dict[str, tuple[PathArgument, ...]] = {
    "os.remove": (PathArgument(0, 1),),
    "os.rename": (PathArgument(0, 2), PathArgument(1, 3)),
    "os.rmdir": (PathArgument(0, 1),),
    "os.truncate": (PathArgument(0),),
    "shutil.move": (PathArgument(0), PathArgument(1)),
}
# Events of functions that create a path, and fail where something exists already.
_CREATIONS: dict[str, PathArgument] = {
    "os.link": PathArgument(1, 3),
    "os.mkdir": PathArgument(0, 2),
    "os.symlink": PathArgument(1, 2),
}
_LINK_SOURCE = PathArgument(0, 2)
# Events of functions that change times or permissions of a file, and not its content.
_TOUCHES: dict[str, PathArgument] = {
    "os.chmod": PathArgument(0, 2),
    "os.chown": PathArgument(0, 3),
    "os.utime": PathArgument(0, 3),
}


def record_audit_events(recorder: AccessRecorder) -> None:
    """Add an audit hook, which Python cannot remove again."""
    sys.addaudithook(_AuditHook(recorder))


class _AuditHook:
    def __init__(self, recorder: AccessRecorder) -> None:
        self._recorder = recorder
        # The hook runs at every audit event of the process, so it has to be fast.
        self._handlers: dict[str, Handler] = {
            "open": self._on_open,
            **dict.fromkeys(_WRITES, self._on_write),
            **dict.fromkeys(_CREATIONS, self._on_creation),
            **dict.fromkeys(_TOUCHES, self._on_touch),
            "os.listdir": self._on_listing,
            "os.scandir": self._on_listing,
            "ctypes.dlopen": self._on_dlopen,
            "sqlite3.connect": self._on_database,
            "subprocess.Popen": self._on_popen,
            "os.posix_spawn": self._on_spawn,
            "os.system": self._on_system,
        }

    def __call__(self, event: str, arguments: Arguments) -> None:
        handler = self._handlers.get(event)
        if handler is not None:
            handler(event, arguments)

    def _on_open(self, _event: str, arguments: Arguments) -> None:
        path = arguments[0]
        # Else it is the descriptor of a file that is open already.
        if isinstance(path, str | bytes):
            flags = arguments[2]
            if not isinstance(flags, int):
                flags = 0
            self._recorder.note_open_call(path, flags)

    def _on_write(self, event: str, arguments: Arguments) -> None:
        for argument in _WRITES[event]:
            path = _path_of(arguments, argument)
            if path is not None:
                self._recorder.note_written(path)

    def _on_creation(self, event: str, arguments: Arguments) -> None:
        path = _path_of(arguments, _CREATIONS[event])
        if path is None:
            return
        with self._recorder.paused():
            exists = os.path.lexists(path)
        if not exists:
            self._recorder.note_written(path)
        if event == "os.link":
            self._note_link_source(arguments)

    def _note_link_source(self, arguments: Arguments) -> None:
        """A new hard link may be read in place of its source, and moves the source's change
        time."""
        source = _path_of(arguments, _LINK_SOURCE)
        if source is not None:
            self._recorder.note_opened(source)
            self._recorder.note_touched(source)

    def _on_touch(self, event: str, arguments: Arguments) -> None:
        path = _path_of(arguments, _TOUCHES[event])
        if path is not None:
            self._recorder.note_touched(path)

    def _on_listing(self, _event: str, arguments: Arguments) -> None:
        directory = arguments[0]
        if isinstance(directory, int):
            directory = path_in_directory(".", directory)
        self._recorder.note_listed(directory or ".")

    def _on_dlopen(self, _event: str, arguments: Arguments) -> None:
        library = arguments[0]
        # A name without a directory is searched for in those of the system.
        if isinstance(library, str | bytes) and os.sep in os.fsdecode(library):
            self._recorder.note_opened(library)

    def _on_database(self, _event: str, arguments: Arguments) -> None:
        database = arguments[0]
        if not is_path(database):
            return
        with self._recorder.paused():
            exists = os.path.isfile(database)
        if exists:
            self._recorder.note_opened(database)
        self._recorder.note_written(database)

    def _on_popen(self, _event: str, arguments: Arguments) -> None:
        words = arguments[1]
        directory = arguments[2]
        self._recorder.note_arguments(words, directory)

    def _on_spawn(self, _event: str, arguments: Arguments) -> None:
        words = arguments[1]
        self._recorder.note_arguments(words, None)

    def _on_system(self, _event: str, arguments: Arguments) -> None:
        command = arguments[0]
        self._recorder.note_arguments([command], None)


def _path_of(arguments: Arguments, position: PathArgument) -> str | None:
    """The path at `position`; None for a descriptor of an open file in its place."""
    path = arguments[position.path]
    if not is_path(path):
        return None
    if position.descriptor is None:
        return os.fsdecode(path)
    return path_in_directory(path, arguments[position.descriptor])
