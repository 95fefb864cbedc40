"""The sections of a report's page about verification, builds and the trace."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aoti_build.artifact.manifest import Manifest
from aoti_build.artifact.reasons import Reason
from aoti_build.commands.report.verification import BUILD, Verification, WorstOutput
from aoti_build.errors import with_task_names
from aoti_build.planning.actions import Action
from aoti_build.planning.plan import Step
from aoti_build.report.charts import Bar, BarChart, bar_chart
from aoti_build.report.figures import bounds
from aoti_build.report.spelling import moment_text, scientific, time_text
from aoti_build.report.views import BAD, GOOD, Pill, Table, table_of
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
        table = table_of("Each output in its worst case", columns, rows, numbers=(3, 4, 5))
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
        noun = "case" if len(verification.cases) == 1 else "cases"
        sentence += f" Compared outputs: {compared} in {len(verification.cases)} {noun}."
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
        table = table_of("Stages of the build", ["stage", "time", "part"], rows, numbers=(1, 2))
    is_current = step.action == Action.UP_TO_DATE
    return BuildView(
        manifest.action,
        moment_text(manifest.provenance.get("created") or ""),
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
    path = table_of("Critical path", ["target", "phase", "time", "of it"], rows, numbers=(2,))
    steps = []
    for step in profile.longest:
        steps.append([step.target, step.kind, step.name, time_text(step.seconds)])
    longest = table_of("The longest steps", ["target", "kind", "name", "time"], steps, numbers=(3,))
    return TraceView(time_text(profile.seconds), chart, path, longest)
