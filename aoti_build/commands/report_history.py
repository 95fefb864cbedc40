"""The history of benchmarks as a report shows it: series of figures with their steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from aoti_build.errors import UsageError

SECONDS = "seconds"
BYTES = "bytes"


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
    """The series of `targets` in a directory.

    Raises UsageError if there is no such directory.
    """
    if not directory.is_dir():
        raise UsageError(
            f"{directory} is no directory",
            hint="name the directory of the history, to which benchmarks are added",
        )
    return History(dict.fromkeys(targets, ()))
