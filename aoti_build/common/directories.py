"""Directories that nobody but this user can change: code is compiled there, loaded from there and
executed.

A directory is fit as a *place* if it, and every directory above it, belongs to this user or root,
and nobody else may write there. A sticky directory such as /tmp may be written to by all, since
nobody can move what others made in it. Links count too: one that somebody else owns could lead
elsewhere tomorrow. A directory is *private* if it lies in such a place, belongs to this user and
has mode 0700.

The walk starts at the root and opens one name after another without following a link, so that what
is judged is what is there. Nothing is made before the directory above it was judged.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path, PurePosixPath

from aoti_build.errors import DirectoryError

BUILD_VARIABLE = "AOTI_BUILD_CACHE"
RUNTIME_VARIABLE = "AOTI_BUILD_RUNTIME_CACHE"
_SYSTEM_TEMPORARY = Path("/tmp")  # noqa: S108 - only for a directory that is judged to be private
_MOST_LINKS = 40  # as many as Linux follows
_LOOK = getattr(os, "O_PATH", os.O_RDONLY) | os.O_NOFOLLOW | os.O_CLOEXEC


def build_cache() -> Path:
    """Where builds compile and keep what they compiled, made if need be. Raises
    `DirectoryError`."""
    return _kept(BUILD_VARIABLE, "XDG_CACHE_HOME", ".cache", "build")


def runtime_cache() -> Path:
    """Where packages are unpacked to be loaded, made if need be. Raises `DirectoryError`."""
    path = _kept(RUNTIME_VARIABLE, "XDG_CACHE_HOME", ".cache", "unpacked")
    if fault := code_fault(path):
        hint = f"let {RUNTIME_VARIABLE} name another directory"
        raise DirectoryError(
            "code cannot be loaded from here", where=str(path), cause=fault, hint=hint
        )
    return path


def code_fault(path: Path) -> str:
    """Why nothing can be put into a directory and loaded from there; empty if it can."""
    if not os.access(path, os.W_OK | os.X_OK):
        return f"{path} cannot be written to"
    if is_noexec(path):
        return f"{path} is on a file system that is mounted noexec"
    return ""


def log_directory() -> Path:
    """Where logs go that have no place in a project, made if need be. Raises `DirectoryError`."""
    return _kept("", "XDG_STATE_HOME", ".local/state", "logs")


def agreed_directory() -> Path:
    """Where it is remembered which records were seen to be right, made if need be. Raises
    `DirectoryError`."""
    return _kept("", "XDG_STATE_HOME", ".local/state", "agreed")


def named(variable: str) -> Path | None:
    """The absolute path that an environment variable names; None if it names none. A shell leaves
    "~" alone in some places, and a directory of that name is never meant. Raises
    `DirectoryError`."""
    given = os.environ.get(variable) if variable else None
    if not given:
        return None
    path = os.path.expanduser(given)
    if path.startswith("~"):
        raise DirectoryError(f"{variable} names a home directory that cannot be found", where=given)
    return Path(path).absolute()


def home() -> Path | None:
    """This user's home directory, if the environment or the user database names one by an absolute
    path."""
    path = os.path.expanduser("~") if os.environ.get("HOME", "unset") else ""
    return Path(path) if os.path.isabs(path) else None


def private_below(base: Path, name: str) -> Path:
    """The private directory `name` in `base`, made if need be; a path without links.

    Where all may write to `base`, as in /tmp, the name gets the user's number, so that users do not
    meet there. Raises `DirectoryError`.
    """
    real, status = _walk(base, make=True)
    if _is_open(status):
        name = f"aoti_build-{name}-{os.geteuid()}"
    real, status = _walk(real / name, make=True)
    mode = stat.S_IMODE(status.st_mode)
    if status.st_uid != os.geteuid():
        raise _unfit(real, f"{real} belongs to user {status.st_uid}")
    if mode & 0o077:
        said = f"{real} is open to others (mode {mode:04o})"
        raise _unfit(real, said, f"chmod 700 {real}, if you trust what it holds")
    return real


def temporary_directory() -> Path:
    """The directory for temporary files, fit for packages to be unpacked in and loaded from. Raises
    `DirectoryError`.

    Python passes over a TMPDIR that it cannot write to, torch's loader does not: so the variable is
    taken at its word.
    """
    import tempfile

    try:
        given = Path(os.environ.get("TMPDIR") or tempfile.gettempdir())
    except OSError as error:
        raise _no_temporary(str(error)) from error
    if not given.is_absolute():
        said = f"TMPDIR={given} is relative, and worker processes run in another directory"
        raise _no_temporary(said)
    try:
        path, _ = _walk(given, make=False)
    except DirectoryError as error:
        raise _no_temporary(error.cause or error.message, error.hint) from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise _no_temporary(f"{path} cannot be written to")
    if is_noexec(path):
        said = f"{path} is mounted noexec, and packages are unpacked there to be loaded"
        raise _no_temporary(said)
    return path


def require_utf8(path: Path) -> None:
    """Raise `DirectoryError` if torch, which takes every path for UTF-8, would look for another one
    than the system."""
    name = os.fsencode(path)
    if str(path).encode(errors="replace") == name:
        return
    try:
        name.decode()
        hint = "set LC_ALL=C.UTF-8, or leave PYTHONUTF8 and PYTHONCOERCECLOCALE alone"
    except UnicodeDecodeError:
        hint = "give the directory another name"
    said = "torch finds no files below a directory whose name is not UTF-8"
    raise DirectoryError(said, where=str(path), hint=hint)


def is_noexec(directory: Path) -> bool:
    """Whether code in the directory can be neither executed nor mapped."""
    return bool(os.statvfs(directory).f_flag & getattr(os, "ST_NOEXEC", 0))


def _no_temporary(cause: str, fix: str | None = None) -> DirectoryError:
    other = "let TMPDIR name a directory of your own, on a file system that allows execution"
    return DirectoryError("the temporary directory is unfit", cause=cause, hint=_either(fix, other))


def _either(fix: str | None, other: str) -> str:
    return f"{fix}; or {other}" if fix else other


def _kept(variable: str, xdg: str, usual: str, name: str) -> Path:
    """The private directory `name` in the one that `variable` names; else in aoti_build's own."""
    try:
        return private_below(named(variable) or _own_base(xdg, usual), name)
    except DirectoryError as error:
        error.hint = _either(error.hint, f"let {variable or xdg} name a directory of your own")
        raise


