"""What a build would do, as a value: one `Step` per target, each with the reasons.

Planning reads manifests, hashes files (through the stat cache) and asks for toolchain facts. It
imports neither torch nor user code and changes nothing, so `status`, `why` and `build --dry-run`
show exactly what `build` acts on.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from aoti_build.artifact.fingerprint import (
    KEY_VERSION,
    Fingerprint,
    Parts,
    Reason,
    declared_files,
    spec_parts,
    variable_parts,
)
from aoti_build.artifact.manifest import FORMAT_VERSION, MANIFEST, MODEL, Manifest, read_manifest
from aoti_build.artifact.paths import artifact_directory
from aoti_build.common.digests import digest_json
from aoti_build.common.reading import RECORD_LIMIT
from aoti_build.common.stat_cache import StatCache, stat_key
from aoti_build.host import compatibility, distributions, gpu_architectures, toolchain
from aoti_build.models_file.project import Project, Target
from aoti_build.models_file.weights import weights_files
from aoti_build.planning.index import Entry, Index, Published
from aoti_build.store.local import Store

UP_TO_DATE, BUILD, RESTORE, RECHECK, UNAVAILABLE = (
    "up-to-date",
    "build",
    "restore",
    "recheck",
    "unavailable",
)

# isa of models.yaml -> inductor options. The march values are psABI levels; simdlen keeps
# inductor's own vector width to it.
ISA_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "native": {},
    "avx2": {"cpp.march": "x86-64-v3", "cpp.simdlen": 256},
    "avx512": {"cpp.march": "x86-64-v4", "cpp.simdlen": 512},
}


# Together with the arch. Kernels are tuned while torch compiles, by what it compiled for the GPU
# that is there: the other way, a first run of the whole model, would load what is for the arch
# asked for (triton_lazy_compile.py).
FATBIN_OPTIONS = {
    "aot_inductor.emit_multi_arch_kernel": True,
    "triton.autotune_at_compile_time": True,
}


@dataclass(frozen=True)
class Step:
    """A target, what to do about it (`action`) and why.

    `manifest` is the published artifact's, if it has a readable one; `stored` that of an artifact
    in the store which was made from exactly the present state.
    """

    target: Target
    action: str
    reasons: tuple[Reason, ...]
    manifest: Manifest | None = None
    stored: Manifest | None = None
    published: Published | None = None

    @property
    def unchecked(self) -> str | None:
        """Why the published artifact was never compared with eager; None if it was, or there is
        none."""
        return self.manifest.unchecked if self.manifest else None


@dataclass(frozen=True)
class Plan:
    """Steps in the order of models.yaml."""

    steps: tuple[Step, ...]

    @property
    def work(self) -> tuple[Step, ...]:
        return tuple(step for step in self.steps if step.action in (BUILD, RESTORE, RECHECK))


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
        kind = target.device, target.floor
        if kind not in facts:
            facts[kind] = digest_json(
                [FORMAT_VERSION, toolchain_parts(target)]
            )  # an older manifest is not read
        published = None
        if index is not None and not force and compatibility.cannot_build(target) is None:
            published = index.look_up(target.name, target.digest, facts[kind])
        if published is not None:
            steps.append(Step(target, UP_TO_DATE, (), published=published))
            continue
        step, record = _plan_recorded(project, target, digests, store, force=force)
        if (
            index is not None
            and step.action == UP_TO_DATE
            and step.unchecked is None
            and record is not None
        ):
            _note(project, index, digests, step, record, facts[kind])
        steps.append(step)
    return Plan(tuple(steps))


def probably_compiles(step: Step) -> bool:
    """Whether this step will end in a compile by the host's compiler, unless the store has its
    code. An artifact whose toolchain is the same probably gets it from there; a preset may name a
    compiler of its own."""
    if step.action != BUILD or has_own_compiler(step.target):
        return False
    kinds = {reason.reason for reason in step.reasons}
    return step.manifest is None or not kinds.isdisjoint(("toolchain-changed", "forced"))


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
    record = digests.digest(path) if (_size(path) or 0) <= RECORD_LIMIT else None
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
    if (size := _size(artifact_directory(project, step.target) / MANIFEST)) is not None:
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
            Reason("artifact-damaged", manifest.why) if manifest.damaged else Reason("no-artifact"),
        )
    if why := compatibility.cannot_build(target):
        return Step(target, UNAVAILABLE, (Reason("no-device", why), *reasons), known)
    if reasons:
        stored = None if force else find_stored(project, target, digests, store, now)
        return Step(target, RESTORE if stored else BUILD, reasons, known, stored)
    if known is None or now is None or is_settled(known, target):
        return Step(target, UP_TO_DATE, (), known)
    return _unsettled(project, target, known, now, digests, store)


def is_settled(manifest: Manifest, target: Target) -> bool:
    """Whether the artifact was compared with eager, by the tolerance that models.yaml has now."""
    return manifest.unchecked is None and manifest.check.get("tolerance") == tolerance(target)


def stale(step: Step) -> tuple[Reason, ...]:
    """Of a step's reasons, those by which the artifact is not what the sources say now: not that it
    could not be built here, nor that nobody has compared it."""
    if step.action == RECHECK:
        return ()
    return tuple(
        reason for reason in step.reasons if reason.reason not in ("no-device", "unchecked")
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
    if known.check.get("tolerance") != tolerance(target):
        changed = Reason(
            "spec-changed", "tolerance", known.check.get("tolerance"), tolerance(target)
        )
        return Step(target, RECHECK, (changed,), known)
    unchecked = Reason("unchecked", str(known.unchecked))
    if not compatibility.lacking_floor(known.requires):
        return Step(target, RECHECK, (unchecked,), known)
    stored = find_stored(
        project, target, digests, store, now
    )  # another host may have checked it since
    if stored is not None and is_settled(stored, target):
        return Step(target, RESTORE, (unchecked,), known, stored)
    return Step(target, UP_TO_DATE, (), known)


def find_stored(
    project: Project, target: Target, digests: StatCache, store: Store, now: Fingerprint | None
) -> Manifest | None:
    """An artifact in the store that was made from exactly what is here now, found without an
    export.

    One that used the same files as the published one, whose parts are these `now`, is found by its
    key, any other by looking at all of the same spec and toolchain.
    """
    if now is not None:
        named = store.trace(now.parts)
        if named is not None and not any(now.differences(named.source)) and store.has(named):
            return named
    for candidate in store.traces(current_parts(project, target, {}, digests).parts):
        by_its_files = current_parts(project, target, candidate.source, digests)
        if not any(by_its_files.differences(candidate.source)) and store.has(candidate):
            return candidate
    return None


def tolerance(target: Target) -> dict[str, Any]:
    """All that an artifact must fulfil: how near to eager it is, and how near to its baseline, if
    that has a limit."""
    baseline = target.model.baseline
    limit = {} if baseline is None or baseline.limit is None else {"baseline": baseline.limit}
    return {**asdict(target.model.tolerance), **limit}


def current_parts(
    project: Project, target: Target, recorded: Parts, digests: StatCache
) -> Fingerprint:
    """The parts of the source key as they are now; `recorded` names the discovered files and
    distributions to look at."""
    names = {**recorded.get("sources", {}), **dict.fromkeys(declared_files(target.model))}
    # Not with Path, which drops the slash that marks a directory.
    sources = {
        name: digests.digest(name if name.startswith("/") else f"{project.root}/{name}")
        for name in names
    }
    return Fingerprint(
        {
            "spec": spec_parts(target),
            "config": dict(target.inductor_config),
            "sources": sources,
            "distributions": {
                name: distributions.identity(name, digests)
                for name in recorded.get("distributions", {})
            },
            "modules": {
                name: distributions.installed_module(name) for name in recorded.get("modules", {})
            },
            "variables": variable_parts(recorded.get("variables", {}), os.environ),
            "weights": weight_parts(project, target, digests),
            **toolchain_parts(target),
        }
    )


def toolchain_parts(target: Target) -> dict[str, dict[str, str]]:
    """The groups `toolchain` and `environment` for a target on this host."""
    facts = {"recipe": f"{KEY_VERSION}.{toolchain.FACTS_VERSION}", **toolchain.facts(target.device)}
    # A CUDA target's host code is always compiled for this processor.
    if target.device == "cuda" or not target.has_floor:
        facts["cpu.features"] = " ".join(toolchain.cpu_features())
    if makes_fatbins(target):
        facts["fatbin"] = toolchain.fatbin_tool_version()
    return {"toolchain": facts, "environment": toolchain.environment()}


def floor_patches(target: Target) -> dict[str, Any]:
    """The inductor options by which a target is compiled for its floor; none if that is what
    inductor finds here."""
    if target.device == "cpu":
        return dict(ISA_OPTIONS[target.floor])
    if not makes_fatbins(target):
        return {}
    return {"cuda.arch": gpu_architectures.number_of(target.floor), **FATBIN_OPTIONS}


def makes_fatbins(target: Target) -> bool:
    """Whether kernels are packaged with machine code and PTX for the arch of models.yaml, so that
    later GPUs take them too. Of the GPU's own arch that is no gain from 9.0 on: torch compiles for
    the features of that one alone."""
    if target.device != "cuda" or not target.has_floor:
        return False
    if not toolchain.packages_for_other_gpus() or toolchain.fatbin_tool() is None:
        return False
    here = next(iter(toolchain.compute_capabilities()), "")
    wanted = gpu_architectures.capability_of(target.floor)
    return wanted != here or gpu_architectures.numbers(wanted) < gpu_architectures.OWN_FEATURES


def weight_parts(project: Project, target: Target, digests: StatCache) -> dict[str, str | None]:
    """The files of a target's weights, as models.yaml names them, with their digests."""
    weights = target.model.weights
    files = {} if weights is None else weights_files(weights, project.root)
    return {name: digests.digest(path) for name, path in files.items()}


def damage(directory: Path, manifest: Manifest, digests: StatCache) -> list[Reason]:
    """Files of an artifact that are not what its manifest says. One of another size is not read."""
    found = []
    for name, record in manifest.files.items():
        digest = digests.digest(directory / name, record.size)
        if digest != record.sha256:
            size = _size(directory / name) if digest is None else None
            now = digest if size is None else f"{size} bytes"
            found.append(Reason("artifact-damaged", name, record.sha256, now))
    return found


def _size(path: Path) -> int | None:
    """The bytes of a regular file; None if there is none."""
    try:
        key = stat_key(path)
    except OSError:
        return None
    return key[0] if key else None


def _reasons(
    target: Target,
    directory: Path,
    manifest: Manifest,
    now: Fingerprint,
    digests: StatCache,
    *,
    force: bool,
) -> list[Reason]:
    if manifest.target != target.name:
        return [
            Reason(
                "artifact-damaged",
                "manifest.json is another target's",
                manifest.target,
                target.name,
            )
        ]
    reasons = [Reason("forced")] if force else []
    reasons += now.differences(manifest.source)
    # Hashing a large artifact is the dearest part, and needless once it is to be replaced.
    return reasons or damage(directory, manifest, digests)
