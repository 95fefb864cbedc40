"""The history of benchmarks as a report shows it: series of figures with their steps."""

from __future__ import annotations

from dataclasses import dataclass

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
