"""What Ctrl-C and SIGTERM do to a task: it ends with 130 within five seconds, whatever its threads
are doing.

The first signal raises KeyboardInterrupt in the main thread, and verbs end in good order: workers
are stopped, temporary directories removed. A thread may be in the middle of something that cannot
be interrupted, such as digesting a file of 200 GB. So the process also ends itself after a while.
That is no worse for what it writes than a kill, which every writer here is made for. Either way the
programs that the task has started end with it.
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

from aoti_build.errors import ExitCode

# More than workers are given to end by themselves, and with what follows less than five seconds.
PATIENCE_SECONDS = 3.0


class Interruption:
    """The handler of both signals, from its making until `over`; after a signal, until the process
    ends: a second one must not change its exit code. `came` says whether there was one.

    `document` is what goes to stdout if the process has to end itself, "" for nothing.
    """

    def __init__(self, document: str) -> None:
        self.came = False
        self._document = document
        self._is_over = self._is_lost = self._is_repeated = False
        self._main_thread = _thread.get_ident()
        self._began = time.clock_gettime(time.CLOCK_BOOTTIME)
        self._started: set[tuple[int, int]] = set()
        numbers = [signal.SIGTERM]
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as for a job in the background
            numbers.append(signal.SIGINT)
        self._previous = {number: signal.signal(number, self._on_signal) for number in numbers}
        self._previous_hook = sys.unraisablehook
        sys.unraisablehook = self._on_ignored

    def over(self) -> None:
        """Give the signals back; or after one end what is left of the programs that the task
        started."""
        self._is_over = True
        sys.unraisablehook = self._previous_hook
        for number, handler in self._previous.items():
            # Python gives up its own handlers before it ends, and a second Ctrl-C would then kill
            # it.
            signal.signal(number, signal.SIG_IGN if self.came else handler)
        if self.came:
            self._end_programs()

    def _on_signal(self, *_: object) -> None:
        if self._is_repeated:
            self._is_repeated = False
            raise KeyboardInterrupt
        if self.came:
            return  # the task is ending, and a second exception would disturb that
        self.came = True
        # Not a `threading.Thread`: to start one takes a lock that the interrupted code may hold.
        _thread.start_new_thread(self._end_in_time, ())
        # While their parents live: those of a program that has ended are no longer known as ours.
        self._started.update(self._programs())
        raise KeyboardInterrupt

    def _on_ignored(self, ignored: sys.UnraisableHookArgs) -> None:
        """Told of what is raised where Python lets no exception through, as in a weak reference's
        callback."""
        if self.came and isinstance(ignored.exc_value, KeyboardInterrupt):
            self._is_lost = True
        else:
            self._previous_hook(ignored)

    def _end_in_time(self) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            time.sleep(0.05)
            if self._is_over:
                return
            if self._is_lost:
                self._is_lost, self._is_repeated = False, True
                signal.pthread_kill(self._main_thread, signal.SIGTERM)
        try:
            self._started.update(self._programs())
            self._end_programs()
            _write_at_once(2, "error: interrupted\n")
            _write_at_once(1, self._document)
        finally:
            os._exit(ExitCode.INTERRUPTED)

    def _programs(self) -> Iterator[tuple[int, int]]:
        """Number and start of each process that the task, or a program of the task, has started."""
        earliest = int(self._began * os.sysconf("SC_CLK_TCK"))
        children: dict[int, list[tuple[int, int]]] = {}
        for process, (parent, started) in _processes().items():
            if started >= earliest:
                children.setdefault(parent, []).append((process, started))
        parents = [os.getpid()]
        while parents:
            for process, started in children.get(parents.pop(), ()):
                parents.append(process)
                yield process, started

    def _end_programs(self) -> None:
        living = _processes()
        for process, started in self._started:
            if process in living and living[process][1] == started:  # no other one got its number
                with contextlib.suppress(OSError):
                    os.kill(process, signal.SIGKILL)


def _processes() -> dict[int, tuple[int, int]]:
    """Of each process of the system: its parent, and when it was started, in ticks since the system
    was. Empty where the system does not tell."""
    found: dict[int, tuple[int, int]] = {}
    try:
        names = os.listdir("/proc")
    except OSError:
        return found
    for name in filter(str.isdecimal, names):
        try:
            with open(f"/proc/{name}/stat", encoding="ascii", errors="replace") as file:
                # The program's name, before the last bracket, may hold anything.
                _, parent, *further = file.read().rpartition(")")[2].split()
        except (OSError, ValueError):
            continue  # it has ended meanwhile
        found[int(name)] = int(parent), int(further[17])  # the 22nd field
    return found


def _write_at_once(descriptor: int, text: str) -> None:
    """Write a short text if it is taken without waiting: whoever should read may be what hangs."""
    with contextlib.suppress(OSError, ValueError):
        if text and select.select([], [descriptor], [], 0)[1]:
            os.write(descriptor, text.encode())
