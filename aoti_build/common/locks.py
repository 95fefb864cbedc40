"""Locks between processes. They save work; a lock that is lost corrupts nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from aoti_build.common.reading import require_regular

_POLL_SECONDS = 0.2


@contextlib.contextmanager
def lock(path: Path, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold the lock file `path`.

    While another process holds it, `on_wait` is called about five times a second. An exception of
    `on_wait` ends the wait. Raises OSError if `path` is not a regular file.
    """
    from filelock import FileLock, Timeout  # not on the no-op path

    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        require_regular(path)
    file_lock = FileLock(path)
    timeout = 0.0
    while True:
        try:
            file_lock.acquire(timeout=timeout)
            break
        except Timeout:
            on_wait()
            timeout = _POLL_SECONDS
    try:
        yield
    finally:
        file_lock.release()
