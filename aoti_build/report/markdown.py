"""The report of a project as GitHub flavoured Markdown, for release notes and pull requests.

The text depends on the artifacts and their records alone. It has no time at which it was made, so
the same state gives the same text.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

from aoti_build.commands.report.bench import cold_starts
from aoti_build.commands.report.command import ProjectReport, TargetReport
from aoti_build.measurement.record import ComparisonRecord
from aoti_build.report.page import changes, overview_row
from aoti_build.report.page_bench import interval_text, metric_text
from aoti_build.report.page_build import commit_text
from aoti_build.report.spelling import change_text, moment_text, ratio_text, time_text, xml_text

# What Markdown would take for more than a character.
_SPECIAL = re.compile(r"[\\`*_{}\[\]#|~]")
_RIGHT = "---:"
_LEFT = "---"


def markdown_text(report: ProjectReport) -> str:
    """The report: all targets, then what changed, then cold starts."""
    lines = [f"## {escaped(report.name)}: artifacts", ""]
    lines += _overview(report)
    lines += _missing(report)
    lines += _changes(report.targets)
    lines += _cold_starts(report.targets)
    lines += _foot(report)
    return "\n".join(lines) + "\n"


def _overview(report: ProjectReport) -> list[str]:
    if not report.targets:
        return ["There are no targets."]
    head = ["target", "state", "verification", "size", "sha256"]
    head += ["first inference", "steady p50", "against base"]
    rows = []
    for target in report.targets:
        row = overview_row(target)
        change = changes(target)
        rows.append(
            [
                code(row.name),
                escaped(row.state.word),
                escaped(row.verified.word),
                row.size,
                code(row.sha256) if row.sha256 else "",
                row.first,
                row.steady,
                escaped(change.word) if change else "",
            ]
        )
    return table(head, rows, numbers=(3, 5, 6))


def _missing(report: ProjectReport) -> list[str]:
    lines = []
    for target in report.targets:
        if target.missing is not None:
            lines.append(f"- {code(target.name)}: {target.missing}")
    return ["", *lines] if lines else []


def _changes(targets: Sequence[TargetReport]) -> list[str]:
    """A table for each target that was compared with a base."""
    lines: list[str] = []
    for target in targets:
        record = target.record
        if record is None or record.base is None or not record.base.comparisons:
            continue
        title = f"### {code(target.name)} against {escaped(record.base.name)}"
        head = ["figure", "verdict", "change", "ratio", "interval", "limit", "pairs", "why"]
        rows = [_comparison(comparison) for comparison in record.base.comparisons]
        lines += ["", title, "", *table(head, rows, numbers=(2, 3, 4, 5, 6))]
    return lines


def _comparison(comparison: ComparisonRecord) -> list[str]:
    verdict = escaped(comparison.verdict)
    return [
        escaped(metric_text(comparison)),
        f"**{verdict}**" if comparison.verdict in ("better", "worse") else verdict,
        change_text(comparison.ratio),
        ratio_text(comparison.ratio),
        interval_text(comparison),
        # With a limit, "same" says that the interval is below it.
        "" if comparison.limit is None else ratio_text(comparison.limit),
        str(comparison.pairs),
        escaped(comparison.why or ""),
    ]


def _cold_starts(targets: Sequence[TargetReport]) -> list[str]:
    """A table for each target that was measured."""
    lines: list[str] = []
    for target in targets:
        if target.record is None:
            continue
        rows = []
        for start in cold_starts(target.record):
            if not start.samples:
                rows.append([escaped(start.name), "", "", "", "0", escaped(start.error or "")])
                continue
            rows.append(
                [
                    escaped(start.name),
                    time_text(start.import_seconds),
                    time_text(start.load_seconds),
                    time_text(start.first_seconds),
                    str(start.samples),
                    escaped(start.error or ""),
                ]
            )
        head = ["way", "import", "load", "load and first inference", "processes", "error"]
        title = f"### Cold start of {code(target.name)}"
        measured = moment_text(target.record.measured)
        machine = f"Measured {measured} on {target.record.machine.machine_class}."
        lines += ["", title, "", escaped(machine), ""]
        lines += table(head, rows, numbers=(1, 2, 3, 4))
    return lines


def _foot(report: ProjectReport) -> list[str]:
    versions = [f"aoti_build {report.made['aoti_build']}"]
    if report.versions.torch:
        versions.append(f"torch {report.versions.torch}")
    versions.append(f"Python {report.versions.python}")
    commit = commit_text(report.made["git_commit"], report.made["git_dirty"])
    if commit:
        versions.append(f"commit {commit}")
    return ["", escaped(", ".join(versions))]


def table(
    head: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: Sequence[int]
) -> list[str]:
    """A table. A column without any content is left out."""
    kept = []
    for index in range(len(head)):
        if any(row[index] for row in rows):
            kept.append(index)
    lines = [_line([head[index] for index in kept])]
    lines.append(_line([_RIGHT if index in numbers else _LEFT for index in kept]))
    for row in rows:
        lines.append(_line([row[index] for index in kept]))
    return lines


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def escaped(text: str) -> str:
    """A text without any meaning for Markdown or HTML, in one line."""
    line = " ".join(xml_text(text).split())
    line = html.escape(line, quote=False)
    line = _SPECIAL.sub(lambda match: "\\" + match[0], line)
    # "@name" would notify a person, and a text with "://" would become a link.
    return line.replace("@", "&#64;").replace("://", "&#58;//")


def code(name: str) -> str:
    """The name of a target or a digest, which have no special characters, as code."""
    return f"`{name.replace('`', '')}`"
