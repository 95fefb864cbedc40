"""`release-diff`: what differs between two releases, and whether that is allowed.

Nothing is loaded, and no torch is needed, unless packages are to be run. The signatures are not
verified then: what is said of a release is what its files say. Before packages are run, both
releases are examined as `verify --release` does it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

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
from aoti_build.models_file.project import Target

if TYPE_CHECKING:
    from aoti_build.commands.release_diff.opened import RunOptions

OnProgress = Callable[[Target, str], None]


def release_diff(
    old: str,
    new: str,
    policy: Policy | None = None,
    *,
    run: RunOptions | None = None,
    on_progress: OnProgress = lambda target, phase: None,
) -> ReleaseDiff:
    """Compare the release `old` with the release `new`, each a directory or a `release.json`.

    With `run` their packages are called with the same inputs, and both must be directories. Limits
    that are exceeded are in the report.

    Raises:
        UsageError: there is no such release, or an option of `run` is wrong.
        SignatureError: with `run`, a signature is refused, or files are not what was signed.
            Nothing was loaded.
        ArtifactError: a record is none, or a file that is read is damaged.
        ToolchainError: with `run`, the host is unfit.
        Interrupted: Ctrl-C was pressed. Every worker has ended.
    """
    policy = policy or Policy()
    if run is None:
        return _judged(_compared(read_side(old), read_side(new)), policy)
    # What starts workers is imported for --run alone.
    from aoti_build.commands.release_diff.opened import open_side
    from aoti_build.commands.release_diff.run import run_packages

    with open_side(old, run) as earlier, open_side(new, run) as later:
        diff = _compared(earlier.side, later.side)
        diff = run_packages(diff, earlier, later, run, on_progress)
        # Figures about files that are others by now would mislead.
        earlier.require_unchanged()
        later.require_unchanged()
    return _judged(diff, policy)


def _judged(diff: ReleaseDiff, policy: Policy) -> ReleaseDiff:
    diff = replace(diff, policy=policy)
    return replace(diff, judgements=judge(diff))


def _compared(old: Side, new: Side) -> ReleaseDiff:
    """What the files of two releases say of their difference."""
    changes = target_changes(old.record, new.record)
    libraries = old.libraries(), new.libraries()
    return ReleaseDiff(
        old=old,
        new=new,
        targets=tuple(_target(change, old, new) for change in changes),
        toolchain=toolchain_changes(changes),
        libraries=library_changes(*libraries),
        licences=licence_changes(old.record, new.record, *libraries),
        has_bills=None not in libraries,
    )


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
