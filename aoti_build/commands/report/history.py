"""The history of benchmarks as a report shows it: series of figures with their steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from aoti_build.commands.bench.history import SeriesHistory, histories_of
from aoti_build.measurement.history import BrokenLine, read
from aoti_build.measurement.history_entry import Series
from aoti_build.measurement.record import Metric, Way

SECONDS = "seconds"
BYTES = "bytes"
# Other figures would make the page long, and say little of the artifact.
_METRICS = (Metric.FIRST, Metric.STEADY, Metric.MEMORY, Metric.SIZE)


@dataclass(frozen=True)
class HistoryPoint:
    """A figure of one benchmark.

    Attributes:
        time: when it was measured; UTC in ISO 8601.
        value: in the unit of the series.
        commit: the git revision of the project. None without git.
        key: of the artifact.
    """

    time: str
    value: float
    commit: str | None
    key: str


@dataclass(frozen=True)
class HistoryStep:
    """A step change in a series.

    Attributes:
        index: of the first point after it.
        ratio: the mean after it divided by that before it. More than 1 is worse.
        changes: what else changed there, such as ``torch 2.13.0 -> 2.14.1``.
    """

    index: int
    ratio: float
    changes: tuple[str, ...] = ()


@dataclass(frozen=True)
class HistorySeries:
    """One figure of a target over time, on one class of machines. `unit` is `SECONDS` or
    `BYTES`."""

    name: str
    unit: str
    machine_class: str
    points: tuple[HistoryPoint, ...]
    steps: tuple[HistoryStep, ...] = ()


@dataclass(frozen=True)
class History:
    """What a directory of the history holds: the series of each target, by its name.

    `broken` has a sentence for each line that could not be read.
    """

    series: Mapping[str, Sequence[HistorySeries]]
    broken: tuple[str, ...] = ()


def read_history(directory: Path, targets: Sequence[str]) -> History:
    """The series of `targets` in a directory that matter to a user of the artifact.

    A directory that does not exist is empty. Raises UsageError if it is a file.
    """
    found = read(directory)
    series: dict[str, list[HistorySeries]] = {name: [] for name in targets}
    entries = [entry for entry in found.entries if entry.target in series]
    for history in histories_of(entries):
        for one in history.series:
            if _is_shown(one.series):
                series[history.target].append(_series(one, history.machine_class))
    return History(series, tuple(_sentence(line, directory) for line in found.broken))


def _sentence(line: BrokenLine, directory: Path) -> str:
    """What is wrong with a line. Its file is named below `directory`: the page may be published."""
    return f"history: {replace(line, file=line.file.relative_to(directory))}"


def _is_shown(series: Series) -> bool:
    return series.metric in _METRICS and series.way in (None, Way.ARTIFACT, Way.ARTIFACT_GRAPHS)


def _series(history: SeriesHistory, machine_class: str) -> HistorySeries:
    entries = [entry for entry, _ in history.points]
    points = []
    for entry, series in history.points:
        points.append(HistoryPoint(entry.measured, series.median, entry.commit, entry.key))
    steps = []
    for step in history.steps:
        steps.append(HistoryStep(entries.index(step.entry), step.ratio, step.changes))
    is_bytes = history.series.metric in (Metric.MEMORY, Metric.SIZE)
    return HistorySeries(
        history.name,
        BYTES if is_bytes else SECONDS,
        machine_class,
        tuple(points),
        tuple(steps),
    )
