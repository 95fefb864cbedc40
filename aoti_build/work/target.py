"""Builds one target, from its export to its publication."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import cast

from aoti_build.artifact.fingerprint import Parts
from aoti_build.artifact.manifest import MODEL, Manifest
from aoti_build.artifact.manifest_types import Requires
from aoti_build.artifact.paths import inductor_cache_root
from aoti_build.artifact.reasons import ReasonKind
from aoti_build.common.digests import digest_file
from aoti_build.errors import BuildError, EditedMeanwhile
from aoti_build.host import compatibility
from aoti_build.messages import BuildJob, BuildResult
from aoti_build.models_file.project import Target
from aoti_build.models_file.records import target_to_json
from aoti_build.planning.current_state import toolchain_parts, weight_parts
from aoti_build.planning.plan import Step
from aoti_build.work.build_record import built_manifest
from aoti_build.work.check import Checker, missing_architecture
from aoti_build.work.context import BuildContext, Staging
from aoti_build.work.crash import WorkerCrash
from aoti_build.work.gpu import gpu_code_of, gpu_environment
from aoti_build.work.instructions import Instructions
from aoti_build.work.opened import open_artifact
from aoti_build.work.reuse import ReuseDecision
from aoti_build.work.worker import (
    JOB_VARIABLES,
    WORKER_VARIABLES,
    OnPhase,
    OnQuestion,
    ignore_phase,
    run_worker,
    yaml_positions,
)


@dataclass(frozen=True)
class TargetBuilder:
    """Builds, rechecks and reproduces targets. The caller holds the target's lock.

    All methods raise `BuildError`, and the errors of workers.
    """

    context: BuildContext

    def build(self, step: Step, *, from_nothing: bool = False) -> Manifest:
        """Export the target, then reuse, repack or compile its package. Check and publish it.

        With `from_nothing`, no artifact is looked up in the store.
        """
        started = time.perf_counter()
        target = step.target
        with contextlib.ExitStack() as resources:
            staging = resources.enter_context(self.context.stage(target))
            # Read before the worker starts. An input that is edited during the build then differs
            # when it is compared before the publication.
            early_parts = self._early_parts(target)
            decision = ReuseDecision(
                self.context,
                target,
                staging,
                resources,
                from_nothing=from_nothing,
            )
            checker = resources.enter_context(Checker(self.context, target, staging))
            if _repack_is_likely(step) and not from_nothing:
                checker.start_worker()
            with _explain_illegal_instruction(target):
                result = self._run_build_job(
                    target,
                    staging,
                    early_parts,
                    decision.answer,
                    checker.on_phase,
                )
            # A thread reads the code while the package is checked. If the check fails because of
            # an instruction, leaving this context replaces the error with one that says so.
            instructions = resources.enter_context(
                Instructions(target, staging, decision.known_instructions)
            )
            requires = _requirements(target, staging, result)
            check = decision.valid_check(reference_data_kept=result.reference_data_kept)
            if check is None:
                check = checker.check(
                    staging.artifact,
                    requires,
                    result.signature,
                    eager_seconds=result.eager_seconds,
                )
            manifest = built_manifest(
                self.context.project,
                step,
                result,
                decision,
                early_parts=early_parts,
                requires={**requires, "instructions": instructions.result()},
                check=check,
            )
            seconds = {**result.seconds, "check": check["seconds"]}
            return self.context.publish(target, staging, manifest, seconds, started)

    def recheck(self, step: Step) -> Manifest:
        """Check the published artifact again and write the result into its manifest.

        This is for an artifact with another tolerance, or one that its building host could not run.
        Raises `EditedMeanwhile` if the artifact was exchanged during the check.
        """
        manifest, target = step.manifest, step.target
        if manifest is None:
            raise ValueError("only a published artifact can be checked again")
        with (
            self.context.stage(target) as staging,
            open_artifact(self.context.project, target) as artifact,
        ):
            checker = Checker(self.context, target, staging)
            check = checker.check(artifact.files, manifest.requires, manifest.signature)
            # A user who copies artifacts by hand takes no lock.
            if artifact.manifest != manifest or not artifact.is_still_published():
                raise EditedMeanwhile(f"the artifact of {target.name}")
            renewed = replace(manifest, check=check)
            renewed.write(artifact.opened)
            if manifest.unverified:
                # Other checkouts that restore it need not check it again.
                self.context.store.put(renewed, artifact.files)
        return renewed

    def reproduce(self, step: Step) -> None:
        """Compile the target once more, without the store, and compare the package's bytes with the
        published ones.

        Raises `BuildError` if they differ, or if no artifact is published.
        """
        published, target = step.manifest, step.target
        if published is None:
            raise BuildError("there is no artifact to reproduce", target=target.name)
        with contextlib.ExitStack() as resources:
            staging = resources.enter_context(self.context.stage(target))
            decision = ReuseDecision(self.context, target, staging, resources, from_nothing=True)
            result = self._run_build_job(
                target,
                staging,
                self._early_parts(target),
                decision.answer,
                use_stored_kernels=False,
            )
            digest = digest_file(staging.artifact / MODEL)
            if digest != published.files[MODEL].sha256:
                raise _reproduction_error(published, digest, result.key, staging)

    def _run_build_job(
        self,
        target: Target,
        staging: Staging,
        early_parts: Parts,
        answer: OnQuestion,
        on_phase: OnPhase = ignore_phase,
        *,
        use_stored_kernels: bool = True,
    ) -> BuildResult:
        """Run the worker that makes the package in the staging directory.

        Phases are reported as progress, and then to `on_phase`.
        """

        def report_phase(phase: str) -> None:
            self.context.watcher.phase(target, phase)
            on_phase(phase)

        kernels = self.context.store.kernels(early_parts) if use_stored_kernels else None
        environment = gpu_environment(target, kernels)
        return run_worker(
            self._build_job(target, staging, early_parts, environment),
            directory=staging.directory / "build",
            log=staging.log,
            on_phase=report_phase,
            answer=answer,
            on_detail=self.context.details_of(target),
            environment=environment,
        )

    def _build_job(
        self,
        target: Target,
        staging: Staging,
        early_parts: Parts,
        environment: Mapping[str, str],
    ) -> BuildJob:
        replaced = (*WORKER_VARIABLES, *JOB_VARIABLES, *environment)
        return BuildJob(
            root=str(self.context.project.root),
            python_path=self.context.project.import_directories,
            artifacts=str(self.context.project.main_artifacts),
            target_document=target_to_json(target),
            staged=str(staging.artifact),
            whole_reference_data=str(staging.whole_reference_data),
            cache_root=str(inductor_cache_root()),
            architecture_options=target.compile_options,
            where=yaml_positions(self.context.project, target),
            toolchain=early_parts["toolchain"],
            environment=early_parts["environment"],
            replaced_variables={name: os.environ.get(name) for name in replaced},
            skew_ns=_clock_skew(staging),
        )

    def _early_parts(self, target: Target) -> Parts:
        """The parts of the source key that are known before the worker reports what it used."""
        weights = weight_parts(self.context.project, target, self.context.digests)
        return {**toolchain_parts(target), "weights": weights}


def _clock_skew(staging: Staging) -> int:
    """Nanoseconds that the file system's clock is ahead of this host's, as on a network drive."""
    file = staging.directory / "clock"
    file.touch()
    now_ns = time.time_ns()
    return file.stat().st_mtime_ns - now_ns


def _requirements(target: Target, staging: Staging, result: BuildResult) -> Requires:
    """What a host must have to run the staged package, for the manifest."""
    host = compatibility.this_host(target.device)
    requires = compatibility.requirements(target.device, target.architecture, host)
    requires.update(gpu_code_of(target, staging))
    if result.imports:
        requires["imports"] = list(result.imports)
    return cast("Requires", requires)


@contextlib.contextmanager
def _explain_illegal_instruction(target: Target) -> Iterator[None]:
    """Explain a worker that died because it ran code for an architecture that this host lacks.

    A host can compile such code. But autotuning measures it, and so has to run it.
    """
    try:
        yield
    except WorkerCrash as crash:
        missing = missing_architecture(target)
        if crash.signal_name != "SIGILL" or target.hardware.has_kernels or not missing:
            raise
        raise BuildError(
            f"this host cannot run code for isa {target.architecture}, which inductor ran while it"
            " compiled",
            target=target.name,
            cause="\n".join(missing),
            hint=(
                "build it on a host with this architecture, or with a preset that measures no code"
                " (without max_autotune)"
            ),
            log=crash.log,
        ) from crash


def _repack_is_likely(step: Step) -> bool:
    """Whether probably only weights have to be replaced.

    That is so if the published code can take other weights, and nothing that is known without an
    export requires other code.
    """
    published = step.manifest
    if published is None or not published.weights.get("external"):
        return False
    kinds = {reason.reason for reason in step.reasons}
    if kinds & {ReasonKind.CONFIG_CHANGED, ReasonKind.TOOLCHAIN_CHANGED, ReasonKind.FORCED}:
        return False
    # An edited source alone mostly leads to the same package or to another graph.
    return not kinds <= {ReasonKind.SOURCE_CHANGED}


def _reproduction_error(published: Manifest, digest: str, key: str, staging: Staging) -> BuildError:
    old_digest = published.files[MODEL].sha256
    return BuildError(
        "building it again gave other bytes",
        cause=(
            f"{MODEL} was {old_digest[:12]}, is {digest[:12]}; "
            f"key was {published.key[:12]}, is {key[:12]}"
        ),
        hint=(
            "autotuning on a GPU and memory-mapped weights are not reproducible; use a preset"
            " without max_autotune, and load weights without mmap"
        ),
        log=staging.log,
    )
