"""The targets that differ between two releases, and why, by their records alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from aoti_build.artifact.bundle.record import ReleasedTarget, ReleaseRecord
from aoti_build.artifact.reasons import REASON_OF_GROUP
from aoti_build.common.text_enum import TextEnum

# What people call the groups of key parts.
_WORDS: Mapping[str, str] = {
    "spec": "its entry in models.yaml",
    "config": "the inductor options",
    "sources": "source files",
    "distributions": "imported distributions",
    "modules": "imported modules",
    "variables": "environment variables that the code reads",
    "weights": "the weights",
    "toolchain": "the toolchain",
    "environment": "environment variables of the compiler",
}


class ChangeKind(TextEnum):
    """What happened to a target from one release to the next."""

    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"
    SAME = "same"  # the same package, byte by byte


class Content(TextEnum):
    """What of a package differs, by its keys."""

    CODE = "code"  # the compiled code, and perhaps the weights
    WEIGHTS = "weights"  # the weights alone
    BYTES = "bytes"  # neither: it was made again from the same graph and weights


@dataclass(frozen=True)
class TargetChange:
    """A target of one release or of both. The side that lacks it is None.

    `groups` are the groups of key parts that differ, in the order of reports. They may differ also
    if the package is the same, since a comment in a source file changes no code.
    """

    target: str
    kind: ChangeKind
    old: ReleasedTarget | None
    new: ReleasedTarget | None
    groups: tuple[str, ...] = ()

    @property
    def content(self) -> Content | None:
        """What of the package differs; None unless the target was changed."""
        if self.kind != ChangeKind.CHANGED or self.old is None or self.new is None:
            return None
        if self.old.key == self.new.key:
            return Content.BYTES
        if self.old.graph_key == self.new.graph_key:
            return Content.WEIGHTS
        return Content.CODE


def target_changes(old: ReleaseRecord, new: ReleaseRecord) -> tuple[TargetChange, ...]:
    """All targets of two releases, in the order of their names."""
    earlier = {target.target: target for target in old.targets}
    later = {target.target: target for target in new.targets}
    changes = []
    for name in sorted({*earlier, *later}):
        changes.append(_change(name, earlier.get(name), later.get(name)))
    return tuple(changes)


def change_words(change: TargetChange) -> str:
    """Why a target was changed: ``since these differ: the weights; the compiled code is the
    same``."""
    if not change.groups:
        return "compiled again from the same inputs"
    words = ", ".join(_WORDS.get(group, group) for group in change.groups)
    text = f"since these differ: {words}"
    if change.content in (Content.WEIGHTS, Content.BYTES):
        text += "; the compiled code is the same"
    return text


def _change(name: str, old: ReleasedTarget | None, new: ReleasedTarget | None) -> TargetChange:
    if old is None:
        return TargetChange(name, ChangeKind.ADDED, None, new)
    if new is None:
        return TargetChange(name, ChangeKind.REMOVED, old, None)
    is_same = old.package_sha256 == new.package_sha256
    kind = ChangeKind.SAME if is_same else ChangeKind.CHANGED
    return TargetChange(name, kind, old, new, _changed_groups(old, new))


def _changed_groups(old: ReleasedTarget, new: ReleasedTarget) -> tuple[str, ...]:
    groups = (*REASON_OF_GROUP, *sorted({*old.key_parts, *new.key_parts} - {*REASON_OF_GROUP}))
    return tuple(group for group in groups if old.key_parts.get(group) != new.key_parts.get(group))
