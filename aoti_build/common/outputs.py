"""Files that people named or look at: reports, outputs of a run, logs.

What people named is written as a shell would write it: a pipe, a device or the target of a link
stays what it is. Logs are our own, and are only ever regular files.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import sys
from pathlib import Path

from aoti_build.common.writing import write_atomic
from aoti_build.errors import UsageError

_DESCRIPTOR = re.compile(r"/(?:dev|proc/self)/fd/(\d{1,9})")
_MOST_LINKS = 40  # as many as Linux follows


def check_output(path: Path) -> None:
    """Raise `UsageError` if the file that a person named is a directory. To be asked before the
    work whose result goes there."""
    if path.is_dir():
        raise UsageError(f"{path} is a directory", hint="name a file in it")


def write_output(path: Path, data: bytes) -> None:
    """Write to the file that a person named.

    A regular file is replaced in one step. So is the one that a link leads to: the link stays.
    Pipes and devices are written into; a pipe that has no reader yet is waited for. ``/dev/stdout``
    and ``/dev/fd/N`` are this process's own, open as they are.

    Raises `UsageError` if it is a directory or cannot be written.
    """
    check_output(path)
    try:
        descriptor = _own_descriptor(path)
        if descriptor is not None:
            _write_into(os.dup(descriptor), data)
        elif _is_special(path):
            _write_into(os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOCTTY), data)
        else:
            write_atomic(Path(os.path.realpath(path)), data)
    except OSError as error:
        cause = error.strerror or str(error)
        raise UsageError(
            f"{path} cannot be written", cause=cause, hint="name another file"
        ) from error


def open_log(path: Path) -> int:
    """A descriptor that appends to the log `path`, which is made with its directory if need be.
    Raises OSError.

    A log is working state: a link, a pipe or whatever else has its name is removed, not written to.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(OSError):
        if not stat.S_ISREG(path.lstat().st_mode):
            path.unlink()
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    return os.open(path, flags, 0o666)


def start_log(path: Path) -> None:
    """Make the log `path` anew, empty. Raises OSError."""
    descriptor = open_log(path)
    try:
        os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def _own_descriptor(path: Path) -> int | None:
    """The number of the open file that `path` names, through links too; None if it names none.

    Opening such a name again would begin at the file's start, and replacing the file would take it
    from whoever holds it open.
    """
    name = os.path.abspath(path)
    for _ in range(_MOST_LINKS):
        if found := _DESCRIPTOR.fullmatch(name):
            return int(found[1])
        if not os.path.islink(name):
            return None
        name = os.path.normpath(os.path.join(os.path.dirname(name), os.readlink(name)))
    return None


def _is_special(path: Path) -> bool:
    """Whether there is something that is neither a regular file nor a directory. Raises OSError."""
    try:
        return not stat.S_ISREG(path.stat().st_mode)
    except FileNotFoundError:
        return False


def _write_into(descriptor: int, data: bytes) -> None:
    """Write all of it and close the descriptor; after what was printed so far."""
    with open(descriptor, "wb", buffering=0) as file:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        rest = memoryview(data)
        while rest:
            rest = rest[file.write(rest) :]