def _own_base(xdg: str, usual: str) -> Path:
    """aoti_build's own directory: in the one that the variable `xdg` names, else in `usual` in the
    home. Containers often run with no home, or with somebody else's: then it is /tmp, where the
    user's private directory has a name of its own, and is refused if somebody else made it."""
    given = os.environ.get(xdg, "")
    if os.path.isabs(given):  # others are to be ignored, by the XDG specification
        return Path(given) / "aoti_build"
    found = home()
    if found is None or not _is_own(found):
        return _SYSTEM_TEMPORARY
    return found / usual / "aoti_build"


def _is_own(place: Path) -> bool:
    """Whether this user can keep files there, as far as its owner is concerned."""
    try:
        owner = place.stat().st_uid
    except OSError:
        return False
    return owner in (os.geteuid(), 0) and os.access(place, os.W_OK | os.X_OK)


def _walk(path: Path, *, make: bool) -> tuple[Path, os.stat_result]:
    """Go down to the absolute `path` from the root; the path without links, and what is there.

    What is absent is made with mode 0700 if it is to be made. Raises `DirectoryError`.
    """
    waiting, links = [*reversed(path.parts)], 0
    real, here = Path("/"), os.open("/", _LOOK)
    try:
        while waiting:
            name = waiting.pop()
            there = _entered(name, here, make)
            status = os.fstat(there)
            if stat.S_ISLNK(status.st_mode):
                leads_to = os.readlink("", dir_fd=there)
                os.close(there)
                links += 1
                _judge_link(real / name, status, links)
                waiting += reversed(PurePosixPath(leads_to).parts)
                continue
            os.close(here)
            here = there
            real = real.parent if name == ".." else real / name
            _judge(real, status)
        require_utf8(real)
        return real, os.fstat(here)
    except OSError as error:
        cause = f"{real / (error.filename or '')}: {error.strerror}"
        said = "the directory is not there and cannot be made"
        raise DirectoryError(said, where=str(path), cause=cause) from error
    finally:
        os.close(here)


def _entered(name: str, here: int, make: bool) -> int:
    """A descriptor of what `name` is in the open directory `here`; a link is opened itself."""
    try:
        return os.open(name, _LOOK, dir_fd=here)
    except FileNotFoundError:
        if not make:
            raise
    with contextlib.suppress(FileExistsError):  # another process was faster
        os.mkdir(name, 0o700, dir_fd=here)
        os.chmod(name, 0o700, dir_fd=here)  # a umask can take even the user's own rights away
    return os.open(name, _LOOK, dir_fd=here)


def _judge(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISDIR(status.st_mode):
        raise _unfit(path, f"{path} is no directory")
    if status.st_uid not in (os.geteuid(), 0):
        raise _unfit(path, f"{path} belongs to user {status.st_uid}")
    if _is_open(status) and not status.st_mode & stat.S_ISVTX:
        said = f"{path} can be written to by others (mode {stat.S_IMODE(status.st_mode):04o})"
        raise _unfit(path, said, f"chmod go-w {path}, if you trust what it holds")


def _judge_link(path: Path, status: os.stat_result, links: int) -> None:
    if status.st_uid not in (os.geteuid(), 0):
        raise _unfit(path, f"{path} is a symbolic link of user {status.st_uid}")
    if links > _MOST_LINKS:
        raise _unfit(path, f"{path} is one of too many symbolic links")


def _is_open(status: os.stat_result) -> bool:
    return bool(status.st_mode & (stat.S_IWGRP | stat.S_IWOTH))


def _unfit(path: Path, cause: str, fix: str | None = None) -> DirectoryError:
    said = "a directory for code must be this user's alone"
    return DirectoryError(said, where=str(path), cause=cause, hint=fix)
