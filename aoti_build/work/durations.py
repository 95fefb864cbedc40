"""How long the stages of earlier builds took, by target: working state, for the display alone.

An entry that is no duration is left out. A wrong one makes a wrong estimate, and nothing else.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aoti_build.common.records import read_cache_record, write_cache_record
from aoti_build.models_file.project import Target
from aoti_build.planning.actions import Done
from aoti_build.work.outcome import Outcome
from aoti_build.work.watch import START, Progress, StageClock, Watcher

FORMAT = "aoti-build/durations"
FORMAT_VERSION = 1
# A failed build did not finish its last stage, and a reproduction has each stage twice.
_MEASURED = (Done.COMPILED, Done.REUSED, Done.REPACKED, Done.RESTORED, Done.RECHECKED)
# Longer than any stage, and the most that a record may make the display wait for.
_LONGEST_SECONDS = 30 * 86400.0
_LONGEST_NAME = 40
_MOST_STAGES = 40


class Durations(Watcher):
    """Measures the stages of this build. `expected` are those of earlier ones."""

    def __init__(self, record: Path) -> None:
        self._record = record
        self._lock = threading.Lock()
        self._clocks: dict[str, StageClock] = {}
        self._measured: dict[str, dict[str, float]] = {}
        self.expected = _read(record)

    def started(self, target: Target) -> None:
        with self._lock:
            self._clocks[target.name] = StageClock(time.monotonic())

    def phase(self, target: Target, name: str) -> None:
        self._enter(target, name)

    def stage(self, target: Target, progress: Progress) -> None:
        self._enter(target, progress.name)

    def _enter(self, target: Target, name: str) -> None:
        with self._lock:
            clock = self._clocks.get(target.name)
            if clock is not None:
                clock.enter(name, time.monotonic())

    def ended(self, outcome: Outcome) -> None:
        with self._lock:
            clock = self._clocks.pop(outcome.target.name, None)
            if clock is None or outcome.action not in _MEASURED:
                return
            stages = clock.seconds(time.monotonic())
            # Only an export waits for a worker that imports torch.
            if "export" not in stages:
                del stages[START]
            self._measured[outcome.target.name] = stages

    def save(self) -> None:
        """Add the stages of this build to the record. Those that it did not have stay. If the disk
        refuses, the next build has worse estimates."""
        if not self._measured:
            return
        # Another build may have written it meanwhile.
        merged = _read(self._record)
        for target, stages in self._measured.items():
            entry = {**merged.get(target, {}), **stages}
            merged[target] = {
                name: round(seconds, 2) for name, seconds in entry.items() if _is_stage(name)
            }
        write_cache_record(self._record, FORMAT, FORMAT_VERSION, {"targets": merged})


def _is_stage(name: str) -> bool:
    """Whether it is the name of a stage. Others are sentences for people, such as what a build
    waits for."""
    return name.isidentifier() and len(name) <= _LONGEST_NAME


def _read(record: Path) -> dict[str, dict[str, float]]:
    result = {}
    for target, stages in read_cache_record(record, FORMAT, FORMAT_VERSION, "targets").items():
        if isinstance(stages, dict):
            result[target] = _durations(stages)
    return result


def _durations(stages: Mapping[str, Any]) -> dict[str, float]:
    """The entries that are durations."""
    found = {}
    for name, seconds in list(stages.items())[:_MOST_STAGES]:
        # A bool is an int in Python.
        is_number = type(seconds) in (int, float)
        if is_number and _is_stage(name) and 0 <= seconds <= _LONGEST_SECONDS:
            found[name] = float(seconds)
    return found
