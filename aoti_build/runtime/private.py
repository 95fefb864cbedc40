"""A directory that only this user can write to, for what is unpacked from packages: native code is
loaded from there.

`AOTI_BUILD_RUNTIME_CACHE` names the directory it lies in, or says `off`; otherwise that is
`aoti_build` in `XDG_CACHE_HOME` or `~/.cache`. `aoti_build.common.directories` has the rules for
it; besides, its file system must let code be mapped. Where the default is not such a place,
packages are loaded without it; where a variable names a bad one, that is an error.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from pathlib import Path

from aoti_build.common import directories
from aoti_build.common.directories import RUNTIME_VARIABLE as VARIABLE
from aoti_build.errors import DirectoryError

UNUSED_SECONDS = 7 * 86400.0


def private_directory() -> Path | None:
    """The directory, made if need be; None if there is to be none. Raises `DirectoryError` for a
    bad one that was named."""
    named = os.environ.get(VARIABLE)
    if named == "off":
        return None
    try:
        return directories.runtime_cache()
    except DirectoryError as error:
        if not named:
            return None
        error.hint = (
            f"{error.hint or f'let {VARIABLE} name another directory'}; or set {VARIABLE}=off"
        )
        raise


def hold(root: Path, name: str) -> int:
    """A descriptor that locks the entry `name` until it is closed.

    While it is open, no process can remove the entry with `remove_unused`.
    """
    path = root / f"{name}.lock"
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
            os.utime(descriptor)  # the time of the last use
            return descriptor
        # `remove_unused` removed the lock file between open and flock.
        os.close(descriptor)


def remove_unused(root: Path, seconds: float = UNUSED_SECONDS) -> None:
    """Remove entries that are not locked and were not used in the last `seconds`.

    Staging directories of killed processes are removed too.
    """
    oldest = time.time() - seconds
    for path in root.glob("*.lock"):
        try:
            if path.stat().st_mtime > oldest:
                continue
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path.with_suffix(""), ignore_errors=True)
            path.unlink(missing_ok=True)
        except OSError:
            pass  # another process has it locked
        finally:
            os.close(descriptor)
    for path in root.glob(".unpack-*"):
        try:
            is_unused = path.lstat().st_mtime < oldest
        except OSError:
            continue  # another process removed or published it
        if is_unused:
            shutil.rmtree(path, ignore_errors=True)
