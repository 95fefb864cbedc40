"""What a build would do, as a value: one `Step` per target, each with the reasons.

Planning reads manifests, hashes files (through the stat cache) and asks for toolchain facts. It
imports neither torch nor user code and changes nothing, so `status`, `why` and `build --dry-run`
show exactly what `build` acts on.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from aoti_build.artifact.damage import files_damage, manifest_damage
from aoti_build.artifact.fingerprint import Fingerprint
from aoti_build.artifact.manifest import FORMAT_VERSION, MANIFEST, MODEL, Manifest, read_manifest
from aoti_build.artifact.paths import artifact_directory
from aoti_build.artifact.reasons import Reason, ReasonKind
from aoti_build.artifact.verification import is_verified, required_tolerance
from aoti_build.common.digests import digest_json
from aoti_build.common.reading import RECORD_LIMIT
from aoti_build.common.stat_cache import StatCache, file_size
from aoti_build.host import compatibility, distributions
from aoti_build.models_file.project import Project, Target
from aoti_build.planning.actions import Action
from aoti_build.planning.current_state import current_parts, toolchain_parts
from aoti_build.planning.index import Entry, Index, Published
from aoti_build.store.interface import Store


@dataclass(frozen=True)
class Step:
    """A target, what to do about it (`action`) and why.

    `manifest` is the published artifact's, if it has a readable one; `stored` that of an artifact
    in the store which was made from exactly the present state.
    """

    target: Target
    action: Action
    reasons: tuple[Reason, ...]
    manifest: Manifest | None = None
    stored: Manifest | None = None
    published: Published | None = None

    @property
    def unverified(self) -> str | None:
        """Why the published artifact was never compared with eager; None if it was, or there is
        none."""
        return self.manifest.unverified if self.manifest else None


@dataclass(frozen=True)
class Plan:
    """Steps in the order of models.yaml."""

    steps: tuple[Step, ...]

    @property
    def work(self) -> tuple[Step, ...]:
        return tuple(
            step
            for step in self.steps
            if step.action in (Action.BUILD, Action.RESTORE, Action.RECHECK)
        )


def make_plan(
    project: Project,
    targets: tuple[Target, ...],
    digests: StatCache,
    store: Store,
    *,
    force: bool = False,
    index: Index | None = None,
) -> Plan:
    """Compare each target's published artifact with what the sources say now; `index` makes that
    fast and nothing else."""
    facts: dict[tuple[str, str], str] = {}
    steps = []
    for target in targets:
        kind = target.device, target.architecture
        if kind not in facts:
            # An older manifest is not read.
            facts[kind] = digest_json([FORMAT_VERSION, toolchain_parts(target)])
        published = None
        if (
            index is not None
            and not force
            and target.hardware.cannot_build(target.architecture) is None
        ):
            published = index.look_up(target.name, target.digest, facts[kind])
        if published is not None:
            steps.append(Step(target, Action.UP_TO_DATE, (), published=published))
            continue
        step, record = _plan_recorded(project, target, digests, store, force=force)
        if (
            index is not None
            and step.action == Action.UP_TO_DATE
            and step.unverified is None
            and record is not None
        ):
            _note(project, index, digests, step, record, facts[kind])
        steps.append(step)
    return Plan(tuple(steps))


def probably_compiles(step: Step) -> bool:
    """Whether this step will end in a compile by the host's compiler, unless the store has its
    code. An artifact whose toolchain is the same probably gets it from there; a preset may name a
    compiler of its own."""
    if step.action != Action.BUILD or has_own_compiler(step.target):
        return False
    kinds = {reason.reason for reason in step.reasons}
    return step.manifest is None or not kinds.isdisjoint(
        (ReasonKind.TOOLCHAIN_CHANGED, ReasonKind.FORCED)
    )


def has_own_compiler(target: Target) -> bool:
    """Whether the preset names a C++ compiler, so that nothing follows from the host's."""
    return "cpp.cxx" in target.inductor_config


def plan_target(
    project: Project, target: Target, digests: StatCache, store: Store, *, force: bool = False
) -> Step:
    """The step for one target. With `force` neither the published artifact nor the store counts."""
    return _plan_recorded(project, target, digests, store, force=force)[0]


def _plan_recorded(
    project: Project, target: Target, digests: StatCache, store: Store, *, force: bool
) -> tuple[Step, str | None]:
    """The step, and the digest that manifest.json had before it was read; None if it is too large
    to be one."""
    path = artifact_directory(project, target) / MANIFEST
    record = digests.digest(path) if (file_size(path) or 0) <= RECORD_LIMIT else None
    return _step(project, target, digests, store, force=force), record


