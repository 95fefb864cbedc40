"""The report of `release-diff` as lines for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aoti_build.commands.release.changes import ChangeKind, change_words
from aoti_build.commands.release_diff.drift import Drift, OutputDrift
from aoti_build.commands.release_diff.limits import Verdict
from aoti_build.commands.release_diff.packages import PackageDrift
from aoti_build.commands.release_diff.parts import NamedChange
from aoti_build.commands.release_diff.report import ReleaseDiff, TargetDiff
from aoti_build.commands.release_diff.side import Side
from aoti_build.commands.release_diff.speed import SpeedRatio
from aoti_build.measurement.record import Metric
from aoti_build.report.spelling import change_text, ratio_text
from aoti_build.report.terminal import count_text, for_terminal, reasons_text, size_text, table

INDICATIVE = "Speed was not measured side by side, so its ratios are indicative."
_NONE = "(none)"
_SHOWN_COMMIT = 12  # digits


@for_terminal
def release_diff_lines(diff: ReleaseDiff) -> list[str]:
    """The targets with their figures, then why they changed, libraries and limits."""
    lines = [f"{side_text(diff.old)} -> {side_text(diff.new)}", ""]
    lines += table(head_of(diff), [row_of(target, diff) for target in diff.targets])
    lines += _moved(diff)
    lines += _reasons(diff.targets)
    lines += _unknown(diff.targets)
    for title, changes in parts_of(diff):
        lines += ["", f"{title}:"]
        lines += [f"  {named_change_text(change)}" for change in changes]
    lines += ["", *_limits(diff)]
    lines.append(f"release: {size_change_text(diff.old.size, diff.new.size)}")
    if is_indicative(diff):
        lines.append(f"note: {INDICATIVE}")
    lines += [f"note: {note}" for note in diff.notes]
    lines.append(count_text([target.change.kind for target in diff.targets], "target"))
    lines += [f"written: {path}" for path in diff.written]
    return lines


def side_text(side: Side) -> str:
    """A release in a few words: ``shop 1.4.0 (commit 0123456789ab)``."""
    record = side.record
    text = f"{record.name} {record.version}"
    if record.source.commit is None:
        return text
    dirty = " with changes" if record.source.dirty else ""
    return f"{text} (commit {record.source.commit[:_SHOWN_COMMIT]}{dirty})"


def head_of(diff: ReleaseDiff) -> list[str]:
    """The names of the figures in a row of `row_of`."""
    packages = ["packages"] if diff.has_run else []
    return ["target", "change", "size", "drift", "max abs", *packages, "steady", "first", "memory"]


def row_of(target: TargetDiff, diff: ReleaseDiff) -> list[str]:
    """The figures of a target. A figure that is not known is an empty text."""
    worst = target.drift.worst if target.drift is not None else None
    return [
        target.name,
        kind_text(target),
        size_change_text(target.old_size, target.new_size),
        drift_text(worst) if worst is not None else "",
        _max_abs_text(worst) if worst is not None else "",
        *([_packages_text(target.packages)] if diff.has_run else []),
        *[_speed_text(target, metric) for metric in (Metric.STEADY, Metric.FIRST, Metric.MEMORY)],
    ]


def _packages_text(packages: PackageDrift | None) -> str:
    """The drift of packages that were called."""
    if packages is None:
        return ""
    if packages.is_same:
        return "same"
    worst = packages.drift.worst if packages.drift is not None else None
    return drift_text(worst) if worst is not None else ""


@dataclass(frozen=True)
class MovedOutput:
    """One output of one case that moved between two releases: in the reference data, in what the
    packages answer, or in both. None if it was not compared there."""

    case: str
    output: str
    references: OutputDrift | None
    packages: OutputDrift | None

    @property
    def shown(self) -> OutputDrift:
        """The one with the figures that are shown: of the packages, if these were compared."""
        found = self.packages or self.references
        assert found is not None  # one of them moved
        return found


def moved_outputs(target: TargetDiff) -> list[MovedOutput]:
    """The outputs that moved, in the order of the cases."""
    references = _by_name(target.drift)
    packages = _by_name(target.packages.drift if target.packages is not None else None)
    moved = []
    for case, output in dict.fromkeys([*references, *packages]):
        pair = references.get((case, output)), packages.get((case, output))
        if any(found is not None and _has_moved(found) for found in pair):
            moved.append(MovedOutput(case, output, *pair))
    return moved


def _by_name(drift: Drift | None) -> dict[tuple[str, str], OutputDrift]:
    compared = drift.compared if drift is not None else ()
    return {(output.case, output.output): output for output in compared}


def _has_moved(output: OutputDrift) -> bool:
    return output.nonfinite or bool(output.relative_rmse)


def drift_or_nothing(output: OutputDrift | None) -> str:
    """The relative error of an output. Empty if it was not compared."""
    return drift_text(output) if output is not None else ""


def _moved(diff: ReleaseDiff) -> list[str]:
    """A row for each output that moved, if packages were called."""
    if not diff.has_run:
        return []
    rows = []
    for target in diff.common:
        for moved in moved_outputs(target):
            drifts = drift_or_nothing(moved.references), drift_or_nothing(moved.packages)
            names = target.name, moved.case, moved.output
            rows.append([*names, *drifts, _max_abs_text(moved.shown)])
    if not rows:
        return []
    return ["", *table(["target", "case", "output", "drift", "packages", "max abs"], rows)]


def kind_text(target: TargetDiff) -> str:
    """``changed: weights``."""
    content = target.change.content
    kind = str(target.change.kind)
    return kind if content is None else f"{kind}: {content}"


def size_change_text(old: int | None, new: int | None) -> str:
    """``12.1 MiB -> 12.4 MiB (+2.5 %)``."""
    if old is None and new is None:
        return ""
    if old is None or new is None:
        return size_text(new if old is None else old or 0)
    if old == new:
        return size_text(new)
    ratio = f" ({change_text(new / old)})" if old else ""
    return f"{size_text(old)} -> {size_text(new)}{ratio}"


def drift_text(output: OutputDrift) -> str:
    """The relative error of an output."""
    if output.nonfinite:
        return "NaN moved"
    if not output.relative_rmse:
        return "0"
    return f"{output.relative_rmse:.2e}"


def _max_abs_text(output: OutputDrift) -> str:
    if not output.max_abs:
        return ""
    return f"{output.max_abs:.2e}"


def _speed_text(target: TargetDiff, metric: Metric) -> str:
    """The worst ratio of a metric over all sizes."""
    ratios = [ratio for ratio in target.speed.ratios if ratio.metric == metric]
    if not ratios:
        return ""
    return speed_ratio_text(max(ratios, key=lambda ratio: ratio.ratio))


def speed_ratio_text(ratio: SpeedRatio) -> str:
    """``1.083 (1.071..1.095)``, or the ratio alone without an interval."""
    text = ratio_text(ratio.ratio)
    if ratio.low is None or ratio.high is None:
        return text
    return f"{text} ({ratio_text(ratio.low)}..{ratio_text(ratio.high)})"


def is_indicative(diff: ReleaseDiff) -> bool:
    """Whether a ratio of speed comes from two separate measurements."""
    return any(target.speed.ratios and not target.speed.side_by_side for target in diff.targets)


def parts_of(diff: ReleaseDiff) -> list[tuple[str, Sequence[NamedChange]]]:
    """The lists of named changes with their titles. Empty ones are left out."""
    parts = [
        ("toolchain", diff.toolchain),
        ("libraries", diff.libraries),
        ("licences", diff.licences),
    ]
    return [(title, changes) for title, changes in parts if changes]


def named_change_text(change: NamedChange) -> str:
    """``torch 2.13.0 -> 2.14.1``."""
    old = _NONE if change.old is None else change.old
    new = _NONE if change.new is None else change.new
    return f"{change.name} {old} -> {new}"


def why_text(target: TargetDiff) -> str:
    """Why a target was changed. Empty unless it was."""
    if target.change.kind != ChangeKind.CHANGED:
        return ""
    return change_words(target.change)


def _reasons(targets: Sequence[TargetDiff]) -> list[str]:
    lines = []
    for target in targets:
        why = why_text(target)
        if not why:
            continue
        lines.append(f"{target.name}: {why}")
        if target.reasons:
            lines.append(f"  {reasons_text(target.reasons)}")
    return ["", *lines] if lines else []


def unknown_of(target: TargetDiff) -> list[str]:
    """What could not be compared in a target of both releases, a clause for each."""
    if target.change.kind in (ChangeKind.ADDED, ChangeKind.REMOVED):
        return []
    clauses = []
    if target.no_drift is not None:
        clauses.append(f"outputs: {target.no_drift}")
    if target.drift is not None:
        clauses += [f"outputs: {clause}" for clause in target.drift.unknown]
    if target.packages is not None:
        clauses += [f"packages: {clause}" for clause in target.packages.unknown]
    if target.speed.why is not None:
        clauses.append(f"speed: {target.speed.why}")
    return clauses


def _unknown(targets: Sequence[TargetDiff]) -> list[str]:
    lines = []
    for target in targets:
        lines += [f"{target.name}: not compared: {clause}" for clause in unknown_of(target)]
    return ["", *lines] if lines else []


def _limits(diff: ReleaseDiff) -> list[str]:
    lines = []
    for found in diff.judgements:
        line = f"limit {found.limit}: {found.verdict}"
        if found.verdict != Verdict.PASSED:
            line += f", {'; '.join(found.why)}"
        lines.append(line)
    return lines
