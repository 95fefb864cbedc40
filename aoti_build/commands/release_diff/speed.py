"""Ratios of latencies and of memory between two releases, from the `bench.json` of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from aoti_build.commands.report.bench import first_inference, latencies
from aoti_build.common.json_object import JsonObject
from aoti_build.measurement.record import BenchRecord, Metric, Way

# The metrics that are compared, in the order of reports.
METRICS = (Metric.FIRST, Metric.STEADY, Metric.MEMORY)


@dataclass(frozen=True)
class SpeedRatio:
    """One metric of one target, at one combination of sizes.

    Attributes:
        metric: as in `Metric`. Seconds or bytes, of which less is better.
        ratio: new / old.
        sizes: of dynamic dimensions, for the metric `steady`.
        low: the lower end of the interval of the ratio. None unless it was measured side by side.
        high: its upper end.
    """

    metric: Metric
    ratio: float
    sizes: Mapping[str, int] = field(default_factory=dict)
    low: float | None = None
    high: float | None = None

    def as_json(self) -> JsonObject:
        return {
            "metric": self.metric,
            "sizes": dict(self.sizes),
            "ratio": self.ratio,
            "low": self.low,
            "high": self.high,
        }


@dataclass(frozen=True)
class Speed:
    """The ratios of one target.

    `side_by_side` says that the new release measured this very package of the old one beside its
    own. Otherwise each was measured at its own time, and the ratios are indicative. `why` says why
    there are none.
    """

    ratios: tuple[SpeedRatio, ...] = ()
    side_by_side: bool = False
    why: str | None = None

    def as_json(self) -> JsonObject:
        return {
            "side_by_side": self.side_by_side,
            "ratios": [ratio.as_json() for ratio in self.ratios],
            "why": self.why,
        }


def speed_of(old: BenchRecord | None, new: BenchRecord | None, old_package: str) -> Speed:
    """Compare two measurements. `old_package` is the sha256 of the old package."""
    if new is not None and new.base is not None and new.base.package_sha256 == old_package:
        return _side_by_side(new)
    if old is None and new is None:
        return Speed(why="neither release has a measurement")
    if old is None:
        return Speed(why="the old release has no measurement")
    if new is None:
        return Speed(why="the new release has no measurement")
    machines = old.machine, new.machine
    if machines[0].machine_class != machines[1].machine_class:
        classes = f"{machines[0].machine_class} and {machines[1].machine_class}"
        return Speed(why=f"they were measured on different machines: {classes}")
    if machines[0].threads != machines[1].threads:
        threads = f"{machines[0].threads} and {machines[1].threads}"
        return Speed(why=f"they were measured with different numbers of threads: {threads}")
    return Speed(tuple(_ratios(_figures(old), _figures(new))))


def _side_by_side(record: BenchRecord) -> Speed:
    ratios = []
    assert record.base is not None
    for found in record.base.comparisons:
        if found.metric in METRICS:
            ratios.append(
                SpeedRatio(found.metric, found.ratio, dict(found.sizes), found.low, found.high)
            )
    return Speed(tuple(ratios), side_by_side=True)


# A metric at sizes, which a mapping cannot be part of a key for.
_Figure = tuple[Metric, tuple[tuple[str, int], ...]]


def _figures(record: BenchRecord) -> dict[_Figure, float]:
    """Medians of the artifact, by metric and sizes."""
    figures: dict[_Figure, float] = {}
    start = first_inference(record)
    if start is not None:
        figures[Metric.FIRST, ()] = start.first_seconds
    for latency in latencies(record):
        if latency.way == Way.ARTIFACT:
            figures[Metric.STEADY, tuple(sorted(latency.sizes.items()))] = latency.p50
    if start is not None:
        figures[Metric.MEMORY, ()] = start.peak_memory
    return figures


def _ratios(old: Mapping[_Figure, float], new: Mapping[_Figure, float]) -> list[SpeedRatio]:
    ratios = []
    for figure, value in new.items():
        metric, sizes = figure
        before = old.get(figure)
        if before:
            ratios.append(SpeedRatio(metric, value / before, dict(sizes)))
    return ratios
