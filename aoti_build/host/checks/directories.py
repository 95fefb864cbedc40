"""Checks of the directories that a build writes to, and of file locks, memory and processors.

The directories are the temporary one, the compile directory, the unpack directory, the artifacts
and the store. The numbers are of torch 2.14 on x86-64: a compile for the CPU peaks near 0.8 GiB in
one process. For each set of compiler flags it leaves two precompiled headers, of 138 and 151 MiB,
in the temporary directory.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from aoti_build.common import directories, resources
from aoti_build.common.writing import disk_error
from aoti_build.errors import DirectoryError
from aoti_build.host.checks.finding import FAIL, OK, WARN, Finding

_MIB = 1 << 20
_GIB = 1 << 30
_MAKE_SPACE = "make space, for instance with invoke gc"
# Less space does not hold even the smallest package with its objects.
_LEAST_SPACE = 32 * _MIB
_ENOUGH_SPACE = _GIB
_LEAST_INODES = 10
_ENOUGH_INODES = 1000
_LEAST_MEMORY = _GIB
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
_SCRATCH_PREFIX = ".aoti_build-doctor-"
# Exits with 0 if another process holds the lock of the file.
_TRY_LOCK = """\
import fcntl, sys
with open(sys.argv[1], "r+") as file:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        sys.exit(0)
sys.exit(1)
"""


def check_places(artifacts: Path | None) -> list[Finding]:
    """Check all directories except the store. `artifacts` is a project's, or None outside one."""
    cache = check_private("compile directory", directories.build_cache, check_cache)
    findings = [check_temporary(), cache, check_runtime()]
    if artifacts is not None:
        findings.append(check_artifacts(artifacts))
    locked = []
    if cache.outcome != FAIL:
        locked.append(directories.build_cache())
    if artifacts is not None:
        locked.append(artifacts)
    if locked:
        findings.append(check_locks(locked))
    return findings


def check_temporary() -> Finding:
    """Check the directory in which packages are unpacked and compilers work."""
    name = "temp directory"
    fix = "set TMPDIR to another directory"
    try:
        directory = directories.temporary_directory()
    except DirectoryError as error:
        message = error.cause or error.message
        return Finding(name, FAIL, message, fix=error.hint, stops=True)
    return _refused_finding(name, directory, fix) or _space_finding(name, directory, fix)


def check_private(
    name: str,
    find: Callable[[], Path],
    check: Callable[[Path], Finding],
) -> Finding:
    """Check a private directory: that it is private, then with `check`.

    `find` returns the directory, and creates it if it is missing.
    """
    try:
        return check(find())
    except DirectoryError as error:
        message = f"{error.where}: {error.message}" if error.where else error.message
        return Finding(name, FAIL, message, cause=error.cause, fix=error.hint, stops=True)


def check_cache(directory: Path) -> Finding:
    """Check the directory for inductor's cache of each job, and for code that jobs share."""
    name = "compile directory"
    fix = f"set {directories.BUILD_VARIABLE} to a directory of your own"
    refused = _refused_finding(name, directory, fix)
    if refused is not None:
        return refused
    if directories.is_noexec(directory):
        return Finding(
            name,
            WARN,
            f"{directory} is mounted noexec: inductor's probe cannot be loaded, so code comes out"
            " without vectors",
            fix=f"set {directories.BUILD_VARIABLE} to a directory that allows execution",
        )
    return _space_finding(name, directory, fix)


def check_runtime() -> Finding:
    """Check the directory in which `aoti_build.load` unpacks packages.

    Builds do not need it. A load needs it only if a variable names it.
    """
    name = "unpack directory"
    variable = directories.RUNTIME_VARIABLE
    value = os.environ.get(variable)
    if value == "off":
        return Finding(name, OK, f"{variable}=off: each process unpacks for itself")

    def accept(directory: Path) -> Finding:
        return Finding(name, OK, str(directory))

    finding = check_private(name, directories.runtime_cache, accept)
    if finding.outcome == OK or value:
        return replace(finding, stops=False)
    message = f"{finding.message}; each process unpacks for itself"
    return replace(finding, outcome=WARN, message=message, stops=False)


def check_artifacts(directory: Path) -> Finding:
    name = "artifacts"
    existing = _nearest_existing(directory)
    try:
        directories.require_utf8(directory)
    except DirectoryError as error:
        message = f"{directory}: {error.message}"
        return Finding(name, FAIL, message, fix=error.hint, stops=True)
    refusal = _write_refusal(existing)
    if refusal:
        return Finding(
            name,
            FAIL,
            f"{existing} cannot be written to",
            cause=str(refusal),
            fix=disk_error(refusal).hint or "change its owner",
            stops=True,
        )
    mounted = _mounted_inside(directory)
    if mounted is not None:
        return Finding(
            name,
            FAIL,
            f"{mounted} is on another file system than {directory}",
            fix="publishing is a rename: make it one writable file system, links and mounts below"
            " included",
        )
    open_to_all = _open_to_all_finding(name, existing)
    return open_to_all or _space_finding(name, existing, _MAKE_SPACE, shown=directory)


def _mounted_inside(artifacts: Path) -> Path | None:
    """A directory in `artifacts` that is on another file system, although publishing renames in it.

    Such directories are those of the models and .staging. The store and working state, which are
    hidden, can be anywhere.
    """
    if not artifacts.is_dir():
        return None
    device = artifacts.stat().st_dev
    for path in artifacts.iterdir():
        if path.name.startswith(".") and path.name != ".staging":
            continue
        if path.is_dir() and path.stat().st_dev != device:
            return path
    return None


