"""Files that people name or look at: reports, outputs of a run, logs.

A file that a person named is written as a shell would write it: a pipe, a device or the target of a
link stays what it is. Logs are our own, and are always regular files.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import sys
from pathlib import Path

from aoti_build.common.writing import write_all, write_atomic
from aoti_build.errors import UsageError

_DESCRIPTOR = re.compile(r"/(?:dev|proc/self)/fd/(\d{1,9})")
_MOST_LINKS = 40  # as many as Linux follows


def check_output(path: Path) -> None:
    """Raise `UsageError` if `path` is a directory. Call it before the work starts."""
    if path.is_dir():
        raise UsageError(f"{path} is a directory", hint="name a file in it")


def write_output(path: Path, data: bytes) -> None:
    """Write to the file that a person named.

    A regular file is replaced in one step; of a link, the file that it leads to. Pipes and devices
    are written into. A pipe without a reader makes the call wait. ``/dev/stdout`` and ``/dev/fd/N``
    are this process's own open files.

    Raises:
        UsageError: `path` is a directory or cannot be written.
    """
    check_output(path)
    try:
        descriptor = _own_descriptor(path)
        if descriptor is not None:
            _write_and_close(os.dup(descriptor), data)
        elif _is_special(path):
            flags = os.O_WRONLY | os.O_CLOEXEC | os.O_NOCTTY
            _write_and_close(os.open(path, flags), data)
        else:
            write_atomic(Path(os.path.realpath(path)), data)
    except OSError as error:
        raise UsageError(
            f"{path} cannot be written",
            cause=error.strerror or str(error),
            hint="name another file",
        ) from error


def open_log(path: Path) -> int:
    """A descriptor that appends to the log `path`, which is created if it is missing.

    Anything else of that name, such as a link or a pipe, is removed first. Raises OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(OSError):
        if not stat.S_ISREG(path.lstat().st_mode):
            path.unlink()
    # O_NOFOLLOW and O_NONBLOCK: a link or a pipe may appear after the removal.
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    return os.open(path, flags, 0o666)


def start_log(path: Path) -> None:
    """Create the log `path`, or empty it. Raises OSError."""
    descriptor = open_log(path)
    try:
        os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def _own_descriptor(path: Path) -> int | None:
    """The number of this process's open file that `path` names, also through links; else None.

    To open such a name again would start at the beginning of the file. To replace the file would
    take it from the processes that have it open.
    """
    name = os.path.abspath(path)
    for _ in range(_MOST_LINKS):
        match = _DESCRIPTOR.fullmatch(name)
        if match is not None:
            return int(match[1])
        if not os.path.islink(name):
            return None
        directory = os.path.dirname(name)
        link_target = os.path.join(directory, os.readlink(name))
        name = os.path.normpath(link_target)
    return None


def _is_special(path: Path) -> bool:
    """Whether `path` exists and is not a regular file. Raises OSError."""
    try:
        return not stat.S_ISREG(path.stat().st_mode)
    except FileNotFoundError:
        return False


def _write_and_close(descriptor: int, data: bytes) -> None:
    """Write all of `data` to a descriptor and close it. Text printed before comes first."""
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        write_all(descriptor, data)
    finally:
        os.close(descriptor)
