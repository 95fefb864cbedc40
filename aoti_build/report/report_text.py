"""The report of a project as lines for a terminal: a row for each target, and where the page is."""

from __future__ import annotations

from aoti_build.commands.report.command import ProjectReport
from aoti_build.report.page import changes, overview_row
from aoti_build.report.terminal import count_text, for_terminal, table


@for_terminal
def report_lines(report: ProjectReport) -> list[str]:
    """A row for each target, what is missing, and the files that were written."""
    rows = []
    for target in report.targets:
        row = overview_row(target)
        change = changes(target)
        rows.append(
            [
                row.name,
                row.state.word,
                row.verified.word,
                row.size,
                row.first,
                row.steady,
                change.word if change else "",
            ]
        )
    head = ["target", "state", "verification", "size", "first", "steady", "against base"]
    lines = table(head, rows)
    missing = [f"{target.name}: {target.missing}" for target in report.targets if target.missing]
    if missing:
        lines += ["", *missing]
    lines += [f"note: {note}" for note in report.notes]
    lines += ["", count_text([target.step.action for target in report.targets], "target")]
    lines += [f"written: {path}" for path in report.written]
    return lines
