"""A temporary directory of this process, for packages that no other process may share."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from pathlib import Path
from typing import NamedTuple

from aoti_build.common.directories import temporary_directory


class _ProcessDirectory(NamedTuple):
    pid: int
    path: Path | None


_current: _ProcessDirectory | None = None
_current_lock = threading.Lock()


def process_directory() -> Path | None:
    """The directory, made at the first call and removed when the process ends.

    None if there is no room for one. Raises `DirectoryError` if the temporary directory is unfit.
    """
    global _current  # noqa: PLW0603 - a process has one, however many models it loads
    with _current_lock:
        # A fork makes a directory of its own: it must not remove that of its parent.
        if _current is None or _current.pid != os.getpid():
            _current = _ProcessDirectory(os.getpid(), _make_directory())
        return _current.path


def _make_directory() -> Path | None:
    from multiprocessing.util import Finalize  # only without a private directory

    parent = temporary_directory()
    try:
        name = tempfile.mkdtemp(dir=parent, prefix="aoti_build-")
        path = Path(name).resolve()
    except OSError:
        return None
    # Unlike atexit, Finalize also runs in a process that multiprocessing forked. It does not run in
    # a fork of the process that registered it.
    Finalize(
        None,
        shutil.rmtree,
        (path,),
        {"ignore_errors": True},
        exitpriority=0,
    )
    return path
