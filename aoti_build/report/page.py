"""The report of a project as one page that needs nothing else: no network, no script, no second
file.

This module makes the values on the page, and `report.html.j2` places them.
"""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aoti_build.commands.report.bench import BenchState, first_inference, steady_latency
from aoti_build.commands.report.command import ProjectReport, TargetReport
from aoti_build.errors import with_task_names
from aoti_build.measurement.record import Machine
from aoti_build.report.page_bench import BenchView, bench_view
from aoti_build.report.page_build import (
    BuildView,
    TraceView,
    VerificationView,
    build_view,
    commit_text,
    trace_view,
    used_text,
    verification_view,
)
from aoti_build.report.page_history import HistoryView, history_views
from aoti_build.report.spelling import moment_text, time_text
from aoti_build.report.templates import render
from aoti_build.report.terminal import size_text
from aoti_build.report.views import Pill, action_pill, verdict_pill, verification_pill

TEMPLATE = "report.html.j2"
SHOWN_DIGITS = 12


@dataclass(frozen=True)
class OverviewRow:
    """A row of the table at the top. Empty figures were not measured."""

    id: str
    name: str
    state: Pill
    verified: Pill
    used: str
    size: str
    sha256: str
    first: str
    steady: str
    changes: Pill | None


@dataclass(frozen=True)
class TargetView:
    """A section of the page."""

    id: str
    row: OverviewRow
    missing: str | None
    reasons: Sequence[str]
    verification: VerificationView | None
    build: BuildView | None
    bench: BenchView | None
    history: Sequence[HistoryView]


@dataclass(frozen=True)
class MachineView:
    """A machine on which targets were measured."""

    name: str
    facts: Mapping[str, str]


@dataclass(frozen=True)
class Page:
    """All that the template shows."""

    project: str
    facts: Sequence[tuple[str, str]]
    totals: Sequence[Pill]
    targets: Sequence[TargetView]
    machines: Sequence[MachineView]
    notes: Sequence[str]
    trace: TraceView | None
    no_trace: str
    no_history: str | None
    release: str


def report_page(report: ProjectReport) -> str:
    """The report as one page."""
    return render(TEMPLATE, page=_page(report))


def _page(report: ProjectReport) -> Page:
    targets = [_target(target, f"t{number}") for number, target in enumerate(report.targets, 1)]
    counts = Counter(target.row.state for target in targets)
    return Page(
        project=report.name,
        facts=_facts(report),
        totals=[Pill(f"{count} {pill.word}", pill.state) for pill, count in counts.items()],
        targets=targets,
        machines=[_machine(machine) for machine in report.machines],
        notes=report.notes,
        trace=trace_view(report.trace),
        no_trace=_no_trace(report),
        no_history=_no_history(report),
        release=report.made["aoti_build"],
    )


def _facts(report: ProjectReport) -> list[tuple[str, str]]:
    torch = report.versions.torch
    versions = [
        f"aoti_build {report.made['aoti_build']}",
        f"torch {torch}" if torch else "torch is not installed",
        f"Python {report.versions.python}",
    ]
    facts = [
        ("models", report.models_file),
        ("made", moment_text(report.made["created"])),
        ("commit", commit_text(report.made["git_commit"], report.made["git_dirty"])),
        ("here", f"{', '.join(versions)}, {platform.system()} {platform.machine()}"),
        (
            "measured on",
            ", ".join(dict.fromkeys(machine.machine_class for machine in report.machines)),
        ),
    ]
    return [(label, text) for label, text in facts if text]


def _no_trace(report: ProjectReport) -> str:
    if report.trace_problem is not None:
        return f"The trace of the last build cannot be read: {report.trace_problem}."
    build = with_task_names("`invoke build`")
    return f"There is no trace: {build} writes one when it has something to do."


def _no_history(report: ProjectReport) -> str | None:
    if any(target.history for target in report.targets):
        return None
    if report.history_asked:
        return "The history has no entry of these targets."
    return "No history is kept: --history, or the key `history` of models.yaml, names it."


def _machine(machine: Machine) -> MachineView:
    facts = dict(machine.facts)
    facts["threads"] = str(machine.threads)
    facts["pinned to processors"] = ", ".join(map(str, machine.cpus)) or "none"
    if machine.band is not None:
        facts["smallest difference it resolves"] = f"{machine.band * 100:.1f} %"
    return MachineView(machine.machine_class, facts)


def overview_row(target: TargetReport, identifier: str = "") -> OverviewRow:
    """The row of a target. Only figures of the published artifact count."""
    package = target.package
    record = target.record
    first = first_inference(record) if record else None
    steady = steady_latency(record) if record else None
    worst = target.verification.outputs if target.verification else []
    return OverviewRow(
        id=identifier,
        name=target.name,
        state=action_pill(target.step.action),
        verified=verification_pill(target.verification),
        used=used_text(worst[0].used) if worst else "",
        size=size_text(package.size if package else None),
        sha256=package.sha256[:SHOWN_DIGITS] if package else "",
        first=time_text(first.first_seconds) if first else _unmeasured(target),
        steady=time_text(steady.p50) if steady else _unmeasured(target),
        changes=changes(target),
    )


def _unmeasured(target: TargetReport) -> str:
    if target.bench is None:
        return ""
    words = {
        BenchState.UNREADABLE: "unreadable",
        BenchState.OUTDATED: "outdated",
    }
    return words.get(target.bench.state, "not measured")


def changes(target: TargetReport) -> Pill | None:
    """The verdicts against the base of ``--against`` in a few words: the worst, with its count.

    None if nothing was compared.
    """
    record = target.record
    if record is None or record.base is None or not record.base.comparisons:
        return None
    verdicts = [comparison.verdict for comparison in record.base.comparisons]
    counts = Counter(verdicts)
    for verdict in ("worse", "unknown", "better"):
        if counts[verdict]:
            word = f"{counts[verdict]} of {len(verdicts)} {verdict}"
            return Pill(word, verdict_pill(verdict).state)
    return verdict_pill(verdicts[0])


def _target(target: TargetReport, identifier: str) -> TargetView:
    return TargetView(
        id=identifier,
        row=overview_row(target, identifier),
        missing=target.missing,
        reasons=[str(reason) for reason in target.step.reasons],
        verification=verification_view(target.verification),
        build=build_view(target.step, identifier),
        bench=bench_view(target.bench, identifier),
        history=history_views(target.history, identifier),
    )
