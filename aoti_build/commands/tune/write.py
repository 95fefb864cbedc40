"""Writes what `tune` chose into tuned.yaml."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timezone

from aoti_build.commands.tune.report import Outcome, Tuning
from aoti_build.common.writing import write_atomic
from aoti_build.host import distributions
from aoti_build.models_file.project import Project
from aoti_build.models_file.tuned import Entry, Evidence, read_tuned_file, tuned_path

WRITTEN = "written"
REMOVED = "removed"
UNCHANGED = "unchanged"


def write_choices(project: Project, tunings: Iterable[Tuning]) -> dict[str, str]:
    """Write, replace or remove the entry of each target for this host.

    Returns what was done, by the name of the target. Entries of other targets and hosts stay. The
    file is read again, because it may have been edited during the measurements. Raises SpecError if
    it became invalid.
    """
    from aoti_build.models_file.parsing.tuned_file import parse_tuned, tuned_text

    content = read_tuned_file(project.file)
    entries = {name: dict(by_host) for name, by_host in parse_tuned(content).items()}
    changes = {}
    for tuning in tunings:
        by_host = entries.setdefault(tuning.target.name, {})
        host = tuning.host or ""
        change = _change(tuning, is_present=host in by_host)
        if change == WRITTEN:
            by_host[host] = _entry(tuning)
        elif change == REMOVED:
            del by_host[host]
        changes[tuning.target.name] = change
    if set(changes.values()) - {UNCHANGED}:
        write_atomic(tuned_path(project.file), tuned_text(entries).encode())
    return changes


def _change(tuning: Tuning, *, is_present: bool) -> str:
    if tuning.error is not None:
        return UNCHANGED
    if tuning.chosen is not None:
        return WRITTEN
    if not is_present:
        return UNCHANGED
    # The present choice comes first of all candidates. If the budget did not even reach it, nothing
    # is known against it.
    if all(row.outcome == Outcome.UNTRIED for row in tuning.rows[1:]):
        return UNCHANGED
    return REMOVED


def _entry(tuning: Tuning) -> Entry:
    assert tuning.chosen is not None
    row = tuning.row(tuning.chosen)
    baseline = tuning.rows[0]
    assert row.choice is not None
    assert row.comparison is not None
    evidence = Evidence(
        ratio=round(row.comparison.ratio, 4),
        low=round(row.comparison.low, 4),
        high=round(row.comparison.high, 4),
        pairs=row.comparison.pairs,
        default_ms=_milliseconds(baseline.seconds),
        tuned_ms=_milliseconds(row.seconds),
        torch=distributions.version_of("torch") or "",
        created=datetime.now(timezone.utc).date().isoformat(),
        loss=row.loss,
        cuda_graphs=tuning.cuda_graphs or None,
    )
    return Entry(row.choice, evidence)


def _milliseconds(seconds: float | None) -> float:
    return float(f"{1000 * (seconds or 0.0):.4g}")
