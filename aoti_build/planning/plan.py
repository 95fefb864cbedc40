"""What a build would do, as a value: one `Step` for each target, with the reasons.

Planning reads manifests, digests files (through the stat cache) and asks for facts of the
toolchain. It imports neither torch nor user code, and it changes nothing. So `status`, `why` and
`build --dry-run` show exactly what `build` acts on.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from aoti_build.artifact.damage import files_damage, manifest_damage
from aoti_build.artifact.fingerprint import Fingerprint, Parts
from aoti_build.artifact.manifest import (
    FORMAT_VERSION,
    MANIFEST,
    Manifest,
    NoManifest,
    read_manifest,
)
from aoti_build.artifact.paths import artifact_directory
from aoti_build.artifact.reasons import Reason, ReasonKind
from aoti_build.artifact.verification import is_verified, required_tolerance
from aoti_build.common.digests import digest_json
from aoti_build.common.reading import RECORD_LIMIT
from aoti_build.common.stat_cache import StatCache, file_size
from aoti_build.host import compatibility
from aoti_build.host.import_path import ImportPath
from aoti_build.models_file.project import Project, Target
from aoti_build.models_file.tuned import TUNED_FILE, missing_entries
from aoti_build.planning.actions import Action
from aoti_build.planning.current_state import (
    current_parts,
    has_fixed_threads,
    toolchain_parts,
)
from aoti_build.planning.entries import PublishedFiles
from aoti_build.planning.index import Index, Published
from aoti_build.store.interface import Store

# The actions that change something.
WORK = (Action.BUILD, Action.RESTORE, Action.RECHECK)
# Reasons that do not say that an artifact differs from what the sources say.
_NOT_OUT_OF_DATE = (ReasonKind.NO_DEVICE, ReasonKind.UNVERIFIED)


@dataclass(frozen=True)
class Step:
    """What to do about a target, and why.

    Attributes:
        target: the target.
        action: what to do.
        reasons: why; empty if nothing is to be done.
        manifest: that of the published artifact, if it can be read.
        stored: that of an artifact in the store that was made from exactly the present state.
        published: set if the index showed that the target is up to date; then `manifest` is None.
    """

    target: Target
    action: Action
    reasons: tuple[Reason, ...]
    manifest: Manifest | None = None
    stored: Manifest | None = None
    published: Published | None = None

    @property
    def unverified(self) -> str | None:
        """Why the published artifact was never compared with eager mode.

        None if it was, or if there is none.
        """
        return self.manifest.unverified if self.manifest else None


@dataclass(frozen=True)
class Plan:
    """Steps in the order of models.yaml.

    `notes` are sentences about targets whose tuned.yaml has no entry for this host.
    """

    steps: tuple[Step, ...]
    notes: tuple[str, ...] = ()

    @property
    def work(self) -> tuple[Step, ...]:
        """The steps that change something."""
        return tuple(step for step in self.steps if step.action in WORK)


def make_plan(
    project: Project,
    targets: tuple[Target, ...],
    digests: StatCache,
    store: Store,
    *,
    force: bool = False,
    index: Index | None = None,
) -> Plan:
    """Compare the published artifact of each target with the present state.

    With `force` neither artifacts nor the store count. `index` changes the speed and no result.
    """
    planner = _Planner(project, digests, store, force)
    facts_digests: dict[tuple[str, str, bool], str] = {}
    steps = []
    for target in targets:
        architecture = (target.device, target.architecture, has_fixed_threads(target))
        if architecture not in facts_digests:
            # With the format version, since a manifest of another version is not read.
            facts_digests[architecture] = digest_json([FORMAT_VERSION, toolchain_parts(target)])
        facts = facts_digests[architecture]
        if index is None:
            steps.append(planner.step(target))
        else:
            steps.append(planner.step_with_index(target, index, facts))
    return Plan(tuple(steps), missing_entries(project, targets))


def plan_target(
    project: Project,
    target: Target,
    digests: StatCache,
    store: Store,
    *,
    force: bool = False,
) -> Step:
    """The step for one target. With `force` neither its artifact nor the store count."""
    return _Planner(project, digests, store, force).step(target)


def probably_compiles(step: Step) -> bool:
    """Whether this step will need the host's compiler, unless the store has the code.

    If the toolchain is the same, the store probably has it.
    """
    if step.action != Action.BUILD or has_own_compiler(step.target):
        return False
    if step.manifest is None:
        return True
    kinds = {reason.reason for reason in step.reasons}
    return ReasonKind.TOOLCHAIN_CHANGED in kinds or ReasonKind.FORCED in kinds


def has_own_compiler(target: Target) -> bool:
    """Whether the preset names a C++ compiler, which is then used in place of the host's."""
    return "cpp.cxx" in target.inductor_config


def out_of_date(step: Step) -> tuple[Reason, ...]:
    """The reasons why the artifact is not what the sources say now.

    That it cannot be built here, or that it was never verified, is not such a reason.
    """
    if step.action == Action.RECHECK:
        return ()
    return tuple(reason for reason in step.reasons if reason.reason not in _NOT_OUT_OF_DATE)


