"""Reports as lines for a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from typing import TYPE_CHECKING, TypeVar

from aoti_build.artifact.reasons import Reason, ReasonKind
from aoti_build.commands.verdicts import VerdictKind
from aoti_build.planning.actions import Done
from aoti_build.report.spelling import loss

# A verb's report is rendered by who has imported that verb; the others need not be.
if TYPE_CHECKING:
    from aoti_build.commands.build import BuildReport
    from aoti_build.commands.clean import CleanReport
    from aoti_build.commands.doctor import DoctorReport
    from aoti_build.commands.gc import GcReport
    from aoti_build.commands.run import Run, RunReport
    from aoti_build.commands.status import StatusReport
    from aoti_build.commands.verify import Verdict, VerifyReport
    from aoti_build.commands.why import WhyReport
    from aoti_build.figures import NumberOrNull, RunFigures, TensorFacts, TopClasses
    from aoti_build.planning.plan import Plan


_REASONS_SHOWN = 3
_R = TypeVar("_R")
_RUNTIME_NAMES = {"cpp": "C++"}


def for_terminal(render: Callable[[_R], list[str]]) -> Callable[[_R], list[str]]:
    """Lines in which a terminal finds nothing to obey, and which can be encoded: names and values
    come from files that anybody may have made."""

    @wraps(render)
    def lines(report: _R) -> list[str]:
        return [_printable(line) for line in render(report)]

    return lines


def _printable(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(
        character if character == "\t" or character.isprintable() else "\N{REPLACEMENT CHARACTER}"
        for character in text
    )


@for_terminal
def build_lines(report: BuildReport) -> list[str]:
    """A row per target, then the errors, then one closing line."""
    rows = []
    for outcome in report.outcomes:
        seconds = outcome.seconds.get("total")
        made = outcome.published if outcome.action not in (Done.FAILED, Done.NOT_STARTED) else None
        rows.append(
            [
                outcome.target.name,
                outcome.action,
                f"{seconds:.1f} s" if seconds else "",
                size_text(made.size if made else None),
                why(outcome.reasons, outcome.unverified),
            ]
        )
    lines = table(["target", "action", "time", "size", "why"], rows)
    for outcome in report.outcomes:
        lines += [
            f"{outcome.target.name}: against its baseline: {loss(lost)}"
            for lost in outcome.baseline
        ]
        if outcome.error is not None:
            lines += ["", *f"error: {outcome.error}".splitlines()]
    return [*lines, "", _counted((outcome.action for outcome in report.outcomes), "target")]


@for_terminal
def plan_lines(plan: Plan) -> list[str]:
    rows = [
        [step.target.name, step.action, why(step.reasons, step.unverified)] for step in plan.steps
    ]
    return [
        *table(["target", "would", "why"], rows),
        "",
        _counted((step.action for step in plan.steps), "target"),
    ]


@for_terminal
def verify_lines(report: VerifyReport) -> list[str]:
    """A row per target with its worst output, every failed output's figures, then errors and a
    closing line."""
    rows = []
    for verdict in report.verdicts:
        rows.append(
            [
                verdict.target.name,
                verdict.verdict
                + (" (out of date)" if verdict.out_of_date and verdict.cases else ""),
                _case_count(verdict),
                *_worst_cells(verdict),
                _refused(verdict),
                why(verdict.out_of_date),
            ]
        )
    head = [
        "target",
        "verdict",
        "cases",
        "max abs",
        "rmse",
        "reference rms",
        "passed by",
        "refused",
        "out of date because",
    ]
    lines = table(head, rows)
    for verdict in report.verdicts:
        lines += [*_failed_outputs(verdict), *_notes(verdict)]
        if verdict.error is not None:
            lines += ["", *f"error: {verdict.error}".splitlines()]
    called = "" if report.runtime == "python" else f", called from {_RUNTIME_NAMES[report.runtime]}"
    return [
        *lines,
        "",
        _counted((verdict.verdict for verdict in report.verdicts), "artifact") + called,
    ]


@for_terminal
def run_lines(report: RunReport) -> list[str]:
    """For each target and input: tensors with statistics, the check's outcome, classes of images,
    times."""
    lines: list[str] = []
    for target in report.targets:
        if target.out_of_date:
            lines.append(
                f"{target.target.name} is not what the sources say now: {why(target.out_of_date)}"
            )
        if target.unverified is not None:
            lines.append(
                f"{target.target.name} is unverified, which build or verify can settle here:"
                f" {target.unverified}"
            )
        if target.error is not None:
            word = "unavailable" if target.verdict == VerdictKind.UNAVAILABLE else "error"
            lines += [*f"{word}: {target.error}".splitlines(), ""]
        for run in target.runs:
            lines += [*_one_run(target.target.name, run), ""]
    if sum(len(target.runs) or 1 for target in report.targets) == 1:
        return lines[:-1]
    return [*lines, _counted((target.verdict for target in report.targets), "target")]


def _one_run(target: str, run: Run) -> list[str]:
    seed = "" if run.seed is None else f", seed {run.seed}"
    head = f"{target} on {', '.join(run.source)}{seed}"
    if run.result is None:
        return [head, *f"error: {run.error}".splitlines()]
    result = run.result
    rows = [["input", *_tensor_cells(tensor)] for tensor in result.inputs]
    rows += [["output", *_tensor_cells(tensor)] for tensor in result.outputs]
    lines = [head, *table(["", "name", "dtype", "shape", "min", "max", "mean", "std"], rows)]
    verdict = {
        VerdictKind.PASSED: "passed: ",
        VerdictKind.MISMATCH: "FAILED: ",
        VerdictKind.UNVERIFIED: "",
    }[run.verdict]
    lines.append(verdict + _CHECKS[result.check])
    lines += [f"  {output.name}: {output.why}" for output in result.verdicts if not output.ok]
    for top in result.top:
        lines += _top_lines(top, run.source)
    if result.saved:
        lines.append(f"outputs are in {result.saved}")
    return [*lines, *_time_lines(result)]


_CHECKS = {
    "reference_data": "checked against the outputs that eager gave at build time",
    "eager": "checked against eager, run now from the model's source",
    "none": "NOT checked: the model's source is not here, so there is nothing to compare with",
}


def _top_lines(top: TopClasses, source: Sequence[str]) -> list[str]:
    """The most probable classes of each image; an index where the class has no name."""
    lines = []
    for image, classes in zip(source, top.images, strict=False):
        lines.append(f"{image}: classes by {top.output}, probabilities by softmax")
        for one in classes:
            line = f"  {100 * one.probability:6.2f} %  {one.index:4}  {one.name or ''}"
            lines.append(line.rstrip())
    return lines + ([f"  no names: {top.unnamed}"] if top.unnamed is not None else [])


def _time_lines(result: RunFigures) -> list[str]:
    timing, seconds = result.timing, result.seconds
    spent = {"load": seconds.load, "first": seconds.first, "reference": seconds.reference}
    once = ", ".join(
        f"{name} {value * 1000:.1f} ms" for name, value in spent.items() if value is not None
    )
    calls = "1 call" if timing.repeat == 1 else f"{timing.repeat} calls"
    parts = ", ".join(
        f"{name} {getattr(timing, name) * 1000:.3f}"
        for name in ("min", "median", "p90", "p99", "max")
    )
    return [f"once: {once}", f"{calls} after a warm-up, on this host as it is now, in ms: {parts}"]


@for_terminal
def status_lines(report: StatusReport) -> list[str]:
    rows = []
    for row, step in zip(report.as_json()["targets"], report.plan.steps, strict=True):
        key = row["key"] or ""
        rows.append(
            [
                row["target"],
                row["state"],
                size_text(row["bytes"]),
                age_text(row["age_seconds"]),
                key[:12],
                why(step.reasons, step.unverified),
            ]
        )
    lines = table(["target", "state", "size", "age", "key", "why"], rows)
    if report.orphans:
        lines += [
            "",
            (
                f"not in models.yaml any more: {', '.join(report.orphans)} (invoke clean --orphans"
                " removes them)"
            ),
        ]
    return lines


@for_terminal
def why_lines(report: WhyReport) -> list[str]:
    """For each target the differences from the published artifact, one a line; then from the
    nearest stored one."""
    lines: list[str] = []
    for explanation in report.explanations:
        step, nearest = explanation.step, explanation.nearest
        lines.append(f"{step.target.name}: {step.action}")
        lines += [f"  {reason}" for reason in step.reasons]
        if step.manifest is not None:
            past = [Reason.of(reason) for reason in step.manifest.reasons]
            lines.append(f"  the published artifact was {step.manifest.action} because of")
            lines += [f"    {reason}" for reason in past]
            if step.manifest.unverified:
                lines.append(f"  and was never compared with eager: {step.manifest.unverified}")
        if nearest is not None and step.reasons:
            lines.append(
                f"  nearest in the store: {nearest.key[:12]}, built for {nearest.target};"
                " different in"
            )
            lines += [f"    {reason}" for reason in explanation.nearest_reasons] or ["    nothing"]
    return lines


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
    return [*lines, f"{verb} {len(report.removed)} paths, {size_text(report.bytes) or '0 B'}"]


@for_terminal
def doctor_lines(report: DoctorReport) -> list[str]:
    """A row per check, with cause and fix below those that are not well; then one closing line."""
    rows = [[one.check, one.device or "", one.outcome, one.message] for one in report.findings]
    head, *rendered = table(["check", "device", "outcome", "found"], rows)
    lines = [head]
    for one, line in zip(report.findings, rendered, strict=True):
        lines.append(line)
        if one.outcome != "ok":
            lines += [*_below("cause", one.cause), *_below("fix", one.fix)]
    return [*lines, "", _counted((one.outcome for one in report.findings), "check")]


def _below(label: str, text: str | None) -> list[str]:
    """A text under a row, its further lines below its first."""
    if not text:
        return []
    first, *rest = text.strip().splitlines()
    return [f"  {label + ':':7}{first}", *(f"         {line}" for line in rest)]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Left-aligned columns two spaces apart; columns without any content are left out."""
    used = [index for index in range(len(head)) if any(row[index] for row in rows)]
    widths = {index: max(len(head[index]), *(len(row[index]) for row in rows)) for index in used}
    return [
        "  ".join(row[index].ljust(widths[index]) for index in used).rstrip()
        for row in (head, *rows)
    ]


