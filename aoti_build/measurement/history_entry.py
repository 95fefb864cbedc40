"""An entry of the history: the medians of one benchmark of one target."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from statistics import median
from typing import Annotated

import msgspec

from aoti_build.figures import Part
from aoti_build.measurement.record import BenchRecord, Cache, Metric, Row, Steady, Way

FORMAT = "aoti-build/history"
# Goes up with each change of the types below.
FORMAT_VERSION = 1

_Positive = Annotated[float, msgspec.Meta(gt=0)]


class Series(Part, frozen=True):
    """What one metric of one way was in one benchmark.

    Attributes:
        metric: as in `Metric`.
        median: of the samples, in the metric's unit.
        samples: how many processes were measured. 1 for a size, which does not vary.
        way: how the model was brought to run. None for the size of the package.
        cache: the state of the caches on disk.
        sizes: of dynamic dimensions, for the metric `steady`.
    """

    metric: Metric
    median: _Positive
    samples: Annotated[int, msgspec.Meta(ge=1)]
    way: Way | None = None
    cache: Cache | None = None
    sizes: Mapping[str, int] = {}

    @property
    def name(self) -> str:
        """The name of the series in tables: ``artifact, used cache, steady, batch=2``."""
        parts = [str(self.way or "package")]
        if self.cache is not None:
            parts.append(f"{self.cache} cache")
        parts.append(str(self.metric))
        parts += [f"{name}={size}" for name, size in sorted(self.sizes.items())]
        return ", ".join(parts)


class HistoryEntry(Part, frozen=True, omit_defaults=False):
    """One benchmark of one target: a line of the history.

    Attributes:
        target: its name.
        machine_class: that of the machine. Only entries of one class are compared.
        measured: when the benchmark ended; UTC in ISO 8601.
        commit: the git revision of the project, with ``+`` if files were changed.
        key: of the artifact.
        package_sha256: the digest of its package.
        size: bytes of the package, with weights that lie beside it.
        facts: of the machine, with versions. A change of one may explain a step.
        series: the medians.
    """

    target: str
    machine_class: str
    measured: str
    key: str
    package_sha256: str
    size: int
    facts: Mapping[str, str]
    series: tuple[Series, ...]
    commit: str | None = None
    format: str = FORMAT
    format_version: int = FORMAT_VERSION

    @property
    def time(self) -> datetime:
        """When it was measured. Raises ValueError if the text is no time."""
        return time_of(self.measured)


def entry_of(record: BenchRecord) -> HistoryEntry:
    """The entry of a benchmark. A row with an error and without samples gives no series."""
    series = (
        [Series(metric=Metric.SIZE, median=float(record.size), samples=1)]
        if record.size > 0
        else []
    )
    for row in record.rows:
        series += _series_of(row)
    return HistoryEntry(
        target=record.target,
        machine_class=record.machine.machine_class,
        measured=record.measured,
        key=record.key,
        package_sha256=record.package_sha256,
        size=record.size,
        facts={**record.machine.facts, "threads": str(record.machine.threads)},
        series=tuple(series),
        commit=record.commit,
    )


def _series_of(row: Row) -> Iterator[Series]:
    """The series of the samples of one way."""
    values: dict[tuple[Metric, tuple[tuple[str, int], ...]], list[float]] = {}
    for sample in row.samples:
        figures = {
            Metric.IMPORT: sample.import_seconds,
            Metric.LOAD: sample.load_seconds,
            Metric.FIRST: sample.first_seconds,
            Metric.MEMORY: float(sample.peak_memory),
        }
        for metric, figure in figures.items():
            values.setdefault((metric, ()), []).append(figure)
        for steady in sample.steady:
            values.setdefault((Metric.STEADY, _sizes_key(steady)), []).append(steady.p50)
    for (metric, sizes), figures_of_series in values.items():
        middle = median(figures_of_series)
        # A step is a ratio, so what is not above 0 can have none.
        if math.isfinite(middle) and middle > 0:
            yield Series(
                metric=metric,
                median=middle,
                samples=len(figures_of_series),
                way=row.way,
                cache=row.cache,
                sizes=dict(sizes),
            )


def _sizes_key(steady: Steady) -> tuple[tuple[str, int], ...]:
    return tuple(sorted(steady.sizes.items()))


def time_of(text: str) -> datetime:
    """A time in ISO 8601. Without an offset it is UTC. Raises ValueError."""
    # Python 3.10 does not know the letter for UTC.
    time = datetime.fromisoformat(text[:-1] + "+00:00" if text.endswith("Z") else text)
    return time if time.tzinfo is not None else time.replace(tzinfo=timezone.utc)
