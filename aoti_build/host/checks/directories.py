"""Where a build writes: the temporary directory, the jobs' inductor cache, the artifacts and the
store; with their locks, and memory and processors beside them.

The figures are of torch 2.14 on x86-64: a compile for the CPU peaks near 0.8 GiB in one process and
leaves two precompiled headers of 138 and 151 MiB in the temporary directory, for each set of
compiler flags.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from aoti_build.common import directories, resources
from aoti_build.common.writing import disk_error
from aoti_build.errors import DirectoryError
from aoti_build.host.checks.finding import FAIL, OK, WARN, Finding

_MIB, _GIB = 1 << 20, 1 << 30
_MAKE_SPACE = "make space, for instance with invoke gc"
_LEAST_ROOM = 32 * _MIB  # not even the smallest package with its objects
_ROOM = _GIB
_FEW_INODES = 1000
_LEAST_MEMORY = _GIB
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
# Ends with 0 if somebody else holds the lock of the file it is given.
_TRY_LOCK = """\
import fcntl, sys
with open(sys.argv[1], "r+") as file:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        sys.exit(0)
sys.exit(1)
"""


def check_places(artifacts: Path | None, store: Path | None) -> list[Finding]:
    """`artifacts` and `store` are a project's; None outside one."""
    cache = check_private("compile directory", directories.build_cache, check_cache)
    found = [check_temporary(), cache, check_runtime()]
    if artifacts is not None:
        found.append(check_artifacts(artifacts))
    if store is not None:
        found.append(check_store(store))
    locked = [artifacts] if artifacts is not None else []
    if cache.outcome != FAIL:
        locked.insert(0, directories.build_cache())
    return [*found, check_locks(locked)] if locked else found


def check_temporary() -> Finding:
    """Packages are unpacked here to be loaded, and compilers work here."""
    name, fix = "temp directory", "let TMPDIR name another directory"
    try:
        directory = directories.temporary_directory()
    except DirectoryError as error:
        return Finding(name, FAIL, error.cause or error.message, fix=error.hint, stops=True)
    if refusal := _refusal(directory):
        said = f"{directory} cannot be written to"
        return Finding(name, FAIL, said, cause=str(refusal), fix=fix, stops=True)
    return _room(name, directory, fix)


def check_private(name: str, find: Callable[[], Path], more: Callable[[Path], Finding]) -> Finding:
    """The directory that `find` makes or judges: nobody else may change it. If so, what `more`
    finds."""
    try:
        return more(find())
    except DirectoryError as error:
        said = f"{error.where}: {error.message}" if error.where else error.message
        return Finding(name, FAIL, said, cause=error.cause, fix=error.hint, stops=True)


def check_cache(directory: Path) -> Finding:
    """Inductor's own cache for each job, and what is compiled for all."""
    name, fix = "compile directory", "let AOTI_BUILD_CACHE name a directory of your own"
    if refusal := _refusal(directory):
        said = f"{directory} cannot be written to"
        return Finding(name, FAIL, said, cause=str(refusal), fix=fix, stops=True)
    if directories.is_noexec(directory):
        said = (
            f"{directory} is mounted noexec: inductor's probe cannot be loaded, so code comes out"
            " without vectors"
        )
        return Finding(
            name, WARN, said, fix="let AOTI_BUILD_CACHE name a directory that allows execution"
        )
    return _room(name, directory, fix)


def check_runtime() -> Finding:
    """Where `aoti_build.load` unpacks packages. Builds do without it, and so does a load if no
    variable names it."""
    name, variable = "unpack directory", directories.RUNTIME_VARIABLE
    named = os.environ.get(variable)
    if named == "off":
        return Finding(name, OK, f"{variable}=off: each process unpacks for itself")

    def fit(directory: Path) -> Finding:
        return Finding(name, OK, str(directory))

    finding = check_private(name, directories.runtime_cache, fit)
    if finding.outcome == OK or named:
        return replace(finding, stops=False)
    said = f"{finding.said}; each process unpacks for itself"
    return replace(finding, outcome=WARN, said=said, stops=False)


def check_artifacts(directory: Path) -> Finding:
    name, fix = (
        "artifacts",
        "publishing is a rename: make it one writable file system, links and mounts below included",
    )
    there = _nearest(directory)
    try:
        directories.require_utf8(directory)
    except DirectoryError as error:
        return Finding(name, FAIL, f"{directory}: {error.message}", fix=error.hint, stops=True)
    if refusal := _refusal(there):
        fix = disk_error(refusal).hint or "change its owner"
        return Finding(
            name, FAIL, f"{there} cannot be written to", cause=str(refusal), fix=fix, stops=True
        )
    if directory.is_dir():
        device = directory.stat().st_dev
        elsewhere = [
            path for path in directory.iterdir() if path.is_dir() and path.stat().st_dev != device
        ]
        # A model's own directory, or .staging; the store and working state may lie anywhere.
        if strange := [
            path for path in elsewhere if path.name == ".staging" or not path.name.startswith(".")
        ]:
            return Finding(
                name, FAIL, f"{strange[0]} is on another file system than {directory}", fix=fix
            )
    return _open_to_all(name, there) or _room(name, there, _MAKE_SPACE, shown=directory)


