"""The section of a report's page about a benchmark: cold starts, latencies and comparisons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aoti_build.commands.report.bench import (
    Bench,
    BenchState,
    ColdStart,
    Latency,
    cold_starts,
    latencies,
)
from aoti_build.measurement.record import BenchRecord, ComparisonRecord, Metric, Way
from aoti_build.report.charts import (
    Bar,
    BarChart,
    Interval,
    IntervalChart,
    bar_chart,
    interval_chart,
)
from aoti_build.report.spelling import axis_text, change_text, moment_text, ratio_text, time_text
from aoti_build.report.strip_chart import Strip, StripChart, strip_chart
from aoti_build.report.terminal import size_text
from aoti_build.report.views import Pill, Table, table_of, verdict_pill

_OWN_WAYS = (Way.ARTIFACT, Way.ARTIFACT_GRAPHS)
_METRICS = {
    Metric.FIRST: "first inference",
    Metric.STEADY: "steady latency",
    Metric.MEMORY: "peak memory",
    Metric.SIZE: "package size",
}


@dataclass(frozen=True)
class ColdView:
    """The cold starts. `chart` is None if nothing was measured."""

    chart: BarChart | None
    table: Table


@dataclass(frozen=True)
class LatencyView:
    """The latencies at one combination of sizes."""

    title: str
    chart: StripChart
    table: Table


@dataclass(frozen=True)
class ComparisonsView:
    """Comparisons with one base, or with the other ways."""

    title: str
    chart: IntervalChart
    table: Table


@dataclass(frozen=True)
class BenchView:
    """The whole section. `is_outdated` says that another artifact was measured."""

    is_outdated: bool
    measured: str
    machine: str
    cold: ColdView
    latencies: Sequence[LatencyView]
    comparisons: Sequence[ComparisonsView]
    # What was not measured of ways that failed, with what they said.
    errors: Sequence[tuple[str, str]]


def bench_view(bench: Bench | None, identifier: str) -> BenchView | None:
    """The section of a target, whose ids begin with `identifier`. None without a record."""
    if bench is None or bench.record is None:
        return None
    record = bench.record
    starts = cold_starts(record)
    errors = [(_failure(start), start.error) for start in starts if start.error]
    return BenchView(
        is_outdated=bench.state == BenchState.OUTDATED,
        measured=moment_text(record.measured),
        machine=record.machine.machine_class,
        cold=_cold(starts, identifier),
        latencies=_latencies(record, identifier),
        comparisons=_comparisons(record, identifier),
        errors=errors,
    )


def _failure(start: ColdStart) -> str:
    """What is missing of a way that ended with an error."""
    return f"{start.name} was not measured{' to the end' if start.samples else ''}"


def _cold(starts: Sequence[ColdStart], identifier: str) -> ColdView:
    measured = [start for start in starts if start.samples]
    bars = []
    for start in measured:
        figure = time_text(start.first_seconds)
        bars.append(Bar(start.name, start.first_seconds, figure, _kind(start.way)))
    chart = None
    if bars:
        title = "Load and first inference in a fresh process, logarithmic"
        chart = bar_chart(f"{identifier}-cold", title, bars, _axis_time, log=True)
    return ColdView(chart, _cold_table(measured))


def _kind(way: Way) -> str:
    return "own" if way in _OWN_WAYS else "plain"


def _cold_table(starts: Sequence[ColdStart]) -> Table:
    rows: list[Sequence[str | Pill]] = []
    for start in starts:
        rows.append(
            [
                start.name,
                time_text(start.import_seconds),
                time_text(start.load_seconds),
                time_text(start.first_seconds),
                f"{time_text(start.shortest)} to {time_text(start.longest)}",
                size_text(round(start.peak_memory)),
                str(start.samples),
            ]
        )
    columns = ["way", "import", "load", "load and first", "range", "peak memory", "processes"]
    caption = "Medians of fresh processes"
    return table_of(caption, columns, rows, numbers=range(1, len(columns)))


def _axis_time(seconds: float) -> str:
    return axis_text(time_text(seconds))


def _latencies(record: BenchRecord, identifier: str) -> list[LatencyView]:
    groups: dict[str, list[Latency]] = {}
    for latency in latencies(record):
        groups.setdefault(latency.size_text, []).append(latency)
    views = []
    for number, (sizes, group) in enumerate(groups.items(), 1):
        views.append(_latency(sizes, group, f"{identifier}-l{number}"))
    return views


def _latency(sizes: str, group: Sequence[Latency], identifier: str) -> LatencyView:
    strips = []
    rows: list[Sequence[str | Pill]] = []
    for latency in group:
        percentiles = (latency.p50, latency.p95, latency.p99)
        figure = time_text(latency.p50)
        strips.append(
            Strip(str(latency.way), figure, latency.bins, percentiles, _kind(latency.way))
        )
        rows.append(
            [
                str(latency.way),
                *map(time_text, percentiles),
                f"{latency.samples_per_second:,.1f}",
                f"{latency.calls:,}",
                str(latency.processes),
            ]
        )
    columns = ["way", "p50", "p95", "p99", "per second", "calls", "processes"]
    where = f" at {sizes}" if sizes else ""
    chart = strip_chart(identifier, f"Time of a call{where}", strips, _axis_time)
    table = table_of(
        f"Percentiles{where}, medians of processes", columns, rows, range(1, len(columns))
    )
    return LatencyView(sizes, chart, table)


def _comparisons(record: BenchRecord, identifier: str) -> list[ComparisonsView]:
    views = []
    if record.base is not None and record.base.comparisons:
        title = f"Against {record.base.name}, measured again here"
        views.append(
            _comparison(title, record.base.comparisons, f"{identifier}-c1", names_base=False)
        )
    if record.comparisons:
        views.append(
            _comparison(
                "Against other ways", record.comparisons, f"{identifier}-c2", names_base=True
            )
        )
    return views


def _comparison(
    title: str,
    comparisons: Sequence[ComparisonRecord],
    identifier: str,
    *,
    names_base: bool,
) -> ComparisonsView:
    intervals = []
    rows: list[Sequence[str | Pill]] = []
    for comparison in comparisons:
        label = metric_text(comparison)
        if names_base:
            label = f"{label}, {comparison.base}"
        pill = verdict_pill(comparison.verdict)
        intervals.append(_interval(comparison, label, pill))
        rows.append(
            [
                label,
                pill,
                change_text(comparison.ratio),
                ratio_text(comparison.ratio),
                interval_text(comparison),
                f"±{comparison.band * 100:g} %",
                "" if comparison.limit is None else ratio_text(comparison.limit),
                str(comparison.pairs),
                comparison.why or "",
            ]
        )
    columns = ["figure", "verdict", "change", "ratio", "interval", "band", "limit", "pairs", "why"]
    chart = interval_chart(identifier, f"{title}: ratios with intervals", intervals, ratio_text)
    return ComparisonsView(title, chart, table_of(title, columns, rows, numbers=range(2, 8)))


def _interval(comparison: ComparisonRecord, label: str, pill: Pill) -> Interval:
    figure = f"{ratio_text(comparison.ratio)} {pill.word}"
    if comparison.limit is not None:
        figure += f", limit {ratio_text(comparison.limit)}"
    return Interval(
        label,
        figure,
        comparison.ratio,
        comparison.low,
        comparison.high,
        comparison.band,
        pill.state,
    )


def metric_text(comparison: ComparisonRecord) -> str:
    """What was compared: ``steady latency, batch=2``."""
    parts = [_METRICS.get(comparison.metric, str(comparison.metric))]
    parts += [f"{name}={size}" for name, size in sorted(comparison.sizes.items())]
    return ", ".join(parts)


def interval_text(comparison: ComparisonRecord) -> str:
    """``0.953 to 0.982``; empty with fewer than two pairs."""
    if comparison.low is None or comparison.high is None:
        return ""
    return f"{ratio_text(comparison.low)} to {ratio_text(comparison.high)}"