@dataclass(frozen=True)
class _Planner:
    """Makes the steps of one project."""

    project: Project
    digests: StatCache
    store: Store
    force: bool

    @cached_property
    def _path(self) -> ImportPath:
        """The import path, which is read once for all targets."""
        return self.project.import_path()

    def _current_parts(self, target: Target, recorded: Parts) -> Fingerprint:
        return current_parts(self.project, target, recorded, self.digests, self._path)

    def step_with_index(self, target: Target, index: Index, facts: str) -> Step:
        """As `step`, from the index if possible. The index learns of an up-to-date target."""
        can_be_built = target.hardware.cannot_build(target.architecture) is None
        if can_be_built and not self.force:
            published = index.look_up(target.name, target.digest, facts)
            if published is not None:
                return Step(target, Action.UP_TO_DATE, (), published=published)
        # Before the manifest is read: one that changes in between makes the entry invalid.
        manifest_digest = self._manifest_digest(target)
        step = self.step(target)
        is_settled = step.action == Action.UP_TO_DATE and step.unverified is None
        if is_settled and step.manifest is not None and manifest_digest is not None:
            artifact = PublishedFiles(
                self.project, target, step.manifest, manifest_digest, self._path.installed
            )
            index.note(target.name, artifact.entry(facts, self.digests))
        return step

    def step(self, target: Target) -> Step:
        record = read_manifest(artifact_directory(self.project, target))
        manifest = None
        now = None
        if isinstance(record, Manifest):
            manifest = record
            now = self._current_parts(target, manifest.source)
            reasons = self._reasons(target, manifest, now)
        else:
            reasons = [_reason_without_manifest(record, target)]
        # `status` shows the other reasons of an unavailable target as well.
        problem = target.hardware.cannot_build(target.architecture)
        if problem is not None:
            no_device = Reason(ReasonKind.NO_DEVICE, problem)
            return Step(
                target,
                Action.UNAVAILABLE,
                reasons=(no_device, *reasons),
                manifest=manifest,
            )
        if reasons:
            # A forced build must not take an earlier artifact.
            stored = None if self.force else self._find_stored(target, now)
            return Step(
                target,
                action=Action.RESTORE if stored else Action.BUILD,
                reasons=tuple(reasons),
                manifest=manifest,
                stored=stored,
            )
        # An artifact that cannot be read has a reason.
        assert manifest is not None
        assert now is not None
        if is_verified(manifest, target):
            return Step(target, Action.UP_TO_DATE, (), manifest)
        return self._unverified_step(target, manifest, now)

    def _reasons(
        self,
        target: Target,
        manifest: Manifest,
        now: Fingerprint,
    ) -> list[Reason]:
        """Why a published artifact is not what the sources say. Empty if it is."""
        unusable = manifest_damage(manifest, target.name)
        if unusable is not None:
            return [unusable.reason()]
        reasons = [Reason(ReasonKind.FORCED)] if self.force else []
        for reason in now.differences(manifest.source):
            reasons.append(self._with_file(target, reason))
        if reasons:
            # Digests of a large artifact take the longest, and a build will replace it anyway.
            return reasons
        directory = artifact_directory(self.project, target)
        damages = files_damage(directory, manifest, self.digests)
        return [damage.reason() for damage in damages]

    def _with_file(self, target: Target, reason: Reason) -> Reason:
        """The reason, with the name of tuned.yaml before an option that is from there."""
        is_from_tuned = reason.reason == ReasonKind.CONFIG_CHANGED and self.project.is_tuned(target)
        if not is_from_tuned:
            return reason
        return replace(reason, what=f"{TUNED_FILE}: {reason.what}")

    def _unverified_step(
        self,
        target: Target,
        manifest: Manifest,
        now: Fingerprint,
    ) -> Step:
        """The step for an up-to-date artifact that was not verified by the present tolerance."""
        checked_by = manifest.check.get("tolerance")
        required = required_tolerance(target)
        if checked_by != required:
            changed = Reason(
                ReasonKind.SPEC_CHANGED,
                "tolerance",
                old=checked_by,
                new=required,
            )
            return Step(target, Action.RECHECK, (changed,), manifest)
        unverified = Reason(ReasonKind.UNVERIFIED, str(manifest.unverified))
        host = compatibility.this_host(manifest.requires["device"])
        if not compatibility.missing_for_architecture(manifest.requires, host):
            return Step(target, Action.RECHECK, (unverified,), manifest)
        # This host cannot check it, but another one may have done so and put it into the store.
        stored = self._find_stored(target, now)
        if stored is not None and is_verified(stored, target):
            return Step(
                target,
                Action.RESTORE,
                reasons=(unverified,),
                manifest=manifest,
                stored=stored,
            )
        return Step(target, Action.UP_TO_DATE, (), manifest)

    def _find_stored(self, target: Target, now: Fingerprint | None) -> Manifest | None:
        """An artifact in the store that was made from exactly the present state.

        `now` are the present parts by the files of the published artifact. A stored artifact that
        used the same files has them as its key. Any other one is found by looking at all that have
        the same spec and toolchain. No export is necessary.
        """
        if now is not None:
            stored = self.store.by_sources(now.parts)
            if stored is not None and self._is_available(stored, now):
                return stored
        without_files = self._current_parts(target, {})
        for candidate in self.store.candidates(without_files.parts):
            by_its_files = self._current_parts(target, candidate.source)
            if self._is_available(candidate, by_its_files):
                return candidate
        return None

    def _is_available(self, stored: Manifest, now: Fingerprint) -> bool:
        """Whether an artifact was made from the parts `now`, and the store has its files."""
        if any(now.differences(stored.source)):
            return False
        return self.store.has(stored)

    def _manifest_digest(self, target: Target) -> str | None:
        """The digest of manifest.json; None if there is none, or it is too large to be one."""
        path = artifact_directory(self.project, target) / MANIFEST
        if (file_size(path) or 0) > RECORD_LIMIT:
            return None
        return self.digests.digest(path)


def _reason_without_manifest(record: NoManifest, target: Target) -> Reason:
    damage = manifest_damage(record, target.name)
    if damage is None or not record.damaged:
        return Reason(ReasonKind.NO_ARTIFACT)
    return damage.reason()
