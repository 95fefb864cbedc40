"""Building one target: a worker exports it, its keys decide between taking, repacking and
compiling, and another fresh process checks the package before it is published."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from aoti_build.artifact.fingerprint import Parts, spec_parts
from aoti_build.artifact.manifest import MODEL, Manifest
from aoti_build.artifact.manifest_types import (
    ImportRecord,
    Requires,
    SignatureRecord,
    WeightsRecord,
)
from aoti_build.artifact.paths import inductor_cache_root
from aoti_build.artifact.provenance import provenance
from aoti_build.artifact.reasons import Reason, ReasonKind
from aoti_build.common.digests import digest_file
from aoti_build.errors import BuildError, EditedMeanwhile, MessageError
from aoti_build.host import compatibility
from aoti_build.messages import Answer, BuildJob, BuildResult, Compile, Recorded, Repack
from aoti_build.models_file.project import Target
from aoti_build.models_file.records import target_to_json
from aoti_build.models_file.weights import weights_files
from aoti_build.planning.actions import Done
from aoti_build.planning.current_state import toolchain_parts, weight_parts
from aoti_build.planning.plan import Step
from aoti_build.work.check import CheckAhead, check_or_say, places
from aoti_build.work.context import BuildContext, Place
from aoti_build.work.crash import WorkerCrash
from aoti_build.work.gpu import gpu_code_of, gpu_environment
from aoti_build.work.instructions import Instructions
from aoti_build.work.opened import open_artifact
from aoti_build.work.reuse import ReuseDecision
from aoti_build.work.worker import OWN_VARIABLES, WORKER_VARIABLES, OnPhase, OnQuestion, run_worker


@dataclass(frozen=True)
class TargetBuilder:
    """Builds one target after another; the caller holds the target's lock. Raises the worker's
    errors and `BuildError`."""

    context: BuildContext

    def build(self, step: Step, *, from_nothing: bool = False) -> Manifest:
        """Export, then take, repack or compile as the keys allow; with `from_nothing` the store is
        not looked into."""
        started = time.perf_counter()
        target = step.target
        with contextlib.ExitStack() as resources:
            place = resources.enter_context(self.context.place(target))
            before = self._before(target)
            decision = ReuseDecision(
                self.context, target, place, resources, from_nothing=from_nothing
            )
            runs_here = not compatibility.lacking_architecture(
                compatibility.requirements(target.device, target.architecture)
            )
            checker = CheckAhead(self.context, place, resources, runs_here=runs_here)
            if _repack_is_likely(step) and not from_nothing:
                checker.start()
            with _explaining_crashes(target):
                made = self._work(target, place, before, decision.answer, checker.on_phase)
            instructions = resources.enter_context(
                Instructions(target, place, decision.known_instructions)
            )
            host_needs = compatibility.requirements(target.device, target.architecture)
            requires = cast("Requires", {**host_needs, **gpu_code_of(target, place)})
            if made.imports:
                requires["imports"] = cast("list[ImportRecord]", list(made.imports))
            check = decision.known_check(
                target, reference_data_kept=made.reference_data_kept
            ) or check_or_say(
                self.context, target, place, place.staged, requires, made.signature, checker.worker
            )
            manifest = Manifest(
                target=target.name,
                models_file=self.context.project.file.name,
                key=made.key,
                graph_key=made.graph_key,
                weights=_weights(made, decision),
                source=_source_parts(target, self.context.project.root, before, made),
                files={},
                requires={**requires, "instructions": instructions.result()},
                signature=cast("SignatureRecord", made.signature),
                check=check,
                action=_action(decision.chosen, step, made.graph_key),
                reasons=tuple(
                    reason.as_json() for reason in _explained(step, decision.chosen, made.graph_key)
                ),
                provenance=provenance(self.context.project.root),
            )
            seconds = {**made.seconds, "check": check["seconds"]}
            return self.context.publish(target, place, manifest, seconds, started)

    def recheck(self, step: Step) -> Manifest:
        """Check the published artifact and record that: the tolerance changed, or its host could
        not run it."""
        manifest, target = step.manifest, step.target
        if manifest is None:
            raise ValueError("only a published artifact can be checked again")
        with (
            self.context.place(target) as place,
            open_artifact(self.context.project, target) as artifact,
        ):
            needs, signature = manifest.requires, manifest.signature
            check = check_or_say(self.context, target, place, artifact.files, needs, signature)
            # Whoever copies artifacts by hand takes no lock.
            if artifact.manifest != manifest or not artifact.is_still_published():
                raise EditedMeanwhile(f"the artifact of {target.name}")
            renewed = replace(manifest, check=check)
            renewed.write(artifact.place)
            if manifest.unverified:
                self.context.store.put(renewed, artifact.files)
        return renewed

    def reproduce(self, step: Step) -> None:
        """Compile the published artifact's sources again from nothing; raise `BuildError` unless
        the bytes are the same."""
        published, target = step.manifest, step.target
        if published is None:
            raise BuildError("there is no artifact to reproduce", target=target.name)
        with self.context.place(target) as place:
            with contextlib.ExitStack() as resources:
                decision = ReuseDecision(self.context, target, place, resources, from_nothing=True)
                made = self._work(
                    target, place, self._before(target), decision.answer, from_nothing=True
                )
            digest = digest_file(place.staged / MODEL)
            if digest != published.files[MODEL].sha256:
                raise BuildError(
                    "building it again gave other bytes",
                    cause=(
                        f"{MODEL} was {published.files[MODEL].sha256[:12]}, is {digest[:12]}; "
                        f"key was {published.key[:12]}, is {made.key[:12]}"
                    ),
                    hint=(
                        "autotuning on a GPU and memory-mapped weights are not reproducible; use"
                        " a preset without max_autotune, and load weights without mmap"
                    ),
                    log=place.log,
                )

    def _work(
        self,
        target: Target,
        place: Place,
        before: Parts,
        answer: OnQuestion,
        also: OnPhase = lambda phase: None,
        *,
        from_nothing: bool = False,
    ) -> BuildResult:
        def on_phase(phase: str) -> None:
            self.context.on_progress(target, phase)
            also(phase)

        kernels = None if from_nothing else self.context.store.kernels(before)
        environment = gpu_environment(target, kernels)
        return run_worker(
            self._job(target, place, before, environment),
            directory=place.work / "build",
            log=place.log,
            on_phase=on_phase,
            answer=answer,
            environment=environment,
        )

    def _before(self, target: Target) -> Parts:
        """The parts of the source key that are known before the worker reports what it used."""
        return {
            **toolchain_parts(target),
            "weights": weight_parts(self.context.project, target, self.context.digests),
        }

    def _job(
        self, target: Target, place: Place, before: Parts, environment: Mapping[str, str]
    ) -> BuildJob:
        clock = place.work / "clock"
        clock.touch()
        now_ns = time.time_ns()
        replaced = (*WORKER_VARIABLES, *OWN_VARIABLES, *environment)
        return BuildJob(
            root=str(self.context.project.root),
            target_document=target_to_json(target),
            staged=str(place.staged),
            whole_reference_data=str(place.whole_reference_data),
            cache_root=str(inductor_cache_root()),
            architecture_options=target.compile_options,
            where=places(self.context.project, target),
            toolchain=before["toolchain"],
            environment=before["environment"],
            replaced_variables={name: os.environ.get(name) for name in replaced},
            skew_ns=clock.stat().st_mtime_ns - now_ns,
        )


@contextlib.contextmanager
def _explaining_crashes(target: Target) -> Iterator[None]:
    """Compiling needs no processor that can run the code; measuring it, as autotuning does, kills
    the worker."""
    try:
        yield
    except WorkerCrash as crash:
        lacks = compatibility.lacking_architecture(
            compatibility.requirements(target.device, target.architecture)
        )
        if crash.signal_name != "SIGILL" or target.hardware.has_kernels or not lacks:
            raise
        raise BuildError(
            f"this host cannot run code for isa {target.architecture}, which inductor ran while it"
            " compiled",
            target=target.name,
            cause="\n".join(lacks),
            hint=(
                "build it on a host that can, or with a preset that measures nothing (max_autotune)"
            ),
            log=crash.log,
        ) from crash


def _repack_is_likely(step: Step) -> bool:
    """The published code could take other weights, and code, options and toolchain seem to be the
    same."""
    apart = step.manifest is not None and bool(step.manifest.weights.get("external"))
    kinds = {reason.reason for reason in step.reasons}
    return (
        apart
        and not kinds & {ReasonKind.CONFIG_CHANGED, ReasonKind.TOOLCHAIN_CHANGED, ReasonKind.FORCED}
        and not kinds <= {ReasonKind.SOURCE_CHANGED}
    )


def _action(answer: Answer, step: Step, graph_key: str) -> Done:
    """The contract's word for what was done: weights-only when this target's own code was kept."""
    if isinstance(answer, Compile):
        return Done.COMPILED
    has_own_code = step.manifest is not None and step.manifest.graph_key == graph_key
    if isinstance(answer, Repack) and has_own_code:
        return Done.REPACKED
    return Done.REUSED


def _explained(step: Step, answer: Answer, graph_key: str) -> tuple[Reason, ...]:
    """The step's reasons, and why new weights needed a compile where only they are new."""
    old = step.manifest
    if not isinstance(answer, Compile) or old is None or old.weights["external"]:
        return step.reasons
    if old.graph_key == graph_key or {reason.reason for reason in step.reasons} == {
        ReasonKind.WEIGHTS_CHANGED
    }:
        return (*step.reasons, Reason(ReasonKind.WEIGHTS_IN_CODE, str(old.weights.get("why"))))
    return step.reasons