def check_store(directory: Path) -> Finding:
    name = "store"
    existing = _nearest_existing(directory)
    refusal = _write_refusal(existing)
    if refusal:
        return Finding(
            name,
            WARN,
            f"{directory} cannot be written to: it is read, and nothing new is kept",
            cause=str(refusal),
            fix="set AOTI_BUILD_STORE to a writable directory",
        )
    open_to_all = _open_to_all_finding(name, existing)
    return open_to_all or _space_finding(name, existing, _MAKE_SPACE, shown=directory)


def _open_to_all_finding(name: str, directory: Path) -> Finding | None:
    # Less strict than `directories.others_may_write`: artifacts may belong to a group, and its
    # members are trusted.
    if not directory.stat().st_mode & stat.S_IWOTH:
        return None
    message = f"all users can write to {directory}, and code from there is loaded"
    return Finding(name, WARN, message, fix=f"chmod o-w {directory}")


def check_locks(locked: list[Path]) -> Finding:
    """Take a lock in each directory, and let another process try to take it too."""
    name = "file locks"
    for directory in map(_nearest_existing, locked):
        try:
            with tempfile.NamedTemporaryFile(dir=directory, prefix=_SCRATCH_PREFIX) as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                excludes_others = _is_locked_for_others(file.name)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                message = f"no lock could be tried in {directory}"
                return Finding(name, WARN, message, cause=str(error))
            return Finding(
                name,
                FAIL,
                f"the file system of {directory} has no locks",
                cause=str(error),
                fix="mount it with locks (NFS: without nolock, with a running lock service), or use"
                " another directory",
                stops=True,
            )
        if not excludes_others:
            return Finding(
                name,
                WARN,
                f"a lock in {directory} does not keep another process out: two builds may do the"
                " same work",
                fix="mount it with locks; do not build twice at once until then",
            )
    paths = ", ".join(map(str, locked))
    return Finding(name, OK, f"hold against another process in {paths}")


def check_memory() -> Finding:
    available = resources.available_memory()
    job_gib = resources.JOB_MEMORY / _GIB
    message = f"{available / _GIB:.1f} GiB available; a job is given {job_gib:.0f} GiB"
    if available < _LEAST_MEMORY:
        return Finding(
            "memory",
            FAIL,
            message,
            fix="a compile of the smallest model takes about 0.8 GiB: free some, or raise the"
            " container's limit",
        )
    if available < resources.JOB_MEMORY:
        return Finding("memory", WARN, message, fix="build with --jobs 1")
    return Finding("memory", OK, message)


def check_processors() -> Finding:
    allowed = resources.processors()
    total = os.cpu_count() or allowed
    message = f"{allowed} CPUs" if allowed == total else f"{allowed} of {total} CPUs"
    message += "; the number affects compiled code"
    usable = resources.usable_processors()
    if usable < allowed:
        message += f"; a quota has time for {usable} of them"
    return Finding("processors", OK, message)


def _space_finding(name: str, directory: Path, fix: str, *, shown: Path | None = None) -> Finding:
    """Whether the file system has space and inodes. The message names `shown`, if it is given."""
    label = shown or directory
    status = os.statvfs(directory)
    # Some file systems have no fixed number of inodes, and report 0.
    if status.f_files and status.f_favail < _ENOUGH_INODES:
        too_few = status.f_favail < _LEAST_INODES
        return Finding(
            name,
            FAIL if too_few else WARN,
            f"{label}: {status.f_favail} inodes free",
            fix=fix,
            stops=too_few,
        )
    free = status.f_bavail * status.f_frsize
    if free < _LEAST_SPACE:
        return Finding(name, FAIL, f"{label}: {free / _MIB:.0f} MiB free", fix=fix, stops=True)
    message = f"{label}: {free / _GIB:.1f} GiB free"
    if free < _ENOUGH_SPACE:
        return Finding(name, WARN, f"{message}; a compile may take 0.3 GiB and more", fix=fix)
    return Finding(name, OK, message)


def _refused_finding(name: str, directory: Path, fix: str) -> Finding | None:
    refusal = _write_refusal(directory)
    if refusal is None:
        return None
    message = f"{directory} cannot be written to"
    return Finding(name, FAIL, message, cause=str(refusal), fix=fix, stops=True)


def _write_refusal(directory: Path) -> OSError | None:
    """The system's error when a file is written and renamed in the directory, or None.

    Permission bits do not tell: the file system can be read-only, or full.
    """
    try:
        with tempfile.TemporaryDirectory(dir=directory, prefix=_SCRATCH_PREFIX) as scratch:
            file = Path(scratch, "probe")
            file.write_bytes(b"probe")
            file.rename(Path(scratch, "renamed"))
    except OSError as error:
        return error
    return None


def _is_locked_for_others(file: str) -> bool:
    process = subprocess.run(
        [sys.executable, "-I", "-S", "-c", _TRY_LOCK, file],
        check=False,
        stdin=subprocess.DEVNULL,
    )
    return process.returncode == 0


def _nearest_existing(directory: Path) -> Path:
    """The directory, or the nearest existing one above it, in which it would be created."""
    path = directory.absolute()
    while not path.is_dir():
        path = path.parent
    return path
