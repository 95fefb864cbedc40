"""Reports as lines for a terminal. Those of `verify`, `run` and `inspect` have their own modules.

This module imports little, because the report of a build with nothing to do needs it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from aoti_build.artifact.reasons import Reason
from aoti_build.errors import with_task_names
from aoti_build.planning.actions import Done
from aoti_build.report.spelling import loss
from aoti_build.report.terminal import (
    age_text,
    count_text,
    error_lines,
    for_terminal,
    latency_text,
    reasons_text,
    size_text,
    speed_text,
    table,
)

# The caller of a function has imported the command whose report it renders. The other commands need
# not be imported.
if TYPE_CHECKING:
    from aoti_build.commands.build import BuildReport
    from aoti_build.commands.clean import CleanReport
    from aoti_build.commands.doctor.command import DoctorReport
    from aoti_build.commands.export import ExportReport
    from aoti_build.commands.gc import GcReport
    from aoti_build.commands.status import StatusReport
    from aoti_build.commands.why import Explanation, WhyReport
    from aoti_build.planning.plan import Plan
    from aoti_build.work.outcome import Outcome


@for_terminal
def build_lines(report: BuildReport) -> list[str]:
    """A row for each target, then the errors and a line of totals."""
    rows = [_build_row(outcome) for outcome in report.outcomes]
    lines = table(["target", "action", "time", "size", "against eager", "why"], rows)
    # A build with nothing to do is short.
    if report.trace is not None:
        lines += _package_lines(report)
    for outcome in report.outcomes:
        for entry in outcome.baseline:
            lines.append(f"{outcome.target.name}: against its baseline: {loss(entry)}")
        if outcome.error is not None:
            lines.append("")
            lines += error_lines(outcome.error)
    actions = [outcome.action for outcome in report.outcomes]
    total = count_text(actions, "target")
    # What is published although --strict refuses it has an action that does not say so.
    refused = [outcome for outcome in report.failed if outcome.action != Done.FAILED]
    if refused:
        total += f"; {len(refused)} failed by --strict"
    lines += [*_notes(report.notes), "", total]
    if report.profiled and report.trace is not None:
        # Not imported by a build with nothing to do.
        from aoti_build.report.profile_text import profile_lines
        from aoti_build.work.profile import profile_of

        lines += ["", *profile_lines(profile_of(report.trace.intervals))]
    return lines


def _package_lines(report: BuildReport) -> list[str]:
    """Where each package lies, and how long a call takes."""
    lines = [""]
    for outcome in report.outcomes:
        if _has_package(outcome):
            calls = latency_text(outcome.latency)
            place = f"{outcome.target.name}: {report.artifact(outcome)}"
            lines.append(f"{place}, {calls}" if calls else place)
    return lines if len(lines) > 1 else []


def _has_package(outcome: Outcome) -> bool:
    # After a failure the published artifact is an earlier one.
    is_earlier = outcome.action in (Done.FAILED, Done.NOT_STARTED)
    return outcome.published is not None and not is_earlier


def _build_row(outcome: Outcome) -> list[str]:
    seconds = outcome.seconds.get("total")
    size = None
    speed = ""
    if outcome.published is not None and _has_package(outcome):
        size = outcome.published.size
        # The index, which answers for most of these, does not have it.
        if outcome.action != Done.UP_TO_DATE:
            speed = speed_text(outcome.latency)
    return [
        outcome.target.name,
        outcome.action,
        f"{seconds:.1f} s" if seconds else "",
        size_text(size),
        speed,
        reasons_text(outcome.reasons, outcome.unverified),
    ]


@for_terminal
def plan_lines(plan: Plan) -> list[str]:
    """A row for each step and a line of totals."""
    rows = []
    for step in plan.steps:
        reasons = reasons_text(step.reasons, step.unverified)
        rows.append([step.target.name, step.action, reasons])
    lines = table(["target", "would", "why"], rows)
    actions = [step.action for step in plan.steps]
    return [*lines, *_notes(plan.notes), "", count_text(actions, "target")]


def _notes(notes: Sequence[str]) -> list[str]:
    return [f"note: {note}" for note in notes]


@for_terminal
def status_lines(report: StatusReport) -> list[str]:
    """A row for each target, and the orphans."""
    rows = []
    documents = report.as_json()["targets"]
    for row, step in zip(documents, report.plan.steps, strict=True):
        key = row["key"] or ""
        rows.append(
            [
                row["target"],
                row["state"],
                size_text(row["size"]),
                age_text(row["age_seconds"]),
                key[:12],
                reasons_text(step.reasons, step.unverified),
            ]
        )
    lines = table(["target", "state", "size", "age", "key", "why"], rows)
    lines += _notes(report.plan.notes)
    lines += ["", count_text([step.action for step in report.plan.steps], "target")]
    if report.orphans:
        lines.append("")
        remedy = with_task_names("invoke clean --orphans")
        lines.append(
            f"not in models.yaml any more: {', '.join(report.orphans)} ({remedy} removes them)"
        )
    return lines


@for_terminal
def why_lines(report: WhyReport) -> list[str]:
    """For each target the differences from the published artifact, one a line, then those from the
    nearest stored artifact."""
    lines: list[str] = []
    for explanation in report.explanations:
        lines += _explanation_lines(explanation)
    return lines


def _explanation_lines(explanation: Explanation) -> list[str]:
    step = explanation.step
    nearest = explanation.nearest
    lines = [f"{step.target.name}: {step.action}"]
    for reason in step.reasons:
        lines.append(f"  {reason}")
    if step.manifest is not None:
        lines.append(f"  the published artifact was {step.manifest.action} because of")
        for record in step.manifest.reasons:
            lines.append(f"    {Reason.of(record)}")
        if step.manifest.unverified:
            lines.append(f"  and was never compared with eager: {step.manifest.unverified}")
    # An artifact that is up to date needs no comparison with the store.
    if nearest is not None and step.reasons:
        lines.append(
            f"  nearest in the store: {nearest.key[:12]}, built for {nearest.target}; different in"
        )
        for reason in explanation.nearest_reasons:
            lines.append(f"    {reason}")
        if not explanation.nearest_reasons:
            lines.append("    nothing")
    return lines


@for_terminal
def export_lines(report: ExportReport) -> list[str]:
    """A row for each artifact and a line of totals."""
    rows = []
    for artifact in report.artifacts:
        package = artifact.package
        state = "exported" if package else "not exported"
        why = artifact.error.message if artifact.error else ""
        digest = package.sha256 if package else ""
        size = size_text(package.size if package else None)
        rows.append([artifact.target.name, state, size, digest, why])
    lines = table(["target", "state", "size", "sha256 of model.pt2", "why"], rows)
    total = count_text([row[1] for row in rows], "artifact")
    return [*lines, "", f"{total}, to {report.directory}" if report.error is None else total]


@for_terminal
def gc_lines(report: GcReport) -> list[str]:
    verb = "would remove" if report.dry_run else "removed"
    removed = f"{verb} {report.removed} objects, {size_text(report.removed_bytes)}"
    kept = f"kept {report.kept}, {size_text(report.kept_bytes)}, {report.in_use} of them in use"
    return [f"{removed}; {kept}"]


@for_terminal
def clean_lines(report: CleanReport) -> list[str]:
    verb = "would remove" if report.dry_run else "removed"
    lines = [f"{verb} {path}" for path in report.removed]
    lines.append(f"{verb} {len(report.removed)} paths, {size_text(report.bytes)}")
    return lines


@for_terminal
def doctor_lines(report: DoctorReport) -> list[str]:
    """A row for each check, with cause and fix below those that are not well, then a line of
    totals."""
    rows = []
    for finding in report.findings:
        device = finding.device or ""
        rows.append([finding.check, device, finding.outcome, finding.message])
    head, *rendered = table(["check", "device", "outcome", "found"], rows)
    lines = [head]
    for finding, row in zip(report.findings, rendered, strict=True):
        lines.append(row)
        if finding.outcome != "ok":
            lines += _indented("cause", finding.cause)
            lines += _indented("fix", finding.fix)
    outcomes = [finding.outcome for finding in report.findings]
    return [*lines, "", count_text(outcomes, "check")]


def _indented(label: str, text: str | None) -> list[str]:
    """A text below a row, with its further lines aligned with its first."""
    if not text:
        return []
    # The label stands before the first line only.
    head = f"{label}:"
    lines = []
    for line in text.strip().splitlines():
        lines.append(f"  {head:7}{line}")
        head = ""
    return lines