def _weights(made: BuildResult, decision: ReuseDecision) -> WeightsRecord:
    """Where the weights lie: as in the stored package, or as the compile found out."""
    if decision.weights is not None:
        return decision.weights
    if made.weights is None:
        raise MessageError("a worker compiled a graph and does not say where its weights lie")
    return cast("WeightsRecord", made.weights)


def _source_parts(
    target: Target, root: Path, before: Parts, made: BuildResult
) -> dict[str, Mapping[str, Any]]:
    return {
        "spec": spec_parts(target),
        "config": dict(target.inductor_config),
        "sources": _without_weights(made.sources, target, root),
        "distributions": made.distributions,
        "modules": made.modules,
        "variables": made.variables,
        **before,
    }


def _without_weights(sources: Recorded, target: Target, root: Path) -> Recorded:
    """The files that were read, without the target's weights, which are a group of their own. A
    link was noted under its own name, and under that of what it leads to."""
    weights = target.model.weights
    paths = set() if weights is None else set(weights_files(weights, root).values())
    names = {name for path in paths for name in (os.path.normpath(path), os.path.realpath(path))}
    roots = root, os.path.realpath(root)
    return {
        name: digest
        for name, digest in sources.items()
        if not any(os.path.join(above, name) in names for above in roots)
    }
