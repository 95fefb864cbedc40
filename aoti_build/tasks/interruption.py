"""Ends a task with exit code 130 within five seconds of Ctrl-C or SIGTERM.

The first signal raises KeyboardInterrupt in the main thread. The command then stops its workers and
removes its temporary directories.

A thread may be in something that cannot be interrupted, such as digesting a file of 200 GB. After
`PATIENCE_SECONDS` the process therefore ends itself. For the files that it writes this is the same
as a kill, which all writers allow for. In both cases the programs that the task started are ended.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import select
import signal
import sys
import time
from collections.abc import Iterator
from typing import NamedTuple

from aoti_build.errors import ExitCode

# Workers need up to two seconds to end. The whole task must end within five.
PATIENCE_SECONDS = 3.0
_POLL_SECONDS = 0.05


class _Process(NamedTuple):
    """A process. The start time, in clock ticks since the boot, tells it from a later one with the
    same number."""

    number: int
    started: int


class Interruption:
    """Handles both signals from its construction until `end`.

    After a signal it handles them until the process ends, because a second signal must not change
    the exit code. `document` is printed on stdout if the process has to end itself.
    """

    def __init__(self, document: str) -> None:
        self.has_signal = False
        self._document = document
        self._is_over = False
        # Python drops an exception in some places. `_is_lost` is set if that was the
        # KeyboardInterrupt, and `_is_repeated` if the handler has to raise it once more.
        self._is_lost = False
        self._is_repeated = False
        self._main_thread = _thread.get_ident()
        self._began = time.clock_gettime(time.CLOCK_BOOTTIME)
        self._programs: set[_Process] = set()
        numbers = [signal.SIGTERM]
        # A shell lets jobs in the background ignore SIGINT.
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            numbers.append(signal.SIGINT)
        self._previous = {number: signal.signal(number, self._on_signal) for number in numbers}
        self._previous_hook = sys.unraisablehook
        sys.unraisablehook = self._on_dropped_exception

    def end(self) -> None:
        """Restore the previous handlers. After a signal, end the programs that still run."""
        self._is_over = True
        sys.unraisablehook = self._previous_hook
        for number, handler in self._previous.items():
            # Python restores the system's handlers before it ends. A second Ctrl-C would then kill
            # the process, so the signals are ignored from here on.
            signal.signal(number, signal.SIG_IGN if self.has_signal else handler)
        if self.has_signal:
            self._end_programs()

    def _on_signal(self, *_: object) -> None:
        if self._is_repeated:
            self._is_repeated = False
            raise KeyboardInterrupt
        if self.has_signal:
            return  # the task is ending, and another exception would disturb that
        self.has_signal = True
        # `threading.Thread` would acquire a lock that the interrupted code may hold.
        _thread.start_new_thread(self._end_in_time, ())
        # When a program ends, its children get another parent. They must be listed before that.
        self._programs.update(self._find_programs())
        raise KeyboardInterrupt

    def _on_dropped_exception(self, dropped: sys.UnraisableHookArgs) -> None:
        """Python calls this where it lets no exception through, as in a weak reference's
        callback."""
        if self.has_signal and isinstance(dropped.exc_value, KeyboardInterrupt):
            self._is_lost = True
        else:
            self._previous_hook(dropped)

    def _end_in_time(self) -> None:
        """End the process, in a thread of its own, if the task does not end in time."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
            if self._is_over:
                return
            if self._is_lost:
                self._is_lost = False
                self._is_repeated = True
                signal.pthread_kill(self._main_thread, signal.SIGTERM)
        try:
            self._programs.update(self._find_programs())
            self._end_programs()
            _write_without_waiting(2, "error: interrupted\n")
            _write_without_waiting(1, self._document)
        finally:
            os._exit(ExitCode.INTERRUPTED)

    def _find_programs(self) -> Iterator[_Process]:
        """All programs that the task has started, directly or through another program."""
        earliest = int(self._began * os.sysconf("SC_CLK_TCK"))
        children: dict[int, list[_Process]] = {}
        for process, parent in _running_processes().items():
            if process.started >= earliest:
                children.setdefault(parent, []).append(process)
        parents = [os.getpid()]
        while parents:
            for process in children.get(parents.pop(), ()):
                parents.append(process.number)
                yield process

    def _end_programs(self) -> None:
        running = _running_processes()
        for process in self._programs:
            if process in running:
                with contextlib.suppress(OSError):
                    os.kill(process.number, signal.SIGKILL)


def _running_processes() -> dict[_Process, int]:
    """All processes of the system, with the number of each one's parent.

    Empty if the system has no /proc. The format of ``stat`` is in proc(5).
    """
    parents: dict[_Process, int] = {}
    try:
        names = os.listdir("/proc")
    except OSError:
        return parents
    for name in names:
        if not name.isdecimal():
            continue
        try:
            with open(f"/proc/{name}/stat", encoding="ascii", errors="replace") as file:
                text = file.read()
        except (OSError, ValueError):
            continue  # the process has just ended
        # The second field is the name of the program in parentheses, and may contain any character.
        fields = text.rpartition(")")[2].split()
        if len(fields) > 19:
            process = _Process(int(name), started=int(fields[19]))  # field 22
            parents[process] = int(fields[1])  # field 4
    return parents


def _write_without_waiting(descriptor: int, text: str) -> None:
    """Write a short text if that does not block. The task may hang because of the reader."""
    if not text:
        return
    with contextlib.suppress(OSError, ValueError):
        _, writable, _ = select.select([], [descriptor], [], 0)
        if writable:
            os.write(descriptor, text.encode())
