"""The report of `verify` as lines for a terminal."""

from __future__ import annotations

from aoti_build.commands.verify.report import RUNTIME_WORDS, Verdict, VerifyReport
from aoti_build.figures import OutputFigures, as_json
from aoti_build.report.spelling import loss
from aoti_build.report.terminal import (
    count_text,
    error_lines,
    for_terminal,
    number_text,
    reasons_text,
    table,
)

_HEAD = (
    "target",
    "verdict",
    "cases",
    "max abs",
    "rmse",
    "reference rms",
    "passed by",
    "refused",
    "out of date because",
)
_FAILED_OUTPUT_HEAD = ("output", "max abs", "max rel", "rmse", "reference rms", "why")


@for_terminal
def verify_lines(report: VerifyReport) -> list[str]:
    """A row for each target with its worst output; then the figures of failed outputs, errors and a
    line of totals."""
    lines = table(_HEAD, [_row(verdict) for verdict in report.verdicts])
    for verdict in report.verdicts:
        lines += _failed_outputs(verdict)
        lines += [f"{verdict.target.name}: {note}" for note in _notes(verdict)]
        if verdict.error is not None:
            lines.append("")
            lines += error_lines(verdict.error)
    words = [_word(verdict) for verdict in report.verdicts]
    total = count_text(words, "artifact")
    # Without --strict the words of the verdicts say which ones failed.
    if report.strict and report.failed:
        total += f"; {len(report.failed)} failed by --strict"
    if report.runtime in RUNTIME_WORDS:
        total += f", {RUNTIME_WORDS[report.runtime]}"
    return [*lines, "", total]


def _row(verdict: Verdict) -> list[str]:
    return [
        verdict.target.name,
        _word(verdict),
        _case_count(verdict),
        *_worst_cells(verdict),
        _refusal_count(verdict),
        reasons_text(verdict.out_of_date),
    ]


def _word(verdict: Verdict) -> str:
    """The verdict, and what makes it doubtful. The line of totals counts these words."""
    # Without cases the reasons say why the target is unavailable.
    if not verdict.cases or not verdict.doubts:
        return str(verdict.verdict)
    doubts = ", ".join(doubt.replace("_", " ") for doubt in verdict.doubts)
    return f"{verdict.verdict} ({doubts})"


def _case_count(verdict: Verdict) -> str:
    """The number of compared cases, and the total if some were skipped."""
    total = len(verdict.cases)
    compared = sum(case.skipped is None for case in verdict.cases)
    if compared < total:
        return f"{compared} of {total}"
    return str(total) if total else ""


def _worst_cells(verdict: Verdict) -> list[str]:
    """The figures of the output with the largest error, among the failed ones if any failed."""
    outputs: list[OutputFigures] = []
    for case in verdict.cases:
        outputs += case.outputs
    if not outputs:
        return [""] * 4
    # A passed output may have a larger error than one that failed by a tighter bound.
    failed = [output for output in outputs if not output.ok]
    worst = max(failed or outputs, key=lambda output: output.max_abs or 0.0)
    return [
        number_text(worst.max_abs),
        number_text(worst.rmse),
        number_text(worst.reference_rms),
        worst.by or "",
    ]


def _refusal_count(verdict: Verdict) -> str:
    """The number of inputs that were handled rightly, of those that must be refused."""
    if not verdict.refusals:
        return ""
    return f"{sum(refusal.ok for refusal in verdict.refusals)}/{len(verdict.refusals)}"


def _failed_outputs(verdict: Verdict) -> list[str]:
    rows = []
    for case in verdict.cases:
        for output in case.outputs:
            if not output.ok:
                rows.append(_failed_output_row(case.name, output))
    if not rows:
        return []
    return ["", verdict.target.name, *table(_FAILED_OUTPUT_HEAD, rows)]


def _failed_output_row(case: str, output: OutputFigures) -> list[str]:
    return [
        f"{case}: {output.name}",
        number_text(output.max_abs),
        number_text(output.max_rel),
        number_text(output.rmse),
        number_text(output.reference_rms),
        output.why or "",
    ]


def _notes(verdict: Verdict) -> list[str]:
    """Facts that are no figures, one a line: inputs that were not refused, skipped cases,
    comparisons that show nothing."""
    notes = []
    for refusal in verdict.refusals:
        if not refusal.ok:
            notes.append(f"not refused: {refusal.name}: {refusal.said}")
    for case in verdict.cases:
        if case.skipped is not None:
            notes.append(f"case {case.name} was skipped: {case.skipped}")
    unread = {name for case in verdict.cases for name in case.unread}
    if unread:
        notes.append(f"not read back, so only seen in later calls: {', '.join(sorted(unread))}")
    for output in verdict.vacuous:
        notes.append(
            f"vacuous: {output.output} would pass with other {output.of} too; give trained"
            " weights, inputs of a realistic range, or a smaller tolerance"
        )
    if verdict.localization:
        notes.append(f"localize: {verdict.localization.said}")
    if verdict.no_fp64:
        notes.append(f"no float64 reference, so the plain tolerances decide: {verdict.no_fp64}")
    for entry in verdict.baseline:
        notes.append(f"against its baseline: {loss(as_json(entry))}")
    return notes
