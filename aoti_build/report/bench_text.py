"""The report of `bench` as lines for a terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median

from msgspec.structs import replace

from aoti_build.commands.bench.report import Benchmark, BenchReport, metric_text
from aoti_build.measurement.record import (
    BenchRecord,
    ComparisonRecord,
    Machine,
    Metric,
    Row,
    Sample,
    Steady,
)
from aoti_build.report.spelling import duration
from aoti_build.report.terminal import error_lines, for_terminal, milliseconds, size_text, table

_HEAD = [
    "way",
    "cache",
    "at",
    "import",
    "load",
    "first",
    "p50",
    "p95",
    "p99",
    "per second",
    "memory",
    "samples",
    "error",
]
_COMPARED = ["metric", "against", "ratio", "interval", "verdict", "limit", "why"]
# With fewer pairs an interval is so wide that it says nothing.
_LEAST_PAIRS_SHOWN = 3


@for_terminal
def bench_lines(report: BenchReport) -> list[str]:
    """For each target a table of the ways, and the comparisons of the artifact with them."""
    lines: list[str] = []
    for found in report.benchmarks:
        lines += [*_target_lines(found), ""]
    count = _counted(len(report.benchmarks), "target")
    measured = sum(found.record is not None for found in report.benchmarks)
    lines.append(f"{count}: {measured} measured in {duration(report.seconds)}")
    return lines


def _target_lines(found: Benchmark) -> list[str]:
    if found.unavailable is not None:
        return [f"{found.target.name}: unavailable, {found.unavailable}"]
    lines = [found.target.name]
    if found.record is not None:
        lines = _record_lines(found.record)
    lines += [f"  note: {note}" for note in found.notes]
    if found.error is not None:
        lines += error_lines(found.error)
    return lines


def _record_lines(record: BenchRecord) -> list[str]:
    lines = [
        f"{record.target} on {_machine(record.machine)}",
        f"  package: {size_text(record.size)}, sha256 {record.package_sha256[:12]}",
    ]
    rows = [cells for row in record.rows for cells in _row_cells(row)]
    lines += [f"  {line}" for line in table(_HEAD, rows)]
    if record.comparisons:
        lines += ["", "  the artifact divided by the other way:"]
        # Slow ways have few samples by intention, which needs no explanation in each line.
        lines += _comparison_lines([replace(entry, why=None) for entry in record.comparisons])
    if record.base is not None:
        lines += ["", f"  the artifact divided by {record.base.name}:"]
        lines += _comparison_lines(record.base.comparisons)
    return lines


def _machine(machine: Machine) -> str:
    processor = machine.facts.get("gpu") or machine.facts.get("processor", "")
    threads = _counted(machine.threads, "thread")
    cpus = _counted(len(machine.cpus), "processor")
    return f"{machine.machine_class} ({processor}), {threads} on {cpus}"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _row_cells(row: Row) -> list[list[str]]:
    """A line of the table for the first combination of sizes, and one for each further one."""
    first = [
        str(row.way),
        str(row.cache or ""),
        *_steady_cells(row.samples, 0),
        str(len(row.samples)),
        row.error or "",
    ]
    first[3:3] = [_time(row.samples, metric) for metric in (_import, _load, _first)]
    first.insert(len(first) - 2, _memory(row.samples))
    lines = [first]
    combinations = len(row.samples[0].steady) if row.samples else 0
    for index in range(1, combinations):
        at, *others = _steady_cells(row.samples, index)
        lines.append(["", "", at, "", "", "", *others, "", "", ""])
    return lines


def _steady_cells(samples: Sequence[Sample], index: int) -> list[str]:
    """The sizes, the three percentiles and the throughput: medians over the processes."""
    found = [sample.steady[index] for sample in samples if len(sample.steady) > index]
    if not found:
        return ["", "", "", "", ""]
    sizes = ", ".join(f"{name} {size}" for name, size in found[0].sizes.items())
    percentiles: tuple[Callable[[Steady], float], ...] = (
        lambda steady: steady.p50,
        lambda steady: steady.p95,
        lambda steady: steady.p99,
    )
    times = [milliseconds(median(map(percentile, found))) for percentile in percentiles]
    throughput = median(steady.samples_per_second for steady in found)
    return [sizes, *times, f"{throughput:.4g}"]


def _import(sample: Sample) -> float:
    return sample.import_seconds


def _load(sample: Sample) -> float:
    return sample.load_seconds


def _first(sample: Sample) -> float:
    return sample.first_seconds


def _time(samples: Sequence[Sample], metric: Callable[[Sample], float]) -> str:
    if not samples:
        return ""
    return f"{median(map(metric, samples)):.3g} s"


def _memory(samples: Sequence[Sample]) -> str:
    if not samples:
        return ""
    return size_text(int(median(sample.peak_memory for sample in samples)))


def _comparison_lines(comparisons: Sequence[ComparisonRecord]) -> list[str]:
    rows = [_comparison_cells(record) for record in comparisons]
    return [f"  {line}" for line in table(_COMPARED, rows)]


def _comparison_cells(record: ComparisonRecord) -> list[str]:
    interval = ""
    is_exact = record.metric == Metric.SIZE
    is_shown = record.pairs >= _LEAST_PAIRS_SHOWN
    if is_shown and record.low is not None and record.high is not None:
        interval = f"{record.low:.3g}..{record.high:.3g}"
    pairs = "exact" if is_exact else _counted(record.pairs, "pair")
    return [
        metric_text(record),
        record.base,
        f"{record.ratio:.3g}",
        interval,
        f"{record.verdict} ({pairs})",
        f"{record.limit:g}" if record.limit is not None else "",
        record.why or "",
    ]
