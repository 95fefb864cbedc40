"""Starts and ends processes with all their children, and stops all of them on Ctrl-C.

Each process leads a session of its own, so its process group holds everything that it starts. A
Ctrl-C in the terminal therefore reaches this process alone, which then ends the groups.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from aoti_build.common.secrets import without_secrets
from aoti_build.errors import Interrupted

# All processes together get this long after SIGTERM. A task must end within five seconds.
_GRACE_SECONDS = 2.0

_running: set[subprocess.Popen[bytes]] = set()
_running_lock = threading.Lock()
_stopping = threading.Event()


def start_process(
    command: Sequence[str],
    directory: Path,
    *,
    output: int,
    events: int,
    environment: Mapping[str, str],
) -> subprocess.Popen[bytes]:
    """Start a command in `directory`, with a pipe as its stdin.

    Args:
        output: the descriptor for its stdout and stderr.
        events: one more descriptor that it inherits.
        environment: variables set on top of this process's own, which come without secrets.

    Raises `Interrupted` after `stop_all`.
    """
    # `stop_all` runs in another thread. With the lock it either ends this process or prevents it.
    with _running_lock:
        check_stopping()
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=directory,
            env={**without_secrets(os.environ), **environment},
            pass_fds=[events],
            # This also makes a process group, which has the number of the process.
            start_new_session=True,
        )
        _running.add(process)
    return process


def end_process(process: subprocess.Popen[bytes]) -> None:
    """Kill whatever still runs in the process's group, and release its resources."""
    if process.returncode is None:
        signal_group(process, signal.SIGKILL)
        process.wait()
    if process.stdin:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
    with _running_lock:
        _running.discard(process)


def has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Whether the process has ended. It is not reaped; see `wait_for_end`."""
    try:
        status = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)
    except ChildProcessError:
        return True
    return status is not None


def wait_for_end(process: subprocess.Popen[bytes]) -> None:
    """Wait until the process ends, without reaping it.

    The system may give the number of a reaped process to another one. `end_process` must be able to
    signal the group before that.
    """
    try:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    except ChildProcessError:
        pass  # `stop_all` reaped it


@contextlib.contextmanager
def time_limit(
    process: subprocess.Popen[bytes], seconds: float | None
) -> Iterator[threading.Event]:
    """Kill the process's group if the context lasts longer than `seconds`. The event is then
    set."""
    expired = threading.Event()
    if not seconds:
        yield expired
        return

    def kill() -> None:
        expired.set()
        signal_group(process, signal.SIGKILL)

    timer = threading.Timer(seconds, kill)
    timer.start()
    try:
        yield expired
    finally:
        timer.cancel()


def stop_all() -> None:
    """End every running process and its children, and let no new one start. For Ctrl-C."""
    _stopping.set()
    with _running_lock:
        processes = list(_running)
    for process in processes:
        signal_group(process, signal.SIGTERM)
    deadline = time.monotonic() + _GRACE_SECONDS
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            pass
        # The leader may have ended and left children.
        signal_group(process, signal.SIGKILL)


def allow_starts() -> None:
    """Lift the ban of `stop_all`, for the next command in the same Python process."""
    _stopping.clear()


def check_stopping() -> None:
    """Raise `Interrupted` after `stop_all`. Threads call this while they wait for something."""
    if _stopping.is_set():
        raise Interrupted("interrupted")


def signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Send a signal to the process and its children. A group that has ended is no error."""
    try:
        os.killpg(process.pid, number)
    except (ProcessLookupError, PermissionError):
        pass
