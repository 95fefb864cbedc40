"""`bench-history`: the series of each target over time, with their step changes."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from aoti_build.commands.conclusion import head
from aoti_build.commands.json_values import json_list
from aoti_build.common.json_object import JsonObject
from aoti_build.errors import UsageError
from aoti_build.measurement.history import by_machine, points_by_series, read
from aoti_build.measurement.history_csv import export_csv
from aoti_build.measurement.history_entry import HistoryEntry, Series
from aoti_build.measurement.record import Metric
from aoti_build.measurement.steps import changed_facts, find_steps


@dataclass(frozen=True)
class FoundStep:
    """A step change.

    Attributes:
        entry: the first entry after it.
        ratio: the mean after it divided by that before it. More than 1 is worse.
        p_value: how probable so good a split would be without a step.
        changes: what differs between the facts of that entry and of the one before it.
    """

    entry: HistoryEntry
    ratio: float
    p_value: float
    changes: tuple[str, ...]

    def as_json(self) -> JsonObject:
        return {
            "measured": self.entry.measured,
            "commit": self.entry.commit,
            "key": self.entry.key,
            "ratio": self.ratio,
            "p_value": self.p_value,
            "changes": list(self.changes),
        }


@dataclass(frozen=True)
class SeriesHistory:
    """One series over time: `points` has its medians, ordered by the time of their entries."""

    name: str
    points: tuple[tuple[HistoryEntry, Series], ...]
    steps: tuple[FoundStep, ...]

    @property
    def series(self) -> Series:
        """The newest point, which also says what is measured."""
        return self.points[-1][1]

    def as_json(self) -> JsonObject:
        series = self.series
        return {
            "name": self.name,
            "way": series.way,
            "cache": series.cache,
            "metric": series.metric,
            "sizes": dict(series.sizes),
            "points": [_point_json(entry, point) for entry, point in self.points],
            "steps": json_list(self.steps),
        }


@dataclass(frozen=True)
class TargetHistory:
    """The history of one target on one class of machines."""

    target: str
    machine_class: str
    entries: tuple[HistoryEntry, ...]
    series: tuple[SeriesHistory, ...]

    def as_json(self) -> JsonObject:
        return {
            "target": self.target,
            "machine_class": self.machine_class,
            "entries": len(self.entries),
            "series": json_list(self.series),
        }


@dataclass(frozen=True)
class HistoryReport:
    """The histories in a directory. `broken` says which lines were left out, and why.

    `csv` are the files that were written.
    """

    directory: Path
    histories: tuple[TargetHistory, ...]
    broken: tuple[str, ...] = ()
    csv: tuple[Path, ...] = ()

    def as_json(self) -> JsonObject:
        return {
            **head("aoti-build/bench-history", 1),
            "directory": str(self.directory),
            "targets": json_list(self.histories),
            "broken": list(self.broken),
            "csv": [str(file) for file in self.csv],
        }


def bench_history(
    directory: Path | None,
    targets: Collection[str] | None = None,
    *,
    csv: str = "",
) -> HistoryReport:
    """Read the history in `directory`, and find the steps in its series.

    Args:
        targets: the names of those to show. None for all.
        csv: the file to write, or a pattern with ``{target}`` and ``{machine}``. Empty for none.

    Raises:
        UsageError: no directory is named, it is none, or the CSV file cannot be written.
    """
    if directory is None:
        raise UsageError(
            "no history is kept for this project",
            cause="models.yaml has no key `history`, and --history is not set",
            hint="name the directory of the history with one of them",
        )
    history = read(directory)
    entries = history.entries
    if targets is not None:
        entries = tuple(entry for entry in entries if entry.target in targets)
    histories = histories_of(entries)
    files = _write_csv(histories, csv) if csv else ()
    return HistoryReport(directory, histories, tuple(map(str, history.broken)), files)


def histories_of(entries: Sequence[HistoryEntry]) -> tuple[TargetHistory, ...]:
    """The entries by target and class of machines, with the steps in each series.

    `entries` are in the order of `read`.
    """
    histories = []
    for (target, machine_class), of_machine in by_machine(entries).items():
        series = [
            SeriesHistory(name, tuple(points), _steps(points))
            for name, points in points_by_series(of_machine).items()
        ]
        histories.append(TargetHistory(target, machine_class, tuple(of_machine), tuple(series)))
    return tuple(histories)


def _steps(points: Sequence[tuple[HistoryEntry, Series]]) -> tuple[FoundStep, ...]:
    figures = [series.median for _, series in points]
    # The size of a package has no noise.
    is_exact = points[-1][1].metric == Metric.SIZE
    found = []
    for step in find_steps(figures, exact=is_exact):
        entry, before = points[step.index][0], points[step.index - 1][0]
        changes = tuple(changed_facts(before.facts, entry.facts))
        found.append(FoundStep(entry, step.ratio, step.p_value, changes))
    return tuple(found)


def _point_json(entry: HistoryEntry, series: Series) -> JsonObject:
    return {
        "measured": entry.measured,
        "commit": entry.commit,
        "key": entry.key,
        "median": series.median,
        "samples": series.samples,
    }


def _write_csv(histories: Sequence[TargetHistory], pattern: str) -> tuple[Path, ...]:
    """Write a file for each target and class of machines. Raises UsageError."""
    entries_of_file: dict[Path, list[HistoryEntry]] = {}
    for history in histories:
        name = pattern.replace("{target}", history.target)
        path = Path(name.replace("{machine}", history.machine_class)).absolute()
        entries_of_file.setdefault(path, []).extend(history.entries)
    if not entries_of_file:
        raise UsageError("the history has no entry to write", hint="omit --csv")
    for path, entries in entries_of_file.items():
        export_csv(entries, path)
    return tuple(entries_of_file)
