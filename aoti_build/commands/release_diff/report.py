"""The report of `release-diff`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from aoti_build.artifact.reasons import Reason
from aoti_build.commands.conclusion import (
    Failure,
    code_of,
    concluding_error,
    head,
    of_total,
    one_line,
)
from aoti_build.commands.json_values import json_list, json_or_none
from aoti_build.commands.release.changes import ChangeKind, TargetChange
from aoti_build.commands.release_diff.drift import Drift
from aoti_build.commands.release_diff.limits import Judgement, Policy, Verdict
from aoti_build.commands.release_diff.packages import PackageDrift
from aoti_build.commands.release_diff.parts import NamedChange
from aoti_build.commands.release_diff.side import Side
from aoti_build.commands.release_diff.speed import Speed
from aoti_build.common.json_object import JsonObject
from aoti_build.errors import AotiBuildError, VerificationError


@dataclass(frozen=True)
class TargetDiff:
    """One target of one release or of both.

    Attributes:
        change: what happened to it.
        reasons: the key parts that differ, with their values. Empty without both manifests, whose
            place `change.groups` then takes.
        old_size: the bytes of the old package, with weights that lie beside it. None if it was
            added.
        new_size: those of the new one. None if it was removed.
        drift: of the outputs in the reference data. None if nothing was compared.
        no_drift: why there is no drift.
        packages: the drift of the packages' outputs. None if none were to be run.
        speed: ratios of latencies and of memory.
    """

    change: TargetChange
    reasons: tuple[Reason, ...] = ()
    old_size: int | None = None
    new_size: int | None = None
    drift: Drift | None = None
    no_drift: str | None = None
    packages: PackageDrift | None = None
    speed: Speed = field(default_factory=Speed)

    @property
    def name(self) -> str:
        return self.change.target

    @property
    def size(self) -> float | None:
        """The ratio of the sizes, new / old. None if a side has none."""
        if not self.old_size or self.new_size is None:
            return None
        return self.new_size / self.old_size

    def as_json(self) -> JsonObject:
        change = self.change
        return {
            "target": self.name,
            "change": change.kind,
            "differs": change.content,
            "groups": list(change.groups),
            "reasons": json_list(self.reasons),
            "package": {
                "old": change.old.package_sha256 if change.old else None,
                "new": change.new.package_sha256 if change.new else None,
            },
            "size": {"old": self.old_size, "new": self.new_size, "ratio": self.size},
            "drift": json_or_none(self.drift),
            "no_drift": self.no_drift,
            "packages": json_or_none(self.packages),
            "speed": self.speed.as_json(),
        }


@dataclass(frozen=True)
class ReleaseDiff:
    """The difference from the release `old` to the release `new`.

    Attributes:
        old, new: the two releases.
        targets: all targets of both, in the order of their names.
        toolchain: facts of the toolchain that differ.
        libraries: libraries of the bills of materials that differ by version.
        licences: libraries whose licence differs or is new.
        has_bills: whether both releases have a bill of materials that can be read.
        policy: what makes the task fail.
        judgements: the verdict on each limit of the policy.
        has_run: the packages were to be called.
        written: files that the caller wrote.
    """

    old: Side
    new: Side
    targets: tuple[TargetDiff, ...]
    toolchain: tuple[NamedChange, ...] = ()
    libraries: tuple[NamedChange, ...] = ()
    licences: tuple[NamedChange, ...] = ()
    has_bills: bool = False
    policy: Policy = field(default_factory=Policy)
    judgements: tuple[Judgement, ...] = ()
    has_run: bool = False
    written: tuple[str, ...] = ()

    @property
    def common(self) -> tuple[TargetDiff, ...]:
        """The targets that both releases have."""
        one_side = (ChangeKind.ADDED, ChangeKind.REMOVED)
        return tuple(target for target in self.targets if target.change.kind not in one_side)

    def names(self, kind: ChangeKind) -> list[str]:
        """The names of the targets of this kind."""
        return [target.name for target in self.targets if target.change.kind == kind]

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader must know of the comparison as a whole."""
        notes = []
        if self.old.record.name != self.new.record.name:
            names = f"{self.old.record.name} and {self.new.record.name}"
            notes.append(f"these are releases of two projects: {names}")
        for side in (self.old, self.new):
            if side.directory is None:
                notes.append(
                    f"only the record of {side.name} was read: outputs, speed and libraries are"
                    " not compared"
                )
        if self.has_run:
            notes += [_signer_note(side) for side in (self.old, self.new)]
        elif self.names(ChangeKind.CHANGED):
            notes.append(
                "no package was run: drift compares what eager mode returned for each release;"
                " --run calls the packages"
            )
        return tuple(notes)

    @property
    def exit_code(self) -> int:
        return code_of(self.error)

    @property
    def error(self) -> AotiBuildError | None:
        """The error that ends the task: packages that failed, else the limits that are exceeded;
        None without any."""
        return self._failed_run() or self._failed_limits()

    def _failed_run(self) -> AotiBuildError | None:
        errors = {}
        for target in self.targets:
            if target.packages is not None and target.packages.error is not None:
                errors[target.name] = target.packages.error
        if not errors:
            return None
        # With several, each has a log of its own.
        log = next(iter(errors.values())).log if len(errors) == 1 else None
        return concluding_error(
            VerificationError,
            f"packages of {of_total(len(errors), len(self.targets), 'target')} failed",
            [Failure(name, one_line(error)) for name, error in errors.items()],
            hint="`invoke verify --release DIR` says of one release which packages fail",
            log=log,
        )

    def _failed_limits(self) -> AotiBuildError | None:
        failed = [found for found in self.judgements if self.policy.fails(found)]
        if not failed:
            return None
        exceeded = any(found.verdict == Verdict.FAILED for found in failed)
        verb = "failed" if exceeded else "could not be decided"
        total = len(self.policy.limits)
        noun = "limit" if total == 1 else "limits"
        return concluding_error(
            VerificationError,
            f"{len(failed)} of {total} {noun} {verb}",
            [Failure(str(found.limit), "; ".join(found.why)) for found in failed],
            hint="`invoke release-diff OLD NEW --markdown -` shows all figures; a higher limit in"
            " --fail-if allows them",
        )

    def as_json(self) -> JsonObject:
        return {
            **head("aoti-build/release-diff", 1, self.error),
            "old": _side_json(self.old),
            "new": _side_json(self.new),
            "size": _size_json(self.old.size, self.new.size),
            "run": self.has_run,
            "targets": json_list(self.targets),
            "toolchain": json_list(self.toolchain),
            "libraries": json_list(self.libraries) if self.has_bills else None,
            "licences": json_list(self.licences),
            "limits": json_list(self.judgements),
            "strict": self.policy.strict,
            "notes": list(self.notes),
        }


def _signer_note(side: Side) -> str:
    if side.signer is None:
        return f"{side.name}: no signature was verified, so nothing proves who made it"
    return f"{side.name}: signed by {side.signer}"


def _side_json(side: Side) -> JsonObject:
    record = side.record
    return {
        "path": side.name,
        "sha256": side.sha256,
        "name": record.name,
        "version": record.version,
        "commit": record.source.commit,
        "dirty": record.source.dirty,
        "created": record.created,
        "aoti_build": record.aoti_build,
        "signer": side.signer,
    }


def _size_json(old: int, new: int) -> Mapping[str, object]:
    return {"old": old, "new": new, "ratio": new / old if old else None}
