"""Private directories: code is compiled there, loaded from there and executed.

A directory is *safe* if it, and every directory above it, belongs to this user or root, and no
other user may write there. A sticky directory such as /tmp may be writable for all, since users
cannot move each other's entries there. The symbolic links on the way are judged as well: the owner
of a link can let it point elsewhere tomorrow. A directory is *private* if it is safe, belongs to
this user and has mode 0700.

The walk to a directory starts at the root and opens one name after another without following a
link. So the directory that is judged is the directory that is used. No directory is created before
the one above it was judged.
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
_INSPECT = getattr(os, "O_PATH", os.O_RDONLY) | os.O_NOFOLLOW | os.O_CLOEXEC


def build_cache() -> Path:
    """The directory in which builds compile and keep compiled code. Raises `DirectoryError`."""
    return _private_cache(BUILD_VARIABLE, "XDG_CACHE_HOME", ".cache", "build")


def runtime_cache() -> Path:
    """The directory in which packages are unpacked to be loaded. Raises `DirectoryError`."""
    path = _private_cache(RUNTIME_VARIABLE, "XDG_CACHE_HOME", ".cache", "unpacked")
    fault = code_fault(path)
    if fault:
        raise DirectoryError(
            "code cannot be loaded from here",
            where=str(path),
            cause=fault,
            hint=f"set {RUNTIME_VARIABLE} to another directory",
        )
    return path


def code_fault(path: Path) -> str:
    """Why code cannot be written to a directory and loaded from there; empty if it can."""
    if not os.access(path, os.W_OK | os.X_OK):
        return f"{path} cannot be written to"
    if is_noexec(path):
        return f"{path} is on a file system that is mounted noexec"
    return ""


def log_directory() -> Path:
    """The directory for logs that belong to no project. Raises `DirectoryError`."""
    return _private_cache("", "XDG_STATE_HOME", ".local/state", "logs")


def agreed_directory() -> Path:
    """The directory that remembers which records were verified. Raises `DirectoryError`."""
    return _private_cache("", "XDG_STATE_HOME", ".local/state", "agreed")


def path_in_variable(variable: str) -> Path | None:
    """The absolute path in an environment variable, or None if the variable is unset or empty.

    Raises:
        DirectoryError: the path begins with the home of a user that does not exist.
    """
    text = os.environ.get(variable) if variable else None
    if not text:
        return None
    # A shell leaves "~" unexpanded in some positions. A directory of that name is never meant.
    path = os.path.expanduser(text)
    if path.startswith("~"):
        message = f"{variable} names a home directory that cannot be found"
        raise DirectoryError(message, where=text)
    return Path(path).absolute()


def home() -> Path | None:
    """This user's home directory, or None if there is no absolute path for it.

    The path comes from the environment or the user database.
    """
    # An empty HOME is not an unset one: expanduser would then give "/".
    if os.environ.get("HOME") == "":
        return None
    path = os.path.expanduser("~")
    return Path(path) if os.path.isabs(path) else None


def private_below(base: Path, name: str) -> Path:
    """The private directory `name` in `base`, created if it is missing; a path without links.

    If other users may write to `base`, as in /tmp, the name contains the user's number, so that
    users do not meet there. Raises `DirectoryError`.
    """
    real_base, base_status = _walk(base, create=True)
    if others_may_write(base_status):
        name = f"aoti_build-{name}-{os.geteuid()}"
    path, status = _walk(real_base / name, create=True)
    if status.st_uid != os.geteuid():
        raise _unfit(path, f"{path} belongs to user {status.st_uid}")
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        raise _unfit(
            path,
            f"{path} is open to others (mode {mode:04o})",
            f"chmod 700 {path}, if you trust what it holds",
        )
    return path


def safe_directory(path: Path) -> Path:
    """The path of an existing safe directory without links. `path` is absolute.

    Raises `DirectoryError`.
    """
    return _walk(path, create=False)[0]


def temporary_directory() -> Path:
    """The directory for temporary files, safe for packages to be unpacked and loaded from.

    Raises `DirectoryError`.
    """
    import tempfile

    # Python ignores a TMPDIR that it cannot write to, but torch's loader does not. So the variable
    # is judged as it is.
    try:
        directory = Path(os.environ.get("TMPDIR") or tempfile.gettempdir())
    except OSError as error:
        raise _unfit_temporary(str(error)) from error
    if not directory.is_absolute():
        raise _unfit_temporary(
            f"TMPDIR={directory} is relative, and worker processes run in another directory"
        )
    try:
        path, _ = _walk(directory, create=False)
    except DirectoryError as error:
        raise _unfit_temporary(error.cause or error.message, error.hint) from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise _unfit_temporary(f"{path} cannot be written to")
    if is_noexec(path):
        raise _unfit_temporary(
            f"{path} is mounted noexec, and packages are unpacked there to be loaded"
        )
    return path


def require_utf8(path: Path) -> None:
    """Raise `DirectoryError` if torch and the system would not mean the same file by a path.

    Torch takes every path for UTF-8. Python decodes paths by the locale.
    """
    name = os.fsencode(path)
    if str(path).encode(errors="replace") == name:
        return
    try:
        name.decode()
        hint = "set LC_ALL=C.UTF-8, or leave PYTHONUTF8 and PYTHONCOERCECLOCALE alone"
    except UnicodeDecodeError:
        hint = "give the directory another name"
    raise DirectoryError(
        "torch finds no files below a directory whose name is not UTF-8",
        where=str(path),
        hint=hint,
    )


def is_noexec(directory: Path) -> bool:
    """Whether the file system refuses to execute and to map code."""
    flags = os.statvfs(directory).f_flag
    return bool(flags & getattr(os, "ST_NOEXEC", 0))


def is_trustworthy(status: os.stat_result) -> bool:
    """Whether only this user and root could have written what a path holds.

    `status` is of the path itself (`lstat`): a link is not trustworthy.
    """
    if stat.S_ISLNK(status.st_mode):
        return False
    return _is_owner_trusted(status) and not others_may_write(status)


def others_may_write(status: os.stat_result) -> bool:
    """Whether the group or all users may write."""
    return bool(status.st_mode & (stat.S_IWGRP | stat.S_IWOTH))


def _is_owner_trusted(status: os.stat_result) -> bool:
    """Whether this user or root is the owner."""
    return status.st_uid in (os.geteuid(), 0)


def _unfit_temporary(cause: str, remedy: str | None = None) -> DirectoryError:
    alternative = "set TMPDIR to a directory of your own, on a file system that allows execution"
    return DirectoryError(
        "the temporary directory is unfit",
        cause=cause,
        hint=_either(remedy, alternative),
    )


def _either(remedy: str | None, alternative: str) -> str:
    return f"{remedy}; or {alternative}" if remedy else alternative


def _private_cache(
    variable: str,
    xdg_variable: str,
    below_home: str,
    name: str,
) -> Path:
    """The private directory `name`, in the directory that `variable` names.

    Without the variable, it is in the user's cache or state directory.
    """
    try:
        base = path_in_variable(variable) or _default_base(xdg_variable, below_home)
        return private_below(base, name)
    except DirectoryError as error:
        alternative = f"set {variable or xdg_variable} to a directory of your own"
        error.hint = _either(error.hint, alternative)
        raise


def _default_base(xdg_variable: str, below_home: str) -> Path:
    """``aoti_build`` in the directory that the XDG variable names, else in `below_home`.

    Containers often run without a home, or with another user's home. Then the base is /tmp, where
    the name of the private directory contains the user's number.
    """
    xdg_directory = os.environ.get(xdg_variable, "")
    # The XDG specification says to ignore relative paths.
    if os.path.isabs(xdg_directory):
        return Path(xdg_directory) / "aoti_build"
    home_directory = home()
    if home_directory is None or not _is_usable_home(home_directory):
        return _SYSTEM_TEMPORARY
    return home_directory / below_home / "aoti_build"


def _is_usable_home(directory: Path) -> bool:
    try:
        status = directory.stat()
    except OSError:
        return False
    return _is_owner_trusted(status) and os.access(directory, os.W_OK | os.X_OK)


def _walk(path: Path, *, create: bool) -> tuple[Path, os.stat_result]:
    """Go down to the absolute `path` from the root, and judge every directory and link.

    Returns the path without links, and its status. With `create`, missing directories are created
    with mode 0700. Raises `DirectoryError`.
    """
    # A stack: the next name is the last. A link pushes the names that it leads to.
    names = [*reversed(path.parts)]
    link_count = 0
    real = Path("/")
    current = os.open("/", _INSPECT)
    try:
        while names:
            name = names.pop()
            entry = _open_entry(name, current, create)
            status = os.fstat(entry)
            if stat.S_ISLNK(status.st_mode):
                link_target = os.readlink("", dir_fd=entry)
                os.close(entry)
                link_count += 1
                _judge_link(real / name, status, link_count)
                names += reversed(PurePosixPath(link_target).parts)
                continue
            os.close(current)
            current = entry
            real = real.parent if name == ".." else real / name
            _judge_directory(real, status)
        require_utf8(real)
        return real, os.fstat(current)
    except OSError as error:
        raise DirectoryError(
            "the directory does not exist and cannot be created",
            where=str(path),
            cause=f"{real / (error.filename or '')}: {error.strerror}",
        ) from error
    finally:
        os.close(current)


def _open_entry(name: str, directory: int, create: bool) -> int:
    """A descriptor of the entry `name` of an open directory. A link is opened itself."""
    try:
        return os.open(name, _INSPECT, dir_fd=directory)
    except FileNotFoundError:
        if not create:
            raise
    # Another process may create it at the same time; the caller judges that one too.
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, 0o700, dir_fd=directory)
        # The umask can take even the owner's permissions away.
        os.chmod(name, 0o700, dir_fd=directory)
    return os.open(name, _INSPECT, dir_fd=directory)


def _judge_directory(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISDIR(status.st_mode):
        raise _unfit(path, f"{path} is not a directory")
    if not _is_owner_trusted(status):
        raise _unfit(path, f"{path} belongs to user {status.st_uid}")
    if others_may_write(status) and not status.st_mode & stat.S_ISVTX:
        mode = stat.S_IMODE(status.st_mode)
        raise _unfit(
            path,
            f"{path} can be written to by others (mode {mode:04o})",
            f"chmod go-w {path}, if you trust what it holds",
        )


def _judge_link(path: Path, status: os.stat_result, link_count: int) -> None:
    if not _is_owner_trusted(status):
        raise _unfit(path, f"{path} is a symbolic link of user {status.st_uid}")
    if link_count > _MOST_LINKS:
        raise _unfit(path, f"{path} is one of too many symbolic links")


def _unfit(path: Path, cause: str, remedy: str | None = None) -> DirectoryError:
    return DirectoryError(
        "a directory for code must be this user's alone",
        where=str(path),
        cause=cause,
        hint=remedy,
    )
