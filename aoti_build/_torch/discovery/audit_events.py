"""Passes the audit events of Python that tell of accesses to an `AccessRecorder`.

Functions that raise no audit event are the subject of `patches`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from aoti_build._torch.discovery.paths import is_path, path_in_directory
from aoti_build._torch.discovery.recorder import AccessRecorder

Arguments = tuple[Any, ...]
Handler = Callable[[Arguments], None]


class PathPosition(NamedTuple):
    """The positions of a path among an event's arguments, and of its directory's descriptor."""

    path: int
    descriptor: int | None = None


# Events of functions that change or remove these paths.
_WRITES: dict[str, tuple[PathPosition, ...]] = {
    "os.remove": (PathPosition(0, 1),),
    "os.rename": (
        PathPosition(0, 2),
        PathPosition(1, 3),
    ),
    "os.rmdir": (PathPosition(0, 1),),
    "os.truncate": (PathPosition(0),),
    "shutil.move": (
        PathPosition(0),
        PathPosition(1),
    ),
}
# Events of functions that create a path, and fail where something exists already.
_CREATIONS: dict[str, PathPosition] = {
    "os.mkdir": PathPosition(0, 2),
    "os.symlink": PathPosition(1, 2),
}
_HARD_LINK_SOURCE = PathPosition(0, 2)
_HARD_LINK = PathPosition(1, 3)
# Events of functions that change times or permissions of a file, and not its content.
_TOUCHES: dict[str, PathPosition] = {
    "os.chmod": PathPosition(0, 2),
    "os.chown": PathPosition(0, 3),
    "os.utime": PathPosition(0, 3),
}


def record_audit_events(recorder: AccessRecorder) -> None:
    """Add an audit hook, which Python cannot remove again."""
    sys.addaudithook(_AuditHook(recorder))


class _AuditHook:
    """Runs at every audit event of the process, so it has to be fast."""

    def __init__(self, recorder: AccessRecorder) -> None:
        self._recorder = recorder
        self._handlers: dict[str, Handler] = {
            "open": self._on_open,
            "os.link": self._on_hard_link,
            "os.listdir": self._on_listing,
            "os.scandir": self._on_listing,
            "ctypes.dlopen": self._on_dlopen,
            "sqlite3.connect": self._on_database,
            "subprocess.Popen": self._on_popen,
            "os.posix_spawn": self._on_spawn,
            "os.system": self._on_system,
        }
        for event, positions in _WRITES.items():
            self._handlers[event] = partial(self._on_write, positions)
        for event, position in _CREATIONS.items():
            self._handlers[event] = partial(self._on_creation, position)
        for event, position in _TOUCHES.items():
            self._handlers[event] = partial(self._on_touch, position)

    def __call__(self, event: str, arguments: Arguments) -> None:
        handler = self._handlers.get(event)
        if handler is not None:
            handler(arguments)

    def _on_open(self, arguments: Arguments) -> None:
        path = arguments[0]
        # Else it is the descriptor of a file that is open already.
        if isinstance(path, str | bytes):
            flags = arguments[2]
            if not isinstance(flags, int):
                flags = 0
            self._recorder.note_open_call(path, flags)

    def _on_write(self, positions: Sequence[PathPosition], arguments: Arguments) -> None:
        for position in positions:
            path = _path_at(position, arguments)
            if path is not None:
                self._recorder.note_written(path)

    def _on_creation(self, position: PathPosition, arguments: Arguments) -> None:
        path = _path_at(position, arguments)
        if path is None:
            return
        with self._recorder.paused():
            exists = os.path.lexists(path)
        if not exists:
            self._recorder.note_written(path)

    def _on_hard_link(self, arguments: Arguments) -> None:
        self._on_creation(_HARD_LINK, arguments)
        source = _path_at(_HARD_LINK_SOURCE, arguments)
        if source is not None:
            # The link may be read in place of its source.
            self._recorder.note_opened(source)
            # The source gets a new change time.
            self._recorder.note_touched(source)

    def _on_touch(self, position: PathPosition, arguments: Arguments) -> None:
        path = _path_at(position, arguments)
        if path is not None:
            self._recorder.note_touched(path)

    def _on_listing(self, arguments: Arguments) -> None:
        directory = arguments[0]
        if isinstance(directory, int):
            directory = path_in_directory(".", directory)
        self._recorder.note_listed(directory or ".")

    def _on_dlopen(self, arguments: Arguments) -> None:
        library = arguments[0]
        if not isinstance(library, str | bytes):
            return
        # A name without a directory is searched for in those of the system.
        if os.sep in os.fsdecode(library):
            self._recorder.note_opened(library)

    def _on_database(self, arguments: Arguments) -> None:
        database = arguments[0]
        if not is_path(database):
            return
        with self._recorder.paused():
            exists = os.path.isfile(database)
        if exists:
            self._recorder.note_opened(database)
        self._recorder.note_written(database)

    def _on_popen(self, arguments: Arguments) -> None:
        words = arguments[1]
        directory = arguments[2]
        self._recorder.note_arguments(words, directory)

    def _on_spawn(self, arguments: Arguments) -> None:
        words = arguments[1]
        self._recorder.note_arguments(words, None)

    def _on_system(self, arguments: Arguments) -> None:
        command = arguments[0]
        self._recorder.note_arguments([command], None)


def _path_at(position: PathPosition, arguments: Arguments) -> str | None:
    """The path at `position`; None for a descriptor of an open file in its place."""
    path = arguments[position.path]
    if not is_path(path):
        return None
    if position.descriptor is None:
        return os.fsdecode(path)
    return path_in_directory(path, arguments[position.descriptor])
