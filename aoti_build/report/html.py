"""The report of `verify` as one page that needs nothing else: no network, no script, no second
file.

This module makes the values on the page, and `verify.html.j2` places them. `html_outputs` makes
those of the outputs. A state is always written in words too, and never shown by a colour alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from aoti_build import __version__
from aoti_build.commands.verdicts import VerdictKind
from aoti_build.commands.verify.report import (
    OUT_OF_DATE,
    RUNTIME_WORDS,
    VACUOUS,
    Verdict,
    VerifyReport,
)
from aoti_build.errors import AotiBuildError, ExitCode
from aoti_build.figures import CallFigures, ModuleDifference, OutputFigures, Refusal, as_json
from aoti_build.messages import LocalizeResult
from aoti_build.report.html_outputs import (
    BAD,
    GOOD,
    NEUTRAL,
    WARNING,
    OutputView,
    output_mark,
    output_view,
)
from aoti_build.report.spelling import duration, loss, part, scientific, vacuous_text
from aoti_build.report.templates import render

TEMPLATE = "verify.html.j2"
# More outputs than this are shown closed, except failed ones.
_MANY_OUTPUTS = 12


@dataclass(frozen=True)
class Pill:
    """A word with a state."""

    word: str
    state: str


@dataclass(frozen=True)
class ErrorView:
    """An error with its answers, each with a label."""

    message: str
    answers: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class LocalizationView:
    """The first stage of a build in which the artifact differs from its model."""

    stage: str
    message: str
    # Facts with their labels.
    answers: Sequence[tuple[str, str]]
    # The names of wrong weights with their largest errors.
    weights: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Cell:
    """The result of one output in one case, with the figure that says most about it."""

    word: str
    state: str
    figure: str
    title: str


@dataclass(frozen=True)
class CaseRow:
    """A row of the shape matrix. A cell is None if the output was not compared."""

    case: str
    sizes: Sequence[str]
    seed: int
    skipped: str | None
    cells: Sequence[Cell | None]


@dataclass(frozen=True)
class Notes:
    """Facts about a target besides its figures."""

    out_of_date: Sequence[str]
    out_of_date_state: str
    vacuous: Sequence[str]
    vacuous_state: str
    baseline: Sequence[str]
    no_fp64: str | None


@dataclass(frozen=True)
class TargetView:
    """A section of the page."""

    # The name of the link to the section.
    id: str
    name: str
    verdict: Pill
    doubts: Sequence[Pill]
    seconds: str
    error: ErrorView | None
    localization: LocalizationView | None
    notes: Notes
    # The columns and rows of the shape matrix.
    names: Sequence[str]
    rows: Sequence[CaseRow]
    outputs: Sequence[OutputView]
    # Counts of outputs over all cases, and the largest error of all.
    compared: int
    failed: int
    worst: str
    refusals: Sequence[Refusal]
    # The number of `refusals` that are right.
    refused: int


@dataclass(frozen=True)
class Page:
    """All that the template shows."""

    ok: bool
    headline: str
    strict: bool
    # How packages were called, if not as usual.
    runtime: str
    totals: Sequence[Pill]
    targets: Sequence[TargetView]
    seconds: str
    release: str


def html_page(report: VerifyReport) -> str:
    """The report as one page."""
    return render(TEMPLATE, page=_page(report))


def _page(report: VerifyReport) -> Page:
    is_alone = len(report.verdicts) == 1
    targets = []
    for number, verdict in enumerate(report.verdicts, 1):
        target = _target(
            f"t{number}",
            verdict,
            report.failures(verdict),
            is_alone,
        )
        targets.append(target)
    return Page(
        ok=report.exit_code == ExitCode.OK,
        headline=_headline(report),
        strict=report.strict,
        runtime=RUNTIME_WORDS.get(report.runtime, ""),
        totals=_totals([target.verdict for target in targets]),
        targets=targets,
        seconds=duration(sum(verdict.seconds for verdict in report.verdicts)),
        release=__version__,
    )


def _headline(report: VerifyReport) -> str:
    total = len(report.verdicts)
    noun = "artifact" if total == 1 else "artifacts"
    failed = sum(bool(report.failures(verdict)) for verdict in report.verdicts)
    if failed:
        return f"{failed} of {total} {noun} failed"
    passed = sum(verdict.verdict == VerdictKind.PASSED for verdict in report.verdicts)
    if passed == total:
        return f"{total} {noun} passed"
    return f"{passed} of {total} {noun} passed, none failed"


def _totals(verdicts: Sequence[Pill]) -> list[Pill]:
    """A pill with the count of each verdict."""
    counts = Counter(verdicts)
    return [Pill(f"{count} {pill.word}", pill.state) for pill, count in counts.items()]


def _target(
    identifier: str,
    verdict: Verdict,
    failures: Sequence[str],
    is_alone: bool,
) -> TargetView:
    outputs: list[OutputFigures] = []
    for case in verdict.cases:
        outputs += case.outputs
    # A dict keeps the order, which a set would not.
    names = list(dict.fromkeys(output.name for output in outputs))
    pill = Pill(str(verdict.verdict), _verdict_state(verdict, failures))
    # A page with little on it should need no clicks.
    is_open = is_alone and len(names) <= _MANY_OUTPUTS
    # Rules that count values, such as equality, need no error.
    largest_errors = [output.max_abs or 0.0 for output in outputs]
    return TargetView(
        id=identifier,
        name=verdict.target.name,
        verdict=pill,
        doubts=[Pill(doubt, _doubt_state(doubt, failures)) for doubt in verdict.doubts],
        seconds=duration(verdict.seconds),
        error=_error(verdict.error),
        localization=_localization(verdict.localization),
        notes=_notes(verdict, failures, pill),
        names=names,
        rows=[_case_row(case, names) for case in verdict.cases],
        outputs=[output_view(name, verdict.cases, is_open) for name in names],
        compared=len(outputs),
        failed=sum(not output.ok for output in outputs),
        worst=scientific(max(largest_errors, default=None)),
        refusals=verdict.refusals,
        refused=sum(refusal.ok for refusal in verdict.refusals),
    )


def _verdict_state(verdict: Verdict, failures: Sequence[str]) -> str:
    if verdict.verdict in failures:
        return BAD
    return GOOD if verdict.verdict == VerdictKind.PASSED else NEUTRAL


def _doubt_state(doubt: str, failures: Sequence[str]) -> str:
    return BAD if doubt in failures else WARNING


def _notes(verdict: Verdict, failures: Sequence[str], pill: Pill) -> Notes:
    # The reasons of an unavailable artifact are no doubt, but explain its verdict.
    is_unavailable = verdict.verdict == VerdictKind.UNAVAILABLE
    reasons_state = pill.state if is_unavailable else _doubt_state(OUT_OF_DATE, failures)
    return Notes(
        out_of_date=[str(reason) for reason in verdict.out_of_date],
        out_of_date_state=reasons_state,
        vacuous=[vacuous_text(entry) for entry in verdict.vacuous],
        vacuous_state=_doubt_state(VACUOUS, failures),
        baseline=[loss(as_json(entry)) for entry in verdict.baseline],
        no_fp64=verdict.no_fp64,
    )


def _error(error: AotiBuildError | None) -> ErrorView | None:
    if error is None:
        return None
    answers = [
        ("where", error.where or ""),
        ("cause", error.cause or ""),
        ("next", error.hint or ""),
        ("log", str(error.log or "")),
    ]
    return ErrorView(error.message, _with_answer(answers))


def _localization(localization: LocalizeResult | None) -> LocalizationView | None:
    if localization is None:
        return None
    weights = [(weight.name, scientific(weight.max_abs)) for weight in localization.weights]
    return LocalizationView(
        stage=localization.stage,
        message=localization.said,
        answers=_difference(localization.left) if localization.left else (),
        weights=weights,
    )


def _difference(difference: ModuleDifference) -> list[tuple[str, str]]:
    """The facts about the first module that differs."""
    why = difference.figures.why if difference.figures else None
    answers = [
        ("module", f"{difference.module or 'the model itself'} [{difference.class_name}]"),
        ("source", difference.source),
        ("output", why or ""),
        ("not run", ", ".join(difference.missing)),
    ]
    return _with_answer(answers)


def _with_answer(answers: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """The pairs of a label and an answer whose answer is not empty."""
    return [pair for pair in answers if pair[1]]


def _case_row(case: CallFigures, names: Sequence[str]) -> CaseRow:
    # An output may be absent from a case, for instance because the case was skipped.
    by_name = {output.name: output for output in case.outputs}
    cells = []
    for name in names:
        cells.append(_cell(by_name[name]) if name in by_name else None)
    return CaseRow(
        case=case.name,
        sizes=[f"{dim} {size}" for dim, size in case.sizes.items()],
        seed=case.seed,
        skipped=case.skipped,
        cells=cells,
    )


def _cell(output: OutputFigures) -> Cell:
    word, state = output_mark(output)
    return Cell(
        word,
        state,
        figure=_main_figure(output),
        title=_cell_title(output),
    )


def _main_figure(output: OutputFigures) -> str:
    """The figure that says most about the output."""
    if output.by == "agreement":
        return part(output.agreement)
    if output.by == "iou":
        return part(output.iou)
    if output.max_abs is not None:
        return scientific(output.max_abs)
    if output.mismatched is not None:
        return f"{output.mismatched:,} differ"
    return ""


def _cell_title(output: OutputFigures) -> str:
    figures = {
        "max abs": output.max_abs,
        "RMSE": output.rmse,
        "atol": output.atol,
        "rtol": output.rtol,
    }
    parts = []
    for label, value in figures.items():
        if value is not None:
            parts.append(f"{label} {scientific(value)}")
    if output.why:
        parts.append(output.why)
    return "; ".join(parts) or "no figures"
