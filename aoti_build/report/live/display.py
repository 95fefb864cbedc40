"""Shows a build while it works: lines that are drawn again on a terminal, and a log elsewhere.

A frame ends with a line break, so the cursor is below it. Whatever another program prints, or the
shell after a kill, therefore begins in a line of its own.
"""

from __future__ import annotations

import contextlib
import io
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TextIO

from aoti_build.models_file.project import Target
from aoti_build.planning.actions import Done
from aoti_build.planning.plan import Step
from aoti_build.report.colour import coloured, has_colours
from aoti_build.report.live.lines import ended_line, frame, heartbeat
from aoti_build.report.live.state import Running, State
from aoti_build.report.terminal import printable_line, terminal_size
from aoti_build.work.outcome import Outcome
from aoti_build.work.watch import Expected, Progress, StageClock, Watcher

# At most ten updates a second.
DRAW_SECONDS = 0.1
HEARTBEAT_SECONDS = 30.0
_UP = "\x1b[{}A"
_CLEAR_LINE = "\x1b[K"
_CLEAR_BELOW = "\x1b[J"


class Terminal:
    """A frame of lines at the end of a terminal. Texts are printed above it.

    A terminal that becomes narrower breaks the lines of the frame, and the frame then has more
    rows. xterm is the exception: it cuts them. `reflows` says which.
    """

    def __init__(
        self,
        stream: TextIO,
        size: Callable[[], os.terminal_size] | None = None,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        self._stream = stream
        self._size = size
        self._reflows = "XTERM_VERSION" not in environment
        self._shown: list[str] = []

    def size(self) -> os.terminal_size:
        if self._size is not None:
            return self._size()
        return terminal_size(self._stream) or os.terminal_size((80, 24))

    def draw(self, lines: Sequence[str]) -> None:
        """Show a frame in the place of the last one. Nothing is written if it is the same."""
        if list(lines) != self._shown:
            self._replace("", lines)

    def print(self, lines: Sequence[str]) -> None:
        """Print lines above the frame."""
        self._replace("".join(f"{line}{_CLEAR_LINE}\n" for line in lines), self._shown)

    def erase(self) -> None:
        if self._shown:
            self._replace("", [])

    def _replace(self, above: str, lines: Sequence[str]) -> None:
        rows = self._rows()
        up = "\r" + (_UP.format(rows) if rows else "")
        below = "".join(f"{line}{_CLEAR_LINE}\n" for line in lines)
        self._shown = list(lines)
        # One call, so that no other text comes between. A terminal may have gone away.
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(up + above + below + _CLEAR_BELOW)
            self._stream.flush()

    def _rows(self) -> int:
        """The rows of the screen that the shown frame covers now."""
        if not self._reflows:
            return len(self._shown)
        width = max(1, self.size().columns)
        return sum(max(1, -(-len(line) // width)) for line in self._shown)


class Display(Watcher):
    """Shows a build on `stream` until it is closed. Several threads call it."""

    def __init__(
        self,
        stream: TextIO,
        terminal: Terminal | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Without a `terminal`, lines with timestamps are written, and no frame."""
        self._stream = stream
        self._terminal = terminal
        self._clock = clock
        self._has_colours = has_colours(stream)
        # Re-entrant: what is printed to the replaced stderr meanwhile comes here as well.
        self._lock = threading.RLock()
        self._state = State(clock(), 1, {})
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._next_heartbeat = clock() + HEARTBEAT_SECONDS

    def planned(self, steps: Sequence[Step], jobs: int, expected: Expected) -> None:
        with self._lock:
            self._state = State(self._clock(), jobs, expected)
            for step in steps:
                self._state.waiting[step.target.name] = str(step.action)
            self._next_heartbeat = self._clock() + HEARTBEAT_SECONDS
        self._thread = threading.Thread(target=self._run, name="display", daemon=True)
        self._thread.start()

    def started(self, target: Target) -> None:
        now = self._clock()
        with self._lock:
            self._state.waiting.pop(target.name, None)
            self._state.running[target.name] = Running(target.name, now, StageClock(now))

    def phase(self, target: Target, name: str) -> None:
        self.stage(target, Progress(name))

    def stage(self, target: Target, progress: Progress) -> None:
        with self._lock:
            running = self._state.running.get(target.name)
            if running is not None:
                running.clock.enter(progress.name, self._clock())
                running.progress = progress

    def message(self, target: Target, text: str) -> None:
        head, *others = text.splitlines() or [""]
        self.print([f"{target.name}: {head}", *others])

    def ended(self, outcome: Outcome) -> None:
        name, now = outcome.target.name, self._clock()
        with self._lock:
            running = self._state.running.pop(name, None)
            self._state.waiting.pop(name, None)
            self._state.ended += 1
            self._state.failed += outcome.action == Done.FAILED
            if running is not None:
                self.print([ended_line(name, str(outcome.action), now - running.began)])

    def print(self, lines: Sequence[str]) -> None:
        """Print lines above the frame, or else with a timestamp."""
        shown = [printable_line(line) for line in lines]
        if self._has_colours:
            shown = coloured(shown)
        with self._lock:
            if self._terminal is not None:
                self._terminal.print(shown)
                return
            text = "".join(f"{_timestamp()} {line}\n" for line in shown)
            with contextlib.suppress(OSError, ValueError):
                self._stream.write(text)
                self._stream.flush()

    def _run(self) -> None:
        while not self._stop.wait(DRAW_SECONDS):
            self.refresh()

    def refresh(self) -> None:
        """Draw the frame, or write a heartbeat if it is time for one."""
        with self._lock:
            now = self._clock()
            if self._terminal is not None:
                size = self._terminal.size()
                self._terminal.draw(frame(self._state, now, size.columns, size.lines))
            elif now >= self._next_heartbeat:
                self._next_heartbeat = now + HEARTBEAT_SECONDS
                self.print([heartbeat(self._state, now)])

    def close(self) -> None:
        """Remove the frame. What is printed later goes where the stream goes."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        with self._lock:
            if self._terminal is not None:
                self._terminal.erase()


class Messages(Watcher):
    """Writes the messages of a build, such as warnings, and nothing else."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def message(self, target: Target, text: str) -> None:
        lines = "".join(
            f"{printable_line(line)}\n" for line in f"{target.name}: {text}".splitlines()
        )
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(lines)
            self._stream.flush()


class _Above(io.TextIOBase):
    """Takes the place of stderr, and prints whole lines above the frame."""

    def __init__(self, display: Display, stream: TextIO) -> None:
        self._display = display
        self._stream = stream
        self._rest = ""

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        if lines:
            self._display.print(lines)
        return len(text)

    def flush(self) -> None:
        pass

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()

    def finish(self) -> None:
        """Write what was printed without a line break at its end."""
        if self._rest:
            self.write("\n")


@contextlib.contextmanager
def display_on(stream: TextIO) -> Iterator[Display]:
    """A display on `stream`, which is stderr. It ends with the context, also after an
    exception."""
    terminal = Terminal(stream) if is_terminal(stream) else None
    display = Display(stream, terminal)
    with contextlib.ExitStack() as stack:
        if terminal is not None:
            above: Any = _Above(display, stream)
            stack.enter_context(contextlib.redirect_stderr(above))
            stack.callback(above.finish)
        # Called first at the end.
        stack.callback(display.close)
        yield display


def is_terminal(stream: TextIO) -> bool:
    """Whether a stream is a terminal that can move its cursor."""
    return stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def _timestamp() -> str:
    """``2026-01-31T14:02:09+01:00``."""
    # `datetime` would do, and take a tenth of the time of a restore to import.
    text = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    return f"{text[:-2]}:{text[-2:]}"