def check_store(directory: Path) -> Finding:
    there = _nearest(directory)
    if refusal := _refusal(there):
        said = f"{directory} cannot be written to: it is read, and nothing new is kept"
        return Finding(
            "store",
            WARN,
            said,
            cause=str(refusal),
            fix="let AOTI_BUILD_STORE name a writable directory",
        )
    return _open_to_all("store", there) or _room("store", there, _MAKE_SPACE, shown=directory)


def _open_to_all(name: str, directory: Path) -> Finding | None:
    """Artifacts may be a group's, and whoever may write them is trusted: but hardly everybody."""
    if not directory.stat().st_mode & stat.S_IWOTH:
        return None
    said = f"everybody can write to {directory}, and code from there is loaded"
    return Finding(name, WARN, said, fix=f"chmod o-w {directory}")


def check_locks(directories: list[Path]) -> Finding:
    """Take a lock in each directory, and let another process see that it is taken."""
    name = "file locks"
    for directory in map(_nearest, directories):
        try:
            with tempfile.NamedTemporaryFile(dir=directory, prefix=".aoti_build-doctor-") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                kept = _is_seen(file.name)
        except OSError as error:
            if error.errno in _NO_LOCKS:
                fix = (
                    "mount it with locks (NFS: without nolock, with a running lock service), or use"
                    " another directory"
                )
                said = f"the file system of {directory} has no locks"
                return Finding(name, FAIL, said, cause=str(error), fix=fix, stops=True)
            return Finding(name, WARN, f"no lock could be tried in {directory}", cause=str(error))
        if not kept:
            said = (
                f"a lock in {directory} does not keep another process out: two builds may do the"
                " same work"
            )
            return Finding(
                name, WARN, said, fix="mount it with locks; do not build twice at once until then"
            )
    return Finding(name, OK, "hold against another process in " + ", ".join(map(str, directories)))


def check_memory() -> Finding:
    available = resources.available_memory()
    said = (
        f"{available / _GIB:.1f} GiB available; a job is given"
        f" {resources.JOB_MEMORY / _GIB:.0f} GiB"
    )
    if available < _LEAST_MEMORY:
        fix = (
            "a compile of the smallest model takes about 0.8 GiB: free some, or raise the"
            " container's limit"
        )
        return Finding("memory", FAIL, said, fix=fix)
    if available < resources.JOB_MEMORY:
        return Finding("memory", WARN, said, fix="build with --jobs 1")
    return Finding("memory", OK, said)


def check_processors() -> Finding:
    usable = resources.processors()
    there = os.cpu_count() or usable
    said = f"{usable} CPUs" if usable == there else f"{usable} of {there} CPUs"
    said += "; the number is part of what is compiled"
    if (busy := resources.usable_processors()) < usable:
        said += f"; a quota has time for {busy} of them"
    return Finding("processors", OK, said)


def _room(name: str, directory: Path, fix: str, *, shown: Path | None = None) -> Finding:
    status = os.statvfs(directory)
    free = status.f_bavail * status.f_frsize
    said = f"{shown or directory}: {free / _GIB:.1f} GiB free"
    if status.f_files and status.f_favail < _FEW_INODES:
        said = f"{shown or directory}: {status.f_favail} inodes free"
        return Finding(
            name, FAIL if status.f_favail < 10 else WARN, said, fix=fix, stops=status.f_favail < 10
        )
    if free < _LEAST_ROOM:
        return Finding(
            name, FAIL, f"{shown or directory}: {free / _MIB:.0f} MiB free", fix=fix, stops=True
        )
    if free < _ROOM:
        return Finding(name, WARN, f"{said}; a compile may take 0.3 GiB and more", fix=fix)
    return Finding(name, OK, said)


def _refusal(directory: Path) -> OSError | None:
    """What the system says to a file written and renamed there; None if it lets us. Permission bits
    do not tell."""
    try:
        with tempfile.TemporaryDirectory(dir=directory, prefix=".aoti_build-doctor-") as scratch:
            file = Path(scratch, "probe")
            file.write_bytes(b"probe")
            file.rename(Path(scratch, "renamed"))
    except OSError as error:
        return error
    return None


def _is_seen(file: str) -> bool:
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", _TRY_LOCK, file], check=False, stdin=subprocess.DEVNULL
    )
    return done.returncode == 0


def _nearest(directory: Path) -> Path:
    """The directory itself or, if it is not there yet, the one that it would be made in."""
    return next(path for path in _upwards(directory) if path.is_dir())


def _upwards(directory: Path) -> Iterator[Path]:
    yield directory.absolute()
    yield from directory.absolute().parents
