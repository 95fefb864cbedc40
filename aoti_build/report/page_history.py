"""The section of a report's page about the history of benchmarks: a line for each series."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TypeAlias

from aoti_build.commands.report.history import BYTES, HistoryPoint, HistorySeries, HistoryStep
from aoti_build.report.line_chart import LineChart, line_chart
from aoti_build.report.spelling import axis_text, change_text, moment_text, time_text
from aoti_build.report.terminal import size_text
from aoti_build.report.views import BAD, GOOD, Table, table_of

Spell: TypeAlias = Callable[[float], str]
_SHOWN_DIGITS = 12
# Characters of a date in ISO 8601.
_DAY = 10


@dataclass(frozen=True)
class HistoryView:
    """One series: a line, its steps in words, and the newest figures as a table."""

    title: str
    chart: LineChart
    steps: Sequence[str]
    table: Table


def history_views(history: Sequence[HistorySeries], identifier: str) -> list[HistoryView]:
    """The series of a target. A series without points is left out."""
    views = []
    for number, series in enumerate(history, 1):
        if series.points:
            views.append(_history_view(series, f"{identifier}-h{number}"))
    return views


def _history_view(series: HistorySeries, identifier: str) -> HistoryView:
    spell = _bytes if series.unit == BYTES else time_text
    title = f"{series.name} on {series.machine_class}"
    known = [step for step in series.steps if 0 < step.index < len(series.points)]
    steps = [_step_text(series, step) for step in known]
    newest = spell(series.points[-1].value)
    said = "; ".join(steps) or "none"
    chart = line_chart(
        identifier,
        title,
        _spread([_point(point, spell) for point in series.points]),
        [_mark(step) for step in known],
        lambda value: axis_text(spell(value)),
        first=series.points[0].time[:_DAY],
        last=series.points[-1].time[:_DAY],
        description=f"{len(series.points)} benchmarks, the newest {newest}; steps: {said}",
    )
    rows = [_row(point, spell) for point in reversed(series.points)]
    columns = ["measured", "value", "commit", "key"]
    table = table_of(f"Figures of {title}", columns, rows, numbers=(1,))
    return HistoryView(title, chart, steps, table)


def _point(point: HistoryPoint, spell: Spell) -> tuple[float, float, str]:
    text = f"{moment_text(point.time)}: {spell(point.value)}"
    return _moment(point.time), point.value, text


def _mark(step: HistoryStep) -> tuple[int, str, str]:
    return step.index, change_text(step.ratio), BAD if step.ratio > 1 else GOOD


def _step_text(series: HistorySeries, step: HistoryStep) -> str:
    """When a step came, with which commit, how large it is, and what else changed."""
    point = series.points[step.index]
    text = moment_text(point.time)
    if point.commit:
        text += f" ({point.commit[:_SHOWN_DIGITS]})"
    text += f": {change_text(step.ratio)}"
    if step.changes:
        text += f"; {', '.join(step.changes)}"
    return text


def _row(point: HistoryPoint, spell: Spell) -> list[str]:
    commit = (point.commit or "")[:_SHOWN_DIGITS]
    return [moment_text(point.time), spell(point.value), commit, point.key[:_SHOWN_DIGITS]]


def _bytes(size: float) -> str:
    return size_text(round(size)) if size >= 0 else ""


def _moment(text: str) -> float:
    """Seconds since 1970. NaN if the text is no time."""
    try:
        time = datetime.fromisoformat(text[:-1] + "+00:00" if text.endswith("Z") else text)
    except ValueError:
        return float("nan")
    if time.tzinfo is None:
        time = time.replace(tzinfo=timezone.utc)
    return time.timestamp()


def _spread(points: list[tuple[float, float, str]]) -> list[tuple[float, float, str]]:
    """The points by their times, or by their order if the times cannot tell them apart."""
    times = [time for time, _, _ in points]
    has_all = all(map(math.isfinite, times))
    if has_all and max(times) > min(times):
        return points
    return [(float(index), value, text) for index, (_, value, text) in enumerate(points)]
