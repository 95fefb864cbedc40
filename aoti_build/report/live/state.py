"""How far a build is, and how long the rest will take by earlier builds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from aoti_build.planning.actions import Action
from aoti_build.report.terminal import printable_line
from aoti_build.work.watch import Expected, Progress, StageClock

# The stages of a build in order. Those of one group may come in any order, and repeatedly.
_GROUPS = (
    ("start",),
    ("model",),
    ("export",),
    ("reference",),
    ("compile", "instructions", "codegen", "autotune", "headers", "wrapper", "kernels", "link"),
    ("repack",),
    ("load",),
    ("check",),
    ("publish",),
)
_GROUP_OF: Mapping[str, int] = {
    name: number for number, names in enumerate(_GROUPS) for name in names
}
_COMPILE = _GROUP_OF["compile"]
_REPACK = _GROUP_OF["repack"]
# The stages of actions that build nothing.
_OF_ACTION: Mapping[str, Sequence[str]] = {
    Action.RESTORE: ("restore", "publish"),
    Action.RECHECK: ("load", "check"),
}

_BEGINNING = Progress("start")


@dataclass
class Running:
    """A target that is being worked on."""

    name: str
    began: float
    clock: StageClock
    progress: Progress = _BEGINNING

    @property
    def stage(self) -> str:
        return self.clock.name

    @property
    def stage_text(self) -> str:
        """The stage with its count: ``kernels 3/12``, ``reference: the max inputs``."""
        progress = self.progress
        if progress.total:
            return f"{self.stage} {progress.done}/{progress.total}"
        if progress.detail:
            return f"{self.stage}: {printable_line(progress.detail)}"
        return self.stage


@dataclass
class State:
    """The targets that wait and those that run, each in the order in which they begin.

    `waiting` has their actions by name. `expected` are seconds by target and stage, of earlier
    builds. `jobs` targets run at once. Times are of the monotonic clock.
    """

    began: float
    jobs: int
    expected: Expected
    waiting: dict[str, str] = field(default_factory=dict)
    running: dict[str, Running] = field(default_factory=dict)
    ended: int = 0
    failed: int = 0

    @property
    def total(self) -> int:
        return len(self.waiting) + len(self.running) + self.ended


class Estimate(NamedTuple):
    """Seconds until a build ends. `is_whole` is False if some targets have no earlier build; then
    it takes longer. None: no target has one."""

    seconds: float | None
    is_whole: bool


def stage_seconds(running: Running, now: float) -> float:
    """How long a target has been in its stage, altogether."""
    return running.clock.seconds(now)[running.stage]


def target_left(running: Running, expected: Expected, now: float) -> float | None:
    """Seconds that a running target still needs; None if it has no earlier build.

    A stage that takes longer than in the earlier build counts nothing more.
    """
    stages = expected.get(running.name)
    if not stages:
        return None
    return _left(stages, running.clock.seconds(now), running.stage)


def _left(stages: Mapping[str, float], spent: Mapping[str, float], stage: str) -> float:
    groups = [0.0] * len(_GROUPS)
    for name, seconds in stages.items():
        if name in _GROUP_OF:
            groups[_GROUP_OF[name]] += max(0.0, seconds - spent.get(name, 0.0))
    current = _GROUP_OF.get(stage, 0)
    # Only one of these two is done, and the first is likely before it is known.
    if current <= _COMPILE:
        groups[_REPACK] = 0.0 if groups[_COMPILE] else groups[_REPACK]
    return sum(groups[current:])


def estimate(state: State, now: float) -> Estimate:
    """When the build will end. Waiting targets begin in turn, as soon as another ends."""
    unknown = 0
    slots: list[float] = []
    for running in state.running.values():
        left = target_left(running, state.expected, now)
        unknown += left is None
        slots.append(left or 0.0)
    slots += [0.0] * (state.jobs - len(slots))
    for name, action in state.waiting.items():
        stages = state.expected.get(name)
        unknown += not stages
        slots.sort()
        slots[0] += _whole(stages or {}, action)
    if unknown == len(state.running) + len(state.waiting):
        return Estimate(None, is_whole=False)
    return Estimate(max(slots), is_whole=not unknown)


def _whole(stages: Mapping[str, float], action: str) -> float:
    """The seconds of a step that has not begun."""
    names = _OF_ACTION.get(action)
    if names is not None:
        return sum(stages.get(name, 0.0) for name in names)
    return _left(stages, {}, "start")
