"""What follows a build: the trace, the durations that later builds expect, and the display.

A restore imports this module, so it imports nothing that only workers need.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from aoti_build.models_file.project import Target

if TYPE_CHECKING:
    from aoti_build.planning.plan import Step
    from aoti_build.work.outcome import Outcome

OnProgress = Callable[[Target, str], None]
# Seconds by stage, by the name of the target.
Expected = Mapping[str, Mapping[str, float]]
# The phase of a target before any other.
START = "start"


class Interval(NamedTuple):
    """Something that took time.

    `process` is the number of the process that it was in, or that waited for it. `kind` is
    "target", "phase", "process", "stage", "program" or "wait". `start` is in seconds of the host's
    monotonic clock.
    """

    target: str
    process: int
    kind: str
    name: str
    start: float
    seconds: float
    facts: Mapping[str, str] = {}

    @property
    def end(self) -> float:
        return self.start + self.seconds


class Progress(NamedTuple):
    """A stage, and how far it is: `done` of `total` parts, which is 0 if it has none. `detail` is a
    text for people."""

    name: str
    done: int = 0
    total: int = 0
    detail: str = ""


class Watcher:
    """Follows a build. The methods here do nothing by themselves. Several threads call them."""

    def planned(self, steps: Sequence[Step], jobs: int, expected: Expected) -> None:
        """The build begins, with these steps, `jobs` of them at once."""

    def started(self, target: Target) -> None:
        """The step of a target has begun."""

    def phase(self, target: Target, name: str) -> None:
        """A phase of a target has begun. The one before it has ended."""

    def resumed(self, target: Target) -> None:
        """A wait for a lock has ended. The target is where it began."""
        self.phase(target, START)

    def stage(self, target: Target, progress: Progress) -> None:
        """A stage of the current phase has begun or come further."""

    def interval(self, interval: Interval) -> None:
        """Something has ended."""

    def message(self, target: Target, text: str) -> None:
        """A sentence for people, such as a warning."""

    def ended(self, outcome: Outcome) -> None:
        """The step of a target has ended."""


class Watchers(Watcher):
    """Passes everything on to several watchers."""

    def __init__(self, watchers: Sequence[Watcher] = ()) -> None:
        self._watchers = tuple(watchers)

    def planned(self, steps: Sequence[Step], jobs: int, expected: Expected) -> None:
        for watcher in self._watchers:
            watcher.planned(steps, jobs, expected)

    def started(self, target: Target) -> None:
        for watcher in self._watchers:
            watcher.started(target)

    def phase(self, target: Target, name: str) -> None:
        for watcher in self._watchers:
            watcher.phase(target, name)

    def resumed(self, target: Target) -> None:
        for watcher in self._watchers:
            watcher.resumed(target)

    def stage(self, target: Target, progress: Progress) -> None:
        for watcher in self._watchers:
            watcher.stage(target, progress)

    def interval(self, interval: Interval) -> None:
        for watcher in self._watchers:
            watcher.interval(interval)

    def message(self, target: Target, text: str) -> None:
        for watcher in self._watchers:
            watcher.message(target, text)

    def ended(self, outcome: Outcome) -> None:
        for watcher in self._watchers:
            watcher.ended(outcome)


class Phases(Watcher):
    """Calls `on_progress` with each phase of a target, its messages, and how it ended: what a
    program that calls `build` wants to know."""

    def __init__(self, on_progress: OnProgress) -> None:
        self._on_progress = on_progress

    def phase(self, target: Target, name: str) -> None:
        self._on_progress(target, name)

    def resumed(self, target: Target) -> None:
        """The phase after the wait comes next, and says the same."""

    def message(self, target: Target, text: str) -> None:
        self._on_progress(target, text)

    def ended(self, outcome: Outcome) -> None:
        self._on_progress(outcome.target, outcome.action)


class StageClock:
    """Adds up how long a target was in each stage. A phase is a stage of its own until its first
    stage begins."""

    def __init__(self, now: float) -> None:
        self.name = START
        self.began = now
        self.done: dict[str, float] = {}

    def enter(self, name: str, now: float) -> None:
        if name != self.name:
            self.done = self.seconds(now)
            self.name, self.began = name, now

    def seconds(self, now: float) -> dict[str, float]:
        """Seconds by stage, with those of the current one so far."""
        total = dict(self.done)
        total[self.name] = total.get(self.name, 0.0) + now - self.began
        return total
