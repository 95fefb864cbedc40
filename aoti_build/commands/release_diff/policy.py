"""The verdict on each limit of ``release-diff --fail-if``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from aoti_build.commands.release.changes import ChangeKind
from aoti_build.commands.release_diff.drift import Drift
from aoti_build.commands.release_diff.limits import (
    COUNTS,
    DRIFT,
    SIZE,
    Judgement,
    Limit,
    Verdict,
)
from aoti_build.commands.release_diff.report import ReleaseDiff, TargetDiff


def judge(diff: ReleaseDiff) -> tuple[Judgement, ...]:
    """The verdict on each limit of the policy of `diff`."""
    return tuple(_judged(limit, _found(limit, diff)) for limit in diff.policy.limits)


@dataclass
class _Found:
    """Clauses for the figures above a limit, and for those that are missing."""

    above: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def _judged(limit: Limit, found: _Found) -> Judgement:
    if found.above:
        return Judgement(limit, Verdict.FAILED, tuple(found.above))
    if found.missing:
        return Judgement(limit, Verdict.UNKNOWN, tuple(found.missing))
    return Judgement(limit, Verdict.PASSED)


def _found(limit: Limit, diff: ReleaseDiff) -> _Found:
    if limit.name in COUNTS:
        return _counts(limit, diff)
    found = _Found()
    for target in diff.common:
        if limit.name == SIZE:
            _add_size(found, limit, target)
        elif limit.name == DRIFT:
            _add_drift(found, limit, target)
        else:
            _add_speed(found, limit, target)
    return found


def _counts(limit: Limit, diff: ReleaseDiff) -> _Found:
    found = _Found()
    if limit.name in ("libraries", "licences"):
        changes = diff.libraries if limit.name == "libraries" else diff.licences
        names: Sequence[str] = [change.name for change in changes]
        if not diff.has_bills:
            found.missing.append("a release has no bill of materials that can be read")
    else:
        names = diff.names(ChangeKind(limit.name))
    if len(names) > limit.limit:
        found.above.append(_too_many(names))
    return found


def _too_many(names: Iterable[str]) -> str:
    listed = list(names)
    return f"{len(listed)}: {', '.join(listed)}"


def _add_size(found: _Found, limit: Limit, target: TargetDiff) -> None:
    if target.size is None:
        found.missing.append(f"{target.name}: the old release lists no package")
    elif target.size > limit.limit:
        found.above.append(f"{target.name}: {target.size:.3f} times the size")


def _add_drift(found: _Found, limit: Limit, target: TargetDiff) -> None:
    """Add what the references and the packages say. The larger drift counts."""
    if target.drift is None:
        found.missing.append(f"{target.name}: {target.no_drift}")
    else:
        _add_outputs(found, limit, target.name, target.drift)
    packages = target.packages
    if packages is None:
        return
    name = f"{target.name}, packages"
    if packages.drift is not None:
        _add_outputs(found, limit, name, packages.drift)
    else:
        found.missing += [f"{name}: {clause}" for clause in packages.unknown]


def _add_outputs(found: _Found, limit: Limit, name: str, drift: Drift) -> None:
    for output in drift.compared:
        where = f"{name}, {output.case}, {output.output}"
        if output.nonfinite:
            found.above.append(f"{where}: NaN or infinities are at other places")
        elif output.relative_rmse is not None and output.relative_rmse > limit.limit:
            found.above.append(f"{where}: a relative error of {output.relative_rmse:.3g}")
    for clause in drift.unknown:
        found.missing.append(f"{name}: {clause}")


def _add_speed(found: _Found, limit: Limit, target: TargetDiff) -> None:
    ratios = [ratio for ratio in target.speed.ratios if ratio.metric == limit.name]
    for ratio in ratios:
        if ratio.ratio > limit.limit:
            at = "".join(f", {name}={size}" for name, size in ratio.sizes.items())
            found.above.append(f"{target.name}{at}: {ratio.ratio:.3f} times that of the old one")
    if not ratios:
        why = target.speed.why or "it was not measured in both releases"
        found.missing.append(f"{target.name}: {why}")
