"""The trace of a build: what ran when, in the Trace Event Format of Chrome.

https://ui.perfetto.dev and chrome://tracing open the file. The rows ("threads") of a process hold
intervals that nest: an interval that would overlap another goes to a row of its own.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from aoti_build.models_file.project import Target
from aoti_build.work.watch import START, Interval, Watcher

if TYPE_CHECKING:
    from aoti_build.work.outcome import Outcome

# The rows of a process, by the kind of interval.
_ROWS = {
    "process": "job",
    "phase": "job",
    "stage": "job",
    "program": "programs",
    "wait": "locks",
}
_MICROSECONDS = 1e6


class _Open(NamedTuple):
    """A phase, or the whole step of a target, that has not ended."""

    name: str
    start: float


class _Placed(NamedTuple):
    """An interval with its times in whole microseconds since the first one. So the end of a phase
    is the start of the next one, whatever floats round to."""

    start: int
    end: int
    interval: Interval


class Trace(Watcher):
    """Collects the intervals of a build."""

    def __init__(self) -> None:
        self.intervals: list[Interval] = []
        self._lock = threading.Lock()
        self._targets: dict[str, _Open] = {}
        self._phases: dict[str, _Open] = {}

    def started(self, target: Target) -> None:
        now = time.monotonic()
        with self._lock:
            self._targets[target.name] = _Open(target.name, now)
            self._phases[target.name] = _Open(START, now)

    def phase(self, target: Target, name: str) -> None:
        now = time.monotonic()
        with self._lock:
            self._end_phase(target.name, now)
            self._phases[target.name] = _Open(name, now)

    def interval(self, interval: Interval) -> None:
        with self._lock:
            self.intervals.append(interval)

    def ended(self, outcome: Outcome) -> None:
        name, now = outcome.target.name, time.monotonic()
        with self._lock:
            self._end_phase(name, now)
            self._end(self._targets, name, "target", now, {"action": str(outcome.action)})

    def close(self) -> None:
        """End what is still open, after an interruption."""
        now = time.monotonic()
        with self._lock:
            for name in list(self._targets):
                self._end_phase(name, now)
                self._end(self._targets, name, "target", now, {"action": "interrupted"})

    def _end_phase(self, target: str, now: float) -> None:
        self._end(self._phases, target, "phase", now, {})

    def _end(
        self, table: dict[str, _Open], target: str, kind: str, now: float, facts: dict[str, str]
    ) -> None:
        opened = table.pop(target, None)
        if opened is not None:
            self.intervals.append(
                Interval(
                    target,
                    os.getpid(),
                    kind,
                    opened.name,
                    opened.start,
                    now - opened.start,
                    facts,
                )
            )

    def write(self, path: Path) -> bool:
        """Write the trace, compressed. Returns False if the disk refuses it, or nothing ran."""
        import gzip  # not on the no-op path

        from aoti_build.common.writing import write_atomic

        if not self.intervals:
            return False
        text = json.dumps({"traceEvents": list(events_of(self.intervals))})
        try:
            write_atomic(path, gzip.compress(text.encode(), compresslevel=5), sync=False)
        except OSError:
            return False
        return True


def events_of(intervals: Sequence[Interval]) -> Iterator[dict[str, Any]]:
    """The events of a trace: names of processes and rows, and a complete event ("X") for each
    interval. Times are in microseconds since the first interval."""
    first = min(interval.start for interval in intervals)
    rows: dict[tuple[int, str], list[_Placed]] = {}
    names: dict[int, str] = {}
    for interval in intervals:
        placed = _Placed(
            round((interval.start - first) * _MICROSECONDS),
            round((interval.end - first) * _MICROSECONDS),
            interval,
        )
        rows.setdefault((interval.process, _row_of(interval)), []).append(placed)
        if interval.kind == "process":
            names[interval.process] = f"{interval.target}: {interval.name}"
    for process in {interval.process for interval in intervals}:
        name = names.get(process, "build" if process == os.getpid() else "worker")
        yield _metadata("process_name", process, 0, name)
    numbers: dict[int, int] = {}
    for (process, row), members in rows.items():
        for layer in _nesting_layers(members):
            number = numbers[process] = numbers.get(process, 0) + 1
            yield _metadata("thread_name", process, number, row)
            for placed in layer:
                yield _event(placed, number)


def _row_of(interval: Interval) -> str:
    # In the build process, each target has rows of its own.
    own = interval.target if interval.process == os.getpid() else ""
    if interval.kind == "target" or (own and interval.kind == "phase"):
        return own or interval.target
    return f"{own} {_ROWS[interval.kind]}".strip()


def _nesting_layers(intervals: Sequence[_Placed]) -> list[list[_Placed]]:
    """The intervals in as few layers as it takes, so that any two of a layer nest or are apart."""
    layers: list[tuple[list[_Placed], list[int]]] = []
    for placed in sorted(intervals, key=lambda entry: (entry.start, -entry.end)):
        for members, open_ends in layers:
            while open_ends and open_ends[-1] <= placed.start:
                open_ends.pop()
            if not open_ends or placed.end <= open_ends[-1]:
                members.append(placed)
                open_ends.append(placed.end)
                break
        else:
            layers.append(([placed], [placed.end]))
    return [members for members, _ in layers]


def _event(placed: _Placed, row: int) -> dict[str, Any]:
    interval = placed.interval
    return {
        "ph": "X",
        "name": interval.name,
        "cat": interval.kind,
        "pid": interval.process,
        "tid": row,
        "ts": placed.start,
        "dur": placed.end - placed.start,
        "args": {"target": interval.target, **interval.facts},
    }


def _metadata(kind: str, process: int, row: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "name": kind, "pid": process, "tid": row, "args": {"name": name}}