def why(reasons: Sequence[Reason], unverified: str | None = None) -> str:
    """The first few reasons on one line, and why the artifact was never compared with eager."""
    more = [f"and {len(reasons) - _REASONS_SHOWN} more"] if len(reasons) > _REASONS_SHOWN else []
    said = unverified is None or any(reason.reason == ReasonKind.UNVERIFIED for reason in reasons)
    last = [] if said else [f"unverified: {unverified}"]
    return "; ".join([*map(str, reasons[:_REASONS_SHOWN]), *more, *last])


def size_text(size: int | None) -> str:
    if size is None:
        return ""
    value = float(size)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"


def age_text(seconds: float | None) -> str:
    if seconds is None:
        return ""
    for limit, unit, length in ((120, "s", 1), (7200, "min", 60), (172800, "h", 3600)):
        if seconds < limit:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds / 86400:.0f} d"


def _worst_cells(verdict: Verdict) -> list[str]:
    """Of the output with the largest error, or the largest of those that failed if any did."""
    outputs = [output for case in verdict.cases for output in case.outputs]
    if not outputs:
        return [""] * 4
    worst = max(outputs, key=lambda output: (not output.ok, output.max_abs or 0.0))
    numbers = (worst.max_abs, worst.rmse, worst.reference_rms)
    return [*map(_number, numbers), worst.by or ""]


