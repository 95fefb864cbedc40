"""Writing to disk so that a reader, or the next run after a power cut, finds the old content or the
new, never half.

Single files: write beside, fsync, `os.replace`. Whole directories: stage beside, fsync, exchange.
Locks are `filelock`'s and are only an economy: losing one wastes work and corrupts nothing.

And reading: whatever a path leads to, `open_regular` and `read_bytes` neither wait nor read without
a limit.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from aoti_build.common.extents import clone
from aoti_build.errors import BuildError

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_SYNC_FILE_RANGE_WRITE = 2
_RETIRED = ".retired"
_PIECE = 1 << 16
_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
# The mode of working state, which is believed only if nobody but its owner may write it.
OWN = 0o644
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
# The most bytes that are read of one of our own records: manifests, the store's, working state.
# Each source file takes some 130 bytes there, so this is half a million of them; JSON of this size
# still fits into memory when it is parsed.
RECORD_LIMIT = 64 << 20
# The most bytes of a text that people write: models.yaml with a hundred thousand models, names of
# classes.
TEXT_LIMIT = 16 << 20
# There is no call that only reads it. What another thread makes meanwhile is closed to others, not
# open to them.
_UMASK = os.umask(0o077)
os.umask(_UMASK)


def refused(error: OSError) -> BuildError:
    """What to tell a person when the system does not take what was to be written."""
    if error.errno in NO_ROOM:
        return BuildError(
            "the disk is full", cause=str(error), hint="make space, for instance with invoke gc"
        )
    return BuildError("the disk refused", cause=str(error))


def write_atomic(path: Path, data: bytes, *, durable: bool = True, mode: int = 0o666) -> None:
    """Replace `path`'s content in one step, and wait until it is on the disk unless it need not be
    `durable` yet. Its directory is made if need be. `mode` is that of the file before the umask."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(
                file.fileno(), mode & ~_UMASK
            )  # mkstemp's 0600 would hide it from a shared checkout's others
            file.write(data)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    if durable:
        _fsync(path.parent)


