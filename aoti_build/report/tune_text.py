"""The report of `tune` as lines for a terminal."""

from __future__ import annotations

from aoti_build.commands.tune.report import Outcome, Row, TuneReport, Tuning
from aoti_build.errors import with_task_names
from aoti_build.measurement.statistics import Comparison
from aoti_build.models_file.tuned import TUNED_FILE
from aoti_build.report.spelling import duration, scientific
from aoti_build.report.terminal import error_lines, for_terminal, size_text, table


@for_terminal
def tune_lines(report: TuneReport) -> list[str]:
    """For each target its candidates, and what was chosen."""
    lines: list[str] = []
    for tuning in report.tunings:
        change = (report.changes or {}).get(tuning.target.name)
        lines += [*_tuning_lines(tuning, change), ""]
    verb = "listed" if report.dry_run else "measured"
    count = len(report.tunings)
    plural = "" if count == 1 else "s"
    lines.append(f"{count} target{plural} {verb} in {duration(report.seconds)}")
    return lines


def _tuning_lines(tuning: Tuning, change: str | None) -> list[str]:
    lines = [f"{tuning.target.name} on {tuning.host or 'this host'}"]
    head = ["candidate", "ms a call", "ratio", "interval", "verdict", "memory", "loss", "why"]
    rows = [_cells(row) for row in (*tuning.rows, *tuning.peers)]
    if rows:
        lines += [f"  {line}" for line in table(head, rows)]
    lines += [f"  note: {note}" for note in tuning.notes]
    if tuning.error is not None:
        return [*lines, *error_lines(tuning.error)]
    if change is not None:
        lines += _conclusion(tuning, change)
    return lines


def _cells(row: Row) -> list[str]:
    why = row.why or ""
    if row.outcome == Outcome.LISTED:
        why = _settings_text(row)
    elif row.outcome == Outcome.FAILED:
        why = f"failed: {why}"
    elif row.outcome == Outcome.UNTRIED:
        why = f"untried: {why}"
    return [
        row.name,
        f"{1000 * row.seconds:.4g}" if row.seconds is not None else "",
        f"{row.comparison.ratio:.3f}" if row.comparison else "",
        _interval(row.comparison),
        _verdict(row.comparison),
        size_text(row.peak_memory),
        scientific(row.loss) if row.loss is not None else "",
        why,
    ]


def _settings_text(row: Row) -> str:
    if row.choice is None:
        return ""
    settings = {**row.choice.options, **row.choice.precision}
    if row.choice.memory_format is not None:
        settings["memory_format"] = row.choice.memory_format
    return ", ".join(f"{name}: {value}" for name, value in settings.items())


def _interval(comparison: Comparison | None) -> str:
    if comparison is None or comparison.pairs < 2:
        return ""
    return f"{comparison.low:.3f}..{comparison.high:.3f}"


def _verdict(comparison: Comparison | None) -> str:
    if comparison is None:
        return ""
    return f"{comparison.verdict} ({comparison.pairs} pairs)"


def _conclusion(tuning: Tuning, change: str) -> list[str]:
    name = tuning.target.name
    if all(row.outcome == Outcome.UNTRIED for row in tuning.rows[1:]):
        return ["  nothing was compared: the budget is too small (--budget)"]
    if tuning.chosen is None:
        lines = ["  no difference: nothing is shown to be faster than the preset default"]
        if change == "removed":
            lines.append(f"  removed the entry for {tuning.host} from {TUNED_FILE}")
        return lines
    lines = [f"  chosen: {tuning.chosen}, written to {TUNED_FILE}"]
    if tuning.is_used:
        lines.append("  next: " + with_task_names(f"invoke build --target {name}"))
    else:
        model = tuning.target.model.name
        lines.append(f"  next: add `tuned` to inductor_configs of {model} in models.yaml")
    return lines