def _case_count(verdict: Verdict) -> str:
    """How many cases were compared, and of how many, if some were left out."""
    total = len(verdict.cases)
    compared = sum(case.skipped is None for case in verdict.cases)
    if compared < total:
        return f"{compared} of {total}"
    return str(total or "")


def _failed_outputs(verdict: Verdict) -> list[str]:
    failed = [
        (case.name, output) for case in verdict.cases for output in case.outputs if not output.ok
    ]
    if not failed:
        return []
    rows = [
        [
            f"{case}: {output.name}",
            _number(output.max_abs),
            _number(output.max_rel),
            _number(output.rmse),
            _number(output.reference_rms),
            output.why or "",
        ]
        for case, output in failed
    ]
    return [
        "",
        verdict.target.name,
        *table(["output", "max abs", "max rel", "rmse", "reference rms", "why"], rows),
    ]


def _refused(verdict: Verdict) -> str:
    """How many of the inputs that must not be answered were refused, or answered rightly where that
    may be."""
    return (
        f"{sum(probed.ok for probed in verdict.refusals)}/{len(verdict.refusals)}"
        if verdict.refusals
        else ""
    )


def _notes(verdict: Verdict) -> list[str]:
    """What the figures do not say: inputs not refused, cases left out, comparisons that show
    nothing."""
    from aoti_build.figures import as_json

    lines = [
        f"not refused: {probed.name}: {probed.said}" for probed in verdict.refusals if not probed.ok
    ]
    lines += [
        f"case {case.name} was skipped: {case.skipped}"
        for case in verdict.cases
        if case.skipped is not None
    ]
    unread = {name for case in verdict.cases for name in case.unread}
    if unread:
        lines.append(f"not read back, so only seen in later calls: {', '.join(sorted(unread))}")
    lines += [
        f"vacuous: {output.output} would pass with other {output.of} too; give trained"
        " weights, inputs of a realistic range, or a smaller tolerance"
        for output in verdict.vacuous
    ]
    if verdict.localization:
        lines.append(f"localize: {verdict.localization.said}")
    if verdict.no_fp64:
        lines.append(f"no float64 reference, so the plain tolerances decide: {verdict.no_fp64}")
    lines += [f"against its baseline: {loss(as_json(lost))}" for lost in verdict.baseline]
    return [f"{verdict.target.name}: {line}" for line in lines]


def _tensor_cells(tensor: TensorFacts) -> list[str]:
    shape = "[" + ", ".join(map(str, tensor.shape)) + "]"
    statistics = (tensor.min, tensor.max, tensor.mean, tensor.std)
    return [tensor.name, tensor.dtype, shape, *map(_number, statistics)]


def _number(value: NumberOrNull) -> str:
    return f"{value:.4g}" if isinstance(value, float | int) else ""


def _counted(words: Iterable[str], noun: str) -> str:
    """``3 targets: 2 compiled, 1 up-to-date``."""
    counts: dict[str, int] = {}
    for word in words:
        counts[word] = counts.get(word, 0) + 1
    total = sum(counts.values())
    parts = ", ".join(f"{count} {word}" for word, count in counts.items())
    return f"{total} {noun}{'' if total == 1 else 's'}: {parts}"