def copy_atomic(source: Path, destination: Path) -> None:
    """Copy a file so that `destination` appears whole; the two share blocks where they can. Not
    made durable: for files whose content is checked when read."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=destination.parent, prefix=f".{destination.name}.")
    try:
        try:
            shared = clone_file(source, handle)
        finally:
            os.close(handle)
        if not shared:
            shutil.copyfile(source, temporary)
        os.chmod(temporary, 0o666 & ~_UMASK)
        os.replace(temporary, destination)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def clone_file(source: Path, destination: int) -> bool:
    """`extents.clone` of a regular file. Raises OSError if it cannot be read."""
    descriptor = open_regular(source)
    try:
        return clone(descriptor, destination)
    finally:
        os.close(descriptor)


def reserve(descriptor: int, size: int) -> None:
    """Let the file system find room for a file of `size` bytes at once: less work than piece by
    piece while it is written. A refusal is not reported: whoever writes meets it."""
    # Python's posix_fallocate writes to every block of a file system that cannot reserve.
    fallocate = _libc("fallocate", "iiqq")
    if fallocate is not None:
        fallocate(descriptor, 0, 0, size)


def begin_writing(descriptor: int, start: int, size: int) -> None:
    """Let the disk take a stretch of a file now, so that the fsync which follows later has less to
    wait for."""
    sync_file_range = _libc("sync_file_range", "iqqi")
    if sync_file_range is not None:
        sync_file_range(descriptor, start, size, _SYNC_FILE_RANGE_WRITE)


def write_at(descriptor: int, piece: memoryview, offset: int) -> None:
    """Write all of a piece to its place in an open file; a system call may take less."""
    while piece:
        written = os.pwrite(descriptor, piece, offset)
        piece, offset = piece[written:], offset + written


def write_json(path: Path, value: Mapping[str, Any], *, durable: bool = True) -> None:
    """`write_atomic` of a JSON object: a line for each entry, and for each entry of its tables. NaN
    and infinity are refused (ValueError).

    Python's C encoder does not indent, and what it does not do took a restore a tenth of the time
    of its copy.
    """
    encode = json.JSONEncoder(allow_nan=False).encode

    def lines(entries: Mapping[str, Any], depth: int) -> str:
        margin = "  " * depth
        rows = (
            f"{margin}  {encode(name)}: {table(entry, depth + 1)}"
            for name, entry in entries.items()
        )
        return "{\n" + ",\n".join(rows) + f"\n{margin}}}"

    def table(entry: Any, depth: int) -> str:
        is_table = (
            depth == 1
            and isinstance(entry, dict)
            and entry
            and all(isinstance(name, str) for name in entry)
        )
        return lines(entry, depth) if is_table else encode(entry)

    write_atomic(path, f"{lines(value, 0)}\n".encode(), durable=durable)


def open_regular(path: str | os.PathLike[str], limit: int | None = None) -> int:
    """A descriptor for reading the regular file that `path` is or links to.

    Raises OSError for whatever else there is, and for a file of more than `limit` bytes. What is no
    file is not even opened: a pipe would block, and a device might act. One that takes the file's
    place after the look is opened without waiting, and refused.
    """
    _require_regular(os.stat(path), path)
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        status = os.fstat(descriptor)
        _require_regular(status, path)
        if limit is not None and status.st_size > limit:
            raise _too_large(path, status.st_size, limit)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def require_regular(path: str | os.PathLike[str], limit: int | None = None) -> None:
    """Raise what `open_regular` raises: for files that a library opens by their name."""
    os.close(open_regular(path, limit))


def read_bytes(path: str | os.PathLike[str], limit: int) -> bytes:
    """All bytes of a regular file. Raises OSError as `open_regular`, before anything is read."""
    descriptor = open_regular(path, limit)
    try:
        size = os.fstat(descriptor).st_size
        pieces, left = [], limit + 1  # one more, to see that it grows; those in /proc have no size
        while left and (piece := os.read(descriptor, min(left, max(size + 1, _PIECE)))):
            pieces.append(piece)
            left -= len(piece)
    finally:
        os.close(descriptor)
    if not left:
        raise _too_large(path, limit + 1, limit)
    return b"".join(pieces)


def _require_regular(status: os.stat_result, path: str | os.PathLike[str]) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, "a directory, no file", os.fspath(path))
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "something else")
        raise OSError(errno.EINVAL, f"{kind}, no regular file", os.fspath(path))


def _too_large(path: str | os.PathLike[str], size: int, limit: int) -> OSError:
    return OSError(
        errno.EFBIG,
        f"it has {size} bytes, and at most {limit} are read of such a file",
        os.fspath(path),
    )


def read_json(path: Path) -> Any:
    """The JSON value in a file; None if there is none or it cannot be read."""
    try:
        return json.loads(read_bytes(path, RECORD_LIMIT))
    except (OSError, ValueError, RecursionError):
        return None


def read_own(path: Path) -> bytes:
    """The content of a file of working state, if it is this user's or root's and nobody else may
    write it: what was read from it once is not compared with its origin again. Raises OSError."""
    status = path.lstat()
    own = status.st_uid in (os.geteuid(), 0) and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if not own or stat.S_ISLNK(status.st_mode):
        raise PermissionError(errno.EPERM, "somebody else may have written it", str(path))
    return read_bytes(path, RECORD_LIMIT)


def write_kept(path: Path, kind: str, version: int, content: Mapping[str, Any]) -> bool:
    """Put a record there that may be deleted at any time; False where the disk refuses, which costs
    speed alone."""
    document = {"format": kind, "format_version": version, **content}
    try:
        write_atomic(path, json.dumps(document).encode(), durable=False, mode=OWN)
    except OSError:
        return False
    return True


def read_kept(path: Path, kind: str, version: int, name: str) -> dict[str, Any]:
    """The table `name` of what `write_kept` wrote; empty if there is none, none of this format and
    version, or one that somebody else may have written."""
    try:
        document = json.loads(read_own(path))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(document, dict) or (
        document.get("format"),
        document.get("format_version"),
    ) != (kind, version):
        return {}
    table = document.get(name)
    return table if isinstance(table, dict) else {}


def write_program(path: Path, text: str) -> None:
    """Put a program at `path`, unless it is there already; whoever runs it meanwhile finds it whole
    and executable."""
    content = text.encode()
    with contextlib.suppress(OSError):
        if os.access(path, os.X_OK) and read_bytes(path, len(content)) == content:
            return
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as directory:
        made = Path(directory, path.name)
        made.write_bytes(content)
        made.chmod(0o700)
        os.replace(made, path)


@contextlib.contextmanager
def staging(parent: Path, prefix: str, *, beside: bool = False) -> Iterator[Path]:
    """A fresh directory below `parent`, private to this user, removed at the end unless it was
    moved away before.

    With `beside` it has gone from the tree when this returns, and its space is freed by and by:
    that takes a large file about as long as being copied.
    """
    parent.mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(dir=parent, prefix=prefix))
    try:
        yield directory
    finally:
        held = _open_files(directory) if beside else []
        shutil.rmtree(directory, ignore_errors=True)
        if held:
            # The system frees a removed file when nobody has it open any more. Python does not wait
            # for a daemon when the process ends, so that the two happen at once; what it has not
            # closed by then, the system closes.
            threading.Thread(target=_close, args=(held,), daemon=True).start()


def _open_files(directory: Path) -> list[int]:
    """Descriptors of the files in a directory, the largest first, as far as they can be opened."""
    held: list[int] = []
    with contextlib.suppress(OSError):
        files = (path for path in directory.rglob("*") if path.is_file())
        for file in sorted(files, key=lambda path: -path.stat().st_size):
            held.append(os.open(file, os.O_RDONLY | os.O_CLOEXEC))
    return held


def _close(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def publish_directory(staged: Path, final: Path) -> None:
    """Put the directory `staged` in `final`'s place, durable first and in one step where the system
    can exchange names.

    Where it cannot (no renameat2, or a file system without it), two renames leave a moment in which
    `final` is absent; `recover_directory` mends a crash in that moment. Both must be on one file
    system.
    """
    from concurrent.futures import ThreadPoolExecutor  # not on the no-op path

    from aoti_build.common.removal import remove

    files = [path for path in staged.rglob("*") if path.is_file()]
    for file in files:
        file.chmod(0o666 & ~_UMASK)  # libraries that write 0600 would hide it from others
    with ThreadPoolExecutor() as pool:  # at once: a journalling file system commits them together
        list(pool.map(_fsync, [*files, staged]))
    final.parent.mkdir(parents=True, exist_ok=True)
    recover_directory(final)
    if not os.path.lexists(final):
        os.rename(staged, final)
    elif not _exchange(staged, final):
        retired = _retired(final)
        os.rename(final, retired)
        os.rename(staged, final)
        remove(retired)
    _fsync(final.parent)


def recover_directory(final: Path) -> None:
    """Finish or undo a `publish_directory` that was killed between its two renames. Call it under
    the target's lock."""
    from aoti_build.common.removal import remove  # not on the no-op path

    retired = _retired(final)
    if not os.path.lexists(retired):
        return
    if os.path.lexists(final):
        remove(retired)
    else:
        os.rename(retired, final)


