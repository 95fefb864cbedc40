"""The report of `bench-history` as lines for a terminal."""

from __future__ import annotations

from aoti_build.commands.bench.history import (
    FoundStep,
    HistoryReport,
    SeriesHistory,
    TargetHistory,
)
from aoti_build.measurement.record import Metric
from aoti_build.report.terminal import for_terminal, milliseconds, size_text, table

_COMMIT_LENGTH = 10


@for_terminal
def history_lines(report: HistoryReport) -> list[str]:
    """For each target its series, with the steps that were found."""
    lines: list[str] = []
    for history in report.histories:
        lines += [*_target_lines(history), ""]
    lines += [f"left out: {problem}" for problem in report.broken]
    lines += [f"written: {file}" for file in report.csv]
    count = len(report.histories)
    plural = "history" if count == 1 else "histories"
    lines.append(f"{count} {plural} in {report.directory}")
    return lines


def _target_lines(history: TargetHistory) -> list[str]:
    count = len(history.entries)
    plural = "entry" if count == 1 else "entries"
    first, last = history.entries[0].measured, history.entries[-1].measured
    span = first if count == 1 else f"{first} to {last}"
    lines = [f"{history.target} on {history.machine_class}: {count} {plural}, {span}"]
    rows = [_cells(series) for series in history.series]
    lines += [f"  {line}" for line in table(["series", "entries", "first", "last", "steps"], rows)]
    for series in history.series:
        lines += [f"  {series.name}: {_step_text(step)}" for step in series.steps]
    return lines


def _cells(history: SeriesHistory) -> list[str]:
    first, last = history.points[0][1], history.points[-1][1]
    metric = history.series.metric
    return [
        history.name,
        str(len(history.points)),
        _figure(metric, first.median),
        _figure(metric, last.median),
        str(len(history.steps) or ""),
    ]


def _figure(metric: Metric, median: float) -> str:
    if metric in (Metric.MEMORY, Metric.SIZE):
        return size_text(round(median))
    return milliseconds(median)


def _short(commit: str) -> str:
    """The beginning of a revision, with the ``+`` of changed files."""
    mark = "+" if commit.endswith("+") else ""
    return commit.removesuffix("+")[:_COMMIT_LENGTH] + mark


def _step_text(step: FoundStep) -> str:
    """``+5.2 % since 2026-03-01T10:00:00Z, commit 0123456789 (torch 2.13.0 -> 2.14.1)``."""
    text = f"{100 * (step.ratio - 1):+.1f} % since {step.entry.measured}"
    if step.entry.commit is not None:
        text += f", commit {_short(step.entry.commit)}"
    if step.changes:
        text += f" ({'; '.join(step.changes)})"
    return text
