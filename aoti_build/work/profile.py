"""Where the time of a build went: its critical path and its longest steps, from the trace."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aoti_build.common.json_object import JsonObject
from aoti_build.work.watch import Interval

LONGEST = 10
# A step begins this many seconds after the end of the one that it waited for, at most.
_HANDOVER_SECONDS = 0.25
# An interval is not a step of its own if those inside it cover this part of it.
_COVERED = 0.5


@dataclass(frozen=True)
class PathPart:
    """A phase on the critical path. `stages` are seconds by name, in order."""

    target: str
    phase: str
    start: float
    seconds: float
    stages: tuple[tuple[str, float], ...] = ()

    def as_json(self) -> JsonObject:
        return {
            "target": self.target,
            "phase": self.phase,
            "start": round(self.start, 3),
            "seconds": round(self.seconds, 3),
            "stages": {name: round(seconds, 3) for name, seconds in self.stages},
        }


@dataclass(frozen=True)
class Profile:
    """`seconds` is the time from the first interval to the last. `start` of a part counts from the
    first."""

    seconds: float
    critical_path: tuple[PathPart, ...]
    longest: tuple[Interval, ...]

    def as_json(self) -> JsonObject:
        return {
            "seconds": round(self.seconds, 3),
            "critical_path": [part.as_json() for part in self.critical_path],
            "longest": [
                {
                    "target": interval.target,
                    "kind": interval.kind,
                    "name": interval.name,
                    "seconds": round(interval.seconds, 3),
                }
                for interval in self.longest
            ],
        }


def profile_of(intervals: Sequence[Interval]) -> Profile:
    """The profile of a trace that has at least one target."""
    first = min(interval.start for interval in intervals)
    last = max(interval.end for interval in intervals)
    parts: list[PathPart] = []
    for target in _critical_targets(intervals):
        parts += _parts(target, intervals, first)
    return Profile(last - first, tuple(parts), tuple(_longest(intervals)))


def _critical_targets(intervals: Sequence[Interval]) -> list[Interval]:
    """The target that ended last, before it the one that made room for it, and so on. The first
    comes first."""
    left = [interval for interval in intervals if interval.kind == "target"]
    path: list[Interval] = []
    current = max(left, key=lambda interval: interval.end, default=None)
    while current is not None:
        path.insert(0, current)
        left.remove(current)
        start = current.start
        earlier = [entry for entry in left if abs(start - entry.end) <= _HANDOVER_SECONDS]
        current = max(earlier, key=lambda interval: interval.end, default=None)
    return path


def _parts(target: Interval, intervals: Sequence[Interval], first: float) -> list[PathPart]:
    """The phases of a target, with the stages inside them."""
    parts = []
    for phase in sorted(intervals, key=lambda interval: interval.start):
        is_phase = phase.kind == "phase" and phase.process == target.process
        if not is_phase or phase.target != target.target:
            continue
        stages: dict[str, float] = {}
        for stage in intervals:
            middle = stage.start + stage.seconds / 2
            is_inside = phase.start <= middle <= phase.end
            if stage.kind == "stage" and stage.target == target.target and is_inside:
                stages[stage.name] = stages.get(stage.name, 0.0) + stage.seconds
        # A phase of one stage that has its name says nothing more.
        stages.pop(phase.name, None)
        parts.append(
            PathPart(
                target.target,
                phase.name,
                phase.start - first,
                phase.seconds,
                tuple(stages.items()),
            )
        )
    return parts


def _longest(intervals: Sequence[Interval]) -> list[Interval]:
    """The longest steps. Those that consist of others are left out."""
    steps = [interval for interval in intervals if interval.kind not in ("target", "process")]
    # The build process has the phases of its workers too.
    own = {interval.process for interval in intervals if interval.kind == "target"}
    in_workers = {
        (interval.target, interval.name)
        for interval in steps
        if interval.kind == "phase" and interval.process not in own
    }
    longest: list[Interval] = []
    for interval in sorted(steps, key=lambda entry: -entry.seconds):
        key = (interval.target, interval.name)
        is_repeated = interval.kind == "phase" and interval.process in own and key in in_workers
        if not is_repeated and _seconds_inside(interval, steps) < _COVERED * interval.seconds:
            longest.append(interval)
        if len(longest) == LONGEST:
            break
    return longest


def _seconds_inside(outer: Interval, steps: Sequence[Interval]) -> float:
    """How much of an interval the others inside it cover, without overlaps."""
    inside = []
    for inner in steps:
        is_inside = outer.start <= inner.start and inner.end <= outer.end
        is_finer = _RANK[inner.kind] > _RANK[outer.kind]
        if inner.process == outer.process and is_inside and is_finer:
            inside.append(inner)
    covered, end = 0.0, outer.start
    for inner in sorted(inside, key=lambda entry: entry.start):
        covered += max(0.0, inner.end - max(end, inner.start))
        end = max(end, inner.end)
    return covered


_RANK = {"phase": 0, "stage": 1, "wait": 2, "program": 2}