@contextlib.contextmanager
def lock(path: Path, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold the inter-process lock file `path`. While somebody else holds it, `on_wait` is called
    about five times a second; what it raises ends the wait.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = _lock_at_once(path)
    if descriptor is not None:
        try:
            yield
        finally:
            os.close(descriptor)  # which gives the lock back
        return
    from filelock import FileLock, Timeout

    mutex = FileLock(path)
    timeout = 0.0
    while True:
        try:
            mutex.acquire(timeout=timeout)
            break
        except Timeout:
            on_wait()
            timeout = 0.2
    try:
        yield
    finally:
        mutex.release()


def _lock_at_once(path: Path) -> int | None:
    """A descriptor that holds the lock, or None if somebody else does or the system has no flock.

    The same lock as filelock's, which calls flock on the file too and leaves it in place. A free
    lock is taken without filelock because importing that costs as much as all else that a restore
    does beside copying.
    """
    try:
        import fcntl
    except ImportError:
        return None
    descriptor = os.open(
        path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY, 0o666
    )
    try:
        _require_regular(os.fstat(descriptor), path)
    except OSError:
        os.close(descriptor)
        raise
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _retired(final: Path) -> Path:
    return final.with_name(f".{final.name}{_RETIRED}")


def _exchange(one: Path, other: Path) -> bool:
    """Swap two names atomically with Linux' renameat2(RENAME_EXCHANGE); False where that does not
    exist."""
    renameat2 = _libc("renameat2", "izizi")
    if renameat2 is None:
        return False
    if renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    import ctypes

    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), str(other))


@cache
def _libc(name: str, arguments: str) -> Any:
    """A function of the C library, for what Python has none for; None where the library has none
    either.

    `arguments` spells the types: an int (i), 64 bits (q), a string of bytes (z)."""
    import ctypes  # not on the no-op path

    try:
        function = getattr(ctypes.CDLL(None, use_errno=True), name)
    except (OSError, AttributeError):
        return None
    types = {"i": ctypes.c_int, "q": ctypes.c_int64, "z": ctypes.c_char_p}
    function.argtypes = [types[one] for one in arguments]
    return function


def _fsync(path: Path) -> None:
    """Wait until a file or a directory is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
