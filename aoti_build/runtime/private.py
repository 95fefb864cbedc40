"""A directory that only this user can write to, for what is unpacked from packages: native code is loaded from there.

`AOTI_BUILD_RUNTIME_CACHE` names it, or says `off`; otherwise it is `aoti_build` in `XDG_CACHE_HOME` or `~/.cache`. It
is used if it, and every directory above it, belongs to this user or root and nobody else may write there (a sticky
directory such as /tmp may be above it), and if its file system lets code be mapped. Where the default is not such a
place, packages are loaded without it; where a variable names a bad one, that is an error.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import time
from pathlib import Path

from aoti_build.errors import UsageError

VARIABLE = "AOTI_BUILD_RUNTIME_CACHE"
UNUSED_SECONDS = 7 * 86400.0


def private_directory() -> Path | None:
    """The directory, made if need be; None if there is to be none. Raises `UsageError` for a bad one that was named."""
    named = os.environ.get(VARIABLE)
    if named == "off":
        return None
    path = Path(named or os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))  # which never raises
    path = (path if named else path / "aoti_build").absolute()
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        fault = _fault(path.resolve(strict=True))
    except OSError as error:
        fault = str(error)
    if fault and named:
        raise UsageError(
            f"{VARIABLE} names a directory that code cannot be loaded from",
            where=str(path),
            cause=fault,
            hint=f"name one of your own with mode 0700, or set {VARIABLE}=off",
        )
    return None if fault else path.resolve()


def _fault(path: Path) -> str:
    """What speaks against the directory; empty if nothing does."""
    for directory in (path, *path.parents):
        status = directory.stat()
        if status.st_uid not in (os.geteuid(), 0):
            return f"{directory} belongs to user {status.st_uid}"
        open_to_others = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        if open_to_others and (directory == path or not status.st_mode & stat.S_ISVTX):
            return f"{directory} can be written to by others (mode {stat.S_IMODE(status.st_mode):04o})"
    if not os.access(path, os.W_OK | os.X_OK):
        return f"{path} cannot be written to"
    if os.statvfs(path).f_flag & os.ST_NOEXEC:
        return f"{path} is on a file system that is mounted noexec"
    return ""


def hold(root: Path, name: str) -> int:
    """A descriptor that keeps the entry `name` from being removed by `remove_unused`, in any process, until it is
    closed."""
    path = root / f"{name}.lock"
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
            os.utime(descriptor)
            return descriptor
        os.close(descriptor)  # removed between open and flock


def remove_unused(root: Path, seconds: float = UNUSED_SECONDS) -> None:
    """Remove entries that no process holds and none has asked for in the last `seconds`, and staging left by killed
    processes."""
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
            pass  # somebody holds it
        finally:
            os.close(descriptor)
    for path in root.glob(".unpack-*"):
        if path.lstat().st_mtime < oldest:
            shutil.rmtree(path, ignore_errors=True)
