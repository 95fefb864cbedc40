"""The report of `run` as lines for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from aoti_build.commands.run.report import Run, RunReport, TargetRuns
from aoti_build.commands.verdicts import VerdictKind
from aoti_build.figures import RunFigures, RunSeconds, TensorFacts, Timing, TopClasses
from aoti_build.report.received_text import received_lines
from aoti_build.report.terminal import (
    count_text,
    error_lines,
    for_terminal,
    milliseconds,
    number_text,
    reasons_text,
    table,
)

_TENSOR_HEAD = ("", "name", "dtype", "shape", "min", "max", "mean", "std")
_VERDICT_WORDS = {
    VerdictKind.PASSED: "passed: ",
    VerdictKind.MISMATCH: "FAILED: ",
    VerdictKind.UNVERIFIED: "",
}
_CHECKS = {
    "reference_data": "checked against the outputs that eager gave at build time",
    "eager": "checked against eager, run now from the model's source",
    "none": "NOT checked: the model's source is not here, so there is nothing to compare with",
}


@for_terminal
def run_lines(report: RunReport) -> list[str]:
    """For each target and input: tensors with statistics, the result of the check, the classes of
    images, and times. Before them, what is known of a received release."""
    lines: list[str] = []
    if report.release is not None:
        lines += [*received_lines(report.release), ""]
    for target in report.targets:
        lines += _target_lines(target)
        for run in target.runs:
            lines += _one_run(target, run)
            lines.append("")
    blocks = sum(len(target.runs) or 1 for target in report.targets)
    # A single block needs no line of totals.
    if blocks == 1:
        return lines[:-1]
    verdicts = [target.verdict for target in report.targets]
    return [*lines, count_text(verdicts, "target")]


def _target_lines(target: TargetRuns) -> list[str]:
    """The facts of a target that do not depend on an input."""
    name = target.target.name
    lines = []
    if target.out_of_date:
        lines.append(f"{name} is out of date: {reasons_text(target.out_of_date)}")
    if target.unverified is not None:
        lines.append(
            f"{name} is unverified, which build or verify can settle here: {target.unverified}"
        )
    if target.error is not None:
        is_unavailable = target.verdict == VerdictKind.UNAVAILABLE
        lines += error_lines(target.error, "unavailable" if is_unavailable else "error")
        lines.append("")
    return lines


def _one_run(target: TargetRuns, run: Run) -> list[str]:
    seed = "" if run.seed is None else f", seed {run.seed}"
    head = f"{target.target.name} on {', '.join(run.source)}{seed}"
    figures = run.result
    if figures is None:
        return [head, *error_lines(run.error)]
    rows = [["input", *_tensor_cells(tensor)] for tensor in figures.inputs]
    rows += [["output", *_tensor_cells(tensor)] for tensor in figures.outputs]
    lines = [head, *table(_TENSOR_HEAD, rows)]
    lines.append(_VERDICT_WORDS[run.verdict] + _CHECKS[figures.check])
    for output in figures.verdicts:
        if not output.ok:
            lines.append(f"  {output.name}: {output.why}")
    for top in figures.top:
        lines += _top_lines(top, run.source)
    if figures.saved:
        lines.append(f"outputs are in {figures.saved}")
    # The recorded time is of the example sizes, as is the reference data.
    recorded = target.eager_seconds if figures.check == "reference_data" else None
    return [*lines, *_time_lines(figures), _eager_line(figures, recorded)]


def _tensor_cells(tensor: TensorFacts) -> list[str]:
    return [
        tensor.name,
        tensor.dtype,
        f"[{', '.join(map(str, tensor.shape))}]",
        number_text(tensor.min),
        number_text(tensor.max),
        number_text(tensor.mean),
        number_text(tensor.std),
    ]


def _top_lines(top: TopClasses, source: Sequence[str]) -> list[str]:
    """The most probable classes of each image."""
    lines = []
    # An output may have fewer rows than there are images.
    for image, classes in zip(source, top.images, strict=False):
        lines.append(f"{image}: classes by {top.output}, probabilities by softmax")
        for entry in classes:
            line = f"  {100 * entry.probability:6.2f} %  {entry.index:4}  {entry.name or ''}"
            lines.append(line.rstrip())
    if top.unnamed is not None:
        lines.append(f"  no names: {top.unnamed}")
    return lines


def _time_lines(figures: RunFigures) -> list[str]:
    repeat = figures.timing.repeat
    calls = "1 call" if repeat == 1 else f"{repeat} calls"
    return [
        f"once: {_once_text(figures.seconds)}",
        f"{calls} after a warm-up, on this host as it is now, in ms: {_calls_text(figures.timing)}",
    ]


def _eager_line(figures: RunFigures, recorded: float | None) -> str:
    """The time of eager mode: measured now, or else `recorded` in seconds when the artifact was
    built."""
    artifact = figures.timing.median
    measured = figures.eager_timing
    if measured is not None:
        said = f"{measured.repeat} of its calls now, in ms: {_calls_text(measured)}"
        eager = measured.median
    elif recorded is not None:
        said = f"{milliseconds(recorded)} when the artifact was built (indicative)"
        eager = recorded
    else:
        return "eager: n/a"
    ratio = f"; the artifact is {eager / artifact:.2f}x as fast" if artifact else ""
    return f"eager: {said}{ratio}"


def _once_text(seconds: RunSeconds) -> str:
    parts = []
    for name in ("load", "first", "reference"):
        value = getattr(seconds, name)
        if value is not None:
            parts.append(f"{name} {value * 1000:.1f} ms")
    return ", ".join(parts)


def _calls_text(timing: Timing) -> str:
    parts = []
    for name in ("min", "median", "p90", "p99", "max"):
        parts.append(f"{name} {getattr(timing, name) * 1000:.3f}")
    return ", ".join(parts)
