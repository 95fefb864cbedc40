"""The sections of a report's page about verification, builds, history and the trace."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

from aoti_build.artifact.manifest import Manifest
from aoti_build.artifact.reasons import Reason
from aoti_build.commands.report_history import BYTES, HistorySeries
from aoti_build.commands.report_verification import BUILD, Verification, WorstOutput
from aoti_build.errors import with_task_names
from aoti_build.planning.actions import Action
from aoti_build.planning.plan import Step
from aoti_build.report.charts import Bar, BarChart, LineChart, bar_chart, line_chart
from aoti_build.report.figures import bounds
from aoti_build.report.spelling import axis_text, change_text, scientific, time_text
from aoti_build.report.terminal import size_text
from aoti_build.report.views import BAD, GOOD, Pill, Table
from aoti_build.work.profile import Profile

_TOTAL = "total"
_MOST_OUTPUTS = 12
_SHOWN_DIGITS = 12


@dataclass(frozen=True)
class VerificationView:
    """The comparison with eager mode: sentences, and a row for each output in its worst case."""

    sentence: str
    state: str
    why: str | None
    bounds: Sequence[str]
    table: Table | None
    hidden: int


def verification_view(verification: Verification | None) -> VerificationView | None:
    """The section of a target; None without an artifact."""
    if verification is None:
        return None
    worst = verification.outputs
    table = None
    if worst:
        columns = ["output", "result", "worst case", "max abs", "RMSE", "of its bound"]
        rows = [_output_row(entry) for entry in worst[:_MOST_OUTPUTS]]
        table = Table("Each output in its worst case", columns, rows, numbers=(3, 4, 5))
    return VerificationView(
        _verification_sentence(verification),
        GOOD if verification.passed else BAD,
        verification.why,
        bounds([entry.figures for entry in worst]),
        table,
        max(0, len(worst) - _MOST_OUTPUTS),
    )


def _output_row(entry: WorstOutput) -> list[str | Pill]:
    figures = entry.figures
    pill = Pill("ok", GOOD) if figures.ok else Pill("failed", BAD)
    return [
        figures.name,
        pill,
        entry.case,
        "" if figures.max_abs is None else scientific(figures.max_abs),
        "" if figures.rmse is None else scientific(figures.rmse),
        used_text(entry.used),
    ]


def used_text(used: float | None) -> str:
    """The part of a bound that an error took: ``86 %``."""
    return "" if used is None else f"{used * 100:.0f} %"


def _verification_sentence(verification: Verification) -> str:
    is_build = verification.source == BUILD
    by = "The check of the build" if is_build else with_task_names("The newest `invoke verify`")
    compared = sum(len(case.outputs) for case in verification.cases)
    sentence = f"{by} says: {verification.verdict}."
    if verification.cases:
        sentence += f" Compared outputs: {compared} in {len(verification.cases)} cases."
    refused = sum(refusal.ok for refusal in verification.refusals)
    if verification.refusals:
        sentence += f" Inputs to refuse: {refused} of {len(verification.refusals)} ok."
    return sentence


@dataclass(frozen=True)
class BuildView:
    """The last build: stages, reasons, and what would be done now."""

    action: str
    created: str
    commit: str
    chart: BarChart | None
    table: Table | None
    reasons: Sequence[str]
    # Why a build would have something to do now.
    present: Sequence[str]
    would: str


def build_view(step: Step, identifier: str) -> BuildView | None:
    """The section of a target; None without an artifact."""
    manifest = step.manifest
    if manifest is None:
        return None
    stages = _stages(manifest)
    chart = None
    table = None
    if stages:
        bars = [Bar(name, seconds, time_text(seconds)) for name, seconds in stages]
        chart = bar_chart(f"{identifier}-build", "Stages of the build", bars, _axis_seconds)
        total = sum(seconds for _, seconds in stages) or 1.0
        rows = [[name, time_text(value), f"{value / total * 100:.0f} %"] for name, value in stages]
        table = Table("Stages of the build", ["stage", "time", "part"], rows, numbers=(1, 2))
    is_current = step.action == Action.UP_TO_DATE
    return BuildView(
        manifest.action,
        manifest.provenance.get("created") or "",
        commit_text(manifest.provenance.get("git_commit"), manifest.provenance.get("git_dirty")),
        chart,
        table,
        [str(Reason.of(record)) for record in manifest.reasons],
        [] if is_current else [str(reason) for reason in step.reasons],
        str(step.action),
    )


def commit_text(commit: str | None, is_dirty: bool | None) -> str:
    """The first digits of a commit, with ``+`` if files were changed. Empty without git."""
    if not commit:
        return ""
    return commit[:_SHOWN_DIGITS] + ("+" if is_dirty else "")


def _stages(manifest: Manifest) -> list[tuple[str, float]]:
    """The stages in their order, and what the total has besides them."""
    stages = []
    for name, seconds in manifest.seconds.items():
        if name != _TOTAL:
            stages.append((name, max(0.0, seconds)))
    total = manifest.seconds.get(_TOTAL)
    if total is not None:
        rest = total - sum(seconds for _, seconds in stages)
        stages.append(("start of workers, publication" if stages else _TOTAL, max(0.0, rest)))
    return stages


def _axis_seconds(seconds: float) -> str:
    return f"{seconds:g} s"


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
    points = []
    for point in series.points:
        text = f"{point.time}: {spell(point.value)}"
        points.append((_moment(point.time), point.value, text))
    points = _spread(points)
    marks = []
    steps = []
    for step in series.steps:
        if not 0 < step.index < len(series.points):
            continue
        change = change_text(step.ratio)
        marks.append((step.index, change, BAD if step.ratio > 1 else GOOD))
        at = series.points[step.index]
        where = f" ({at.commit[:_SHOWN_DIGITS]})" if at.commit else ""
        because = f"; {', '.join(step.changes)}" if step.changes else ""
        steps.append(f"{at.time}{where}: {change}{because}")
    title = f"{series.name} on {series.machine_class}"
    newest = series.points[-1]
    count = len(series.points)
    chart = line_chart(
        identifier,
        title,
        points,
        marks,
        lambda value: axis_text(spell(value)),
        first=series.points[0].time[:10],
        last=newest.time[:10],
        description=(
            f"{count} benchmarks, the newest {spell(newest.value)}; steps: "
            + ("; ".join(steps) or "none")
        ),
    )
    rows = []
    for point in reversed(series.points):
        commit = (point.commit or "")[:_SHOWN_DIGITS]
        rows.append([point.time, spell(point.value), commit, point.key[:_SHOWN_DIGITS]])
    table = Table(f"Figures of {title}", ["measured", "value", "commit", "key"], rows, numbers=(1,))
    return HistoryView(title, chart, steps, table)


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


@dataclass(frozen=True)
class TraceView:
    """Where the time of the last build went."""

    seconds: str
    chart: BarChart | None
    path: Table
    longest: Table


def trace_view(profile: Profile | None) -> TraceView | None:
    """The section about the trace; None without one."""
    if profile is None:
        return None
    bars = []
    rows = []
    for part in profile.critical_path:
        label = f"{part.target}: {part.phase}"
        bars.append(Bar(label, part.seconds, time_text(part.seconds), start=part.start))
        stages = ", ".join(f"{name} {time_text(seconds)}" for name, seconds in part.stages)
        rows.append([part.target, part.phase, time_text(part.seconds), stages])
    chart = None
    if bars:
        chart = bar_chart("trace", "Critical path of the last build", bars, _axis_seconds)
    path = Table("Critical path", ["target", "phase", "time", "of it"], rows, numbers=(2,))
    steps = []
    for step in profile.longest:
        steps.append([step.target, step.kind, step.name, time_text(step.seconds)])
    longest = Table("The longest steps", ["target", "kind", "name", "time"], steps, numbers=(3,))
    return TraceView(time_text(profile.seconds), chart, path, longest)
