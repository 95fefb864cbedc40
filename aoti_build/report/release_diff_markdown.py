"""The report of `release-diff` as GitHub flavoured Markdown, for release notes.

The text depends on the two releases alone, so the same releases give the same text.
"""

from __future__ import annotations

from collections.abc import Sequence

from aoti_build.commands.release.notes import changes
from aoti_build.commands.release_diff.drift import OutputDrift
from aoti_build.commands.release_diff.parts import NamedChange
from aoti_build.commands.release_diff.report import ReleaseDiff
from aoti_build.report.markdown import code, escaped, table
from aoti_build.report.release_diff_text import (
    INDICATIVE,
    drift_or_nothing,
    head_of,
    is_indicative,
    moved_outputs,
    parts_of,
    row_of,
    side_text,
    unknown_of,
)


def release_diff_markdown(diff: ReleaseDiff) -> str:
    """The changes as a list, the figures as a table, then libraries and limits."""
    lines = [
        f"## Changes from {escaped(side_text(diff.old))} to {escaped(side_text(diff.new))}",
        "",
    ]
    lines += changes(diff.new.record, diff.old.record)
    lines += _figures(diff)
    lines += _drift(diff)
    for title, found in parts_of(diff):
        lines += ["", f"### {title.capitalize()}", "", *_named(found)]
    lines += _limits(diff)
    lines += _unknown(diff)
    return "\n".join(lines) + "\n"


def _figures(diff: ReleaseDiff) -> list[str]:
    if not diff.common:
        return []
    head = head_of(diff)
    rows = []
    for target in diff.common:
        name, *figures = row_of(target, diff)
        figures = [figure.replace(" -> ", " to ") for figure in figures]
        rows.append([code(name), *[escaped(figure) for figure in figures]])
    lines = ["", "### Figures", "", *table(head, rows, numbers=range(3, len(head)))]
    lines += ["", "Drift is the relative error between what eager mode returned for each release."]
    if diff.has_run:
        lines.append("For packages it is that between their answers to the same inputs.")
    if is_indicative(diff):
        lines.append(INDICATIVE)
    return lines


def _drift(diff: ReleaseDiff) -> list[str]:
    """A row for each output that moved."""
    packages = ["packages"] if diff.has_run else []
    head = ["target", "case", "output", "drift", *packages, "max abs", "differing", "note"]
    rows = []
    for target in diff.common:
        for moved in moved_outputs(target):
            names = [code(target.name), escaped(moved.case), escaped(moved.output)]
            drifts = [drift_or_nothing(moved.references)]
            if diff.has_run:
                drifts.append(drift_or_nothing(moved.packages))
            rows.append([*names, *drifts, *_figures_of(moved.shown)])
    if not rows:
        return []
    return ["", "### Outputs that moved", "", *table(head, rows, numbers=range(3, len(head) - 1))]


def _figures_of(output: OutputDrift) -> list[str]:
    """The largest difference, how many elements differ, and a note."""
    max_abs = "" if output.max_abs is None else f"{output.max_abs:.2e}"
    differing = "" if output.differing is None else f"{output.differing}/{output.count}"
    return [max_abs, differing, "estimated from summaries" if output.estimated else ""]


def _named(found: Sequence[NamedChange]) -> list[str]:
    rows = []
    for change in found:
        targets = ", ".join(code(name) for name in change.targets)
        rows.append([escaped(change.name), escaped(change.old or ""), escaped(change.new or "")])
        rows[-1].append(targets)
    return table(["name", "old", "new", "targets"], rows, numbers=())


def _limits(diff: ReleaseDiff) -> list[str]:
    if not diff.judgements:
        return []
    rows = []
    for found in diff.judgements:
        rows.append([escaped(str(found.limit)), str(found.verdict), escaped("; ".join(found.why))])
    return ["", "### Limits", "", *table(["limit", "verdict", "why"], rows, numbers=())]


def _unknown(diff: ReleaseDiff) -> list[str]:
    lines = [f"- {escaped(note)}" for note in diff.notes]
    for target in diff.common:
        lines += [f"- {code(target.name)}: {escaped(clause)}" for clause in unknown_of(target)]
    return ["", "### Not compared", "", *lines] if lines else []