def _note(
    project: Project, index: Index, digests: StatCache, step: Step, record: str, facts: str
) -> None:
    """Let the index remember what made this step up to date."""
    manifest = step.manifest
    if manifest is None:
        return
    directory = artifact_directory(project, step.target).relative_to(project.root).as_posix()
    # In the order in which they are compared later: what is most often edited first, what takes
    # longest to read last.
    files = {
        **manifest.source["sources"],
        **manifest.source["weights"],
        f"{directory}/{MANIFEST}": record,
    }
    used = manifest.source["distributions"]
    installed = map(distributions.record_of, used)
    files |= {
        str(path): digest
        for path in installed
        if path is not None and (digest := digests.digest(path))
    }
    files |= {f"{directory}/{name}": file.sha256 for name, file in manifest.files.items()}
    sizes = {f"{directory}/{name}": file.size for name, file in manifest.files.items()}
    if (size := file_size(artifact_directory(project, step.target) / MANIFEST)) is not None:
        sizes[f"{directory}/{MANIFEST}"] = size
    index.note(
        step.target.name,
        Entry(
            spec=step.target.digest,
            facts=facts,
            distributions={name: list(distributions.place(name)) for name in used},
            modules=manifest.source["modules"],
            variables=manifest.source["variables"],
            files=files,
            sizes=sizes,
            key=manifest.key,
            size=manifest.files[MODEL].size,
        ),
    )


def _step(
    project: Project, target: Target, digests: StatCache, store: Store, *, force: bool
) -> Step:
    directory = artifact_directory(project, target)
    manifest = read_manifest(directory)
    known, now = None, None
    if isinstance(manifest, Manifest):
        known, now = manifest, current_parts(project, target, manifest.source, digests)
        reasons = tuple(_reasons(target, directory, known, now, digests, force=force))
    else:
        reasons = (
            Reason(ReasonKind.ARTIFACT_DAMAGED, manifest.why)
            if manifest.damaged
            else Reason(ReasonKind.NO_ARTIFACT),
        )
    if why := target.hardware.cannot_build(target.architecture):
        return Step(
            target, Action.UNAVAILABLE, (Reason(ReasonKind.NO_DEVICE, why), *reasons), known
        )
    if reasons:
        stored = None if force else find_stored(project, target, digests, store, now)
        return Step(target, Action.RESTORE if stored else Action.BUILD, reasons, known, stored)
    if known is None or now is None or is_verified(known, target):
        return Step(target, Action.UP_TO_DATE, (), known)
    return _unsettled(project, target, known, now, digests, store)


def out_of_date(step: Step) -> tuple[Reason, ...]:
    """Of a step's reasons, those by which the artifact is not what the sources say now: not that it
    could not be built here, nor that nobody has compared it."""
    if step.action == Action.RECHECK:
        return ()
    return tuple(
        reason
        for reason in step.reasons
        if reason.reason not in (ReasonKind.NO_DEVICE, ReasonKind.UNVERIFIED)
    )


def _unsettled(
    project: Project,
    target: Target,
    known: Manifest,
    now: Fingerprint,
    digests: StatCache,
    store: Store,
) -> Step:
    """The step for an artifact that is what the sources say, and was not shown to do what it
    must."""
    if known.check.get("tolerance") != required_tolerance(target):
        changed = Reason(
            ReasonKind.SPEC_CHANGED,
            "tolerance",
            known.check.get("tolerance"),
            required_tolerance(target),
        )
        return Step(target, Action.RECHECK, (changed,), known)
    unverified = Reason(ReasonKind.UNVERIFIED, str(known.unverified))
    if not compatibility.lacking_architecture(known.requires):
        return Step(target, Action.RECHECK, (unverified,), known)
    # Another host may have checked it since.
    stored = find_stored(project, target, digests, store, now)
    if stored is not None and is_verified(stored, target):
        return Step(target, Action.RESTORE, (unverified,), known, stored)
    return Step(target, Action.UP_TO_DATE, (), known)


def find_stored(
    project: Project, target: Target, digests: StatCache, store: Store, now: Fingerprint | None
) -> Manifest | None:
    """An artifact in the store that was made from exactly what is here now, found without an
    export.

    One that used the same files as the published one, whose parts are these `now`, is found by its
    key, any other by looking at all of the same spec and toolchain.
    """
    if now is not None:
        named = store.by_sources(now.parts)
        if named is not None and not any(now.differences(named.source)) and store.has(named):
            return named
    for candidate in store.candidates(current_parts(project, target, {}, digests).parts):
        by_its_files = current_parts(project, target, candidate.source, digests)
        if not any(by_its_files.differences(candidate.source)) and store.has(candidate):
            return candidate
    return None


def _reasons(
    target: Target,
    directory: Path,
    manifest: Manifest,
    now: Fingerprint,
    digests: StatCache,
    *,
    force: bool,
) -> list[Reason]:
    unusable = manifest_damage(manifest, target.name)
    if unusable is not None:
        return [unusable.reason()]
    reasons = [Reason(ReasonKind.FORCED)] if force else []
    reasons += now.differences(manifest.source)
    if reasons:
        # Hashing a large artifact takes the longest, and a build will replace it anyway.
        return reasons
    return [damage.reason() for damage in files_damage(directory, manifest, digests)]
