"""`release-diff`: what differs between two releases, and whether that is allowed.

Nothing is loaded, and no torch is needed. The signatures are not verified: what is said of a
release is what its files say.
"""

from __future__ import annotations

from dataclasses import replace

from aoti_build.artifact.fingerprint import Fingerprint
from aoti_build.artifact.manifest import Manifest
from aoti_build.artifact.reasons import Reason
from aoti_build.artifact.reference_file import observed_names
from aoti_build.commands.release.changes import ChangeKind, TargetChange, target_changes
from aoti_build.commands.release_diff.drift import Drift, Reference, drift_of
from aoti_build.commands.release_diff.limits import Policy
from aoti_build.commands.release_diff.parts import (
    library_changes,
    licence_changes,
    toolchain_changes,
)
from aoti_build.commands.release_diff.policy import judge
from aoti_build.commands.release_diff.report import ReleaseDiff, TargetDiff
from aoti_build.commands.release_diff.side import Side, read_side
from aoti_build.commands.release_diff.speed import Speed, speed_of


def release_diff(old: str, new: str, policy: Policy | None = None) -> ReleaseDiff:
    """Compare the release `old` with the release `new`, each a directory or a `release.json`.

    Limits that are exceeded are in the report.

    Raises:
        UsageError: there is no such release.
        ArtifactError: a record is none, or a file that is read is damaged.
    """
    sides = read_side(old), read_side(new)
    changes = target_changes(sides[0].record, sides[1].record)
    libraries = sides[0].libraries(), sides[1].libraries()
    diff = ReleaseDiff(
        old=sides[0],
        new=sides[1],
        targets=tuple(_target(change, *sides) for change in changes),
        toolchain=toolchain_changes(changes),
        libraries=library_changes(*libraries),
        licences=licence_changes(sides[0].record, sides[1].record, *libraries),
        has_bills=None not in libraries,
        policy=policy or Policy(),
    )
    return replace(diff, judgements=judge(diff))


def _target(change: TargetChange, old: Side, new: Side) -> TargetDiff:
    name = change.target
    old_size = old.package_size(name) if change.old is not None else None
    new_size = new.package_size(name) if change.new is not None else None
    if change.kind in (ChangeKind.ADDED, ChangeKind.REMOVED) or change.old is None:
        return TargetDiff(
            change,
            old_size=old_size,
            new_size=new_size,
            no_drift=f"the target was {change.kind}",
            speed=Speed(why=f"the target was {change.kind}"),
        )
    manifests = old.manifest(name), new.manifest(name)
    drift, no_drift = _drift(name, old, new, manifests)
    return TargetDiff(
        change,
        reasons=_reasons(*manifests),
        old_size=old_size,
        new_size=new_size,
        drift=drift,
        no_drift=no_drift,
        speed=speed_of(old.bench(name), new.bench(name), change.old.package_sha256),
    )


def _reasons(old: Manifest | None, new: Manifest | None) -> tuple[Reason, ...]:
    """The key parts that differ, with their values. Empty unless both manifests can be read."""
    if old is None or new is None:
        return ()
    return tuple(Fingerprint(new.source).differences(old.source))


def _drift(
    name: str, old: Side, new: Side, manifests: tuple[Manifest | None, Manifest | None]
) -> tuple[Drift | None, str | None]:
    """The drift of a target, or why there is none."""
    before, after = manifests
    if before is None or after is None:
        return None, "a release has no manifest that can be read"
    files = old.reference_data(name), new.reference_data(name)
    if files[0] is None or files[1] is None:
        return None, "a release has no reference data"
    drift = drift_of(
        Reference(files[0], observed_names(before.signature)),
        Reference(files[1], observed_names(after.signature)),
    )
    if not drift.outputs and not drift.skipped:
        return None, "the reference data has no cases"
    return drift, None
