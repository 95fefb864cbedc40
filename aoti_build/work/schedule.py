"""Doing the work of a plan: a pool of threads, each following one target's worker processes under
the target's lock.

A no-op never imports this module.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from aoti_build.artifact.manifest import Manifest, read_manifest
from aoti_build.artifact.paths import artifact_directory, inductor_cache_root, lock_path
from aoti_build.artifact.reasons import Reason
from aoti_build.common.locks import lock
from aoti_build.common.publication import recover_directory
from aoti_build.common.resources import JOB_MEMORY, available_memory, usable_processors
from aoti_build.common.writing import disk_error
from aoti_build.errors import AotiBuildError, Interrupted
from aoti_build.models_file.project import Target
from aoti_build.planning.actions import Action, Done
from aoti_build.planning.plan import Step, plan_target
from aoti_build.work.context import BuildContext
from aoti_build.work.outcome import Outcome, outcome_of
from aoti_build.work.processes import allow_starts, check_stopping, stop_all
from aoti_build.work.restore import restore

if TYPE_CHECKING:
    from aoti_build.work.target import TargetBuilder


def default_jobs(work: int) -> int:
    """Workers at once: one for each processor that they may use, as long as each finds memory."""
    if work == 1:
        return 1
    return max(1, min(usable_processors(), available_memory() // JOB_MEMORY, work))


@dataclass
class Builder:
    """Does one step under its lock; planned again inside it, since another build may just have done
    the work."""

    context: BuildContext
    force: bool
    check_reproducible: bool

    def __call__(self, step: Step) -> Outcome:
        try:
            if step.target.hardware.builds_alone:
                # Two autotuning runs on one GPU measure each other, whichever process they are of.
                with lock(inductor_cache_root() / "gpu.lock", check_stopping):
                    return self._locked(step)
            return self._locked(step)
        except AotiBuildError as error:
            return self._failed(step, error)
        except OSError as error:
            return self._failed(step, disk_error(error))

    def progress(self, target: Target, text: str) -> None:
        self.context.on_progress(target, text)

    def _failed(self, step: Step, error: AotiBuildError) -> Outcome:
        """With what is published now: a step may fail after that, as when the outcome cannot be
        reproduced."""
        error.target = step.target.name
        found = read_manifest(artifact_directory(self.context.project, step.target))
        manifest = found if isinstance(found, Manifest) else None
        return outcome_of(step.target, Done.FAILED, step.reasons, manifest, error=error)

    def _locked(self, step: Step) -> Outcome:
        target, waited = step.target, False
        project, digests, store = self.context.project, self.context.digests, self.context.store

        def on_wait() -> None:
            nonlocal waited
            check_stopping()
            if not waited:
                self.progress(target, "waiting for another build of this target")
            waited = True

        with lock(lock_path(project, target), on_wait):
            recover_directory(artifact_directory(project, target))
            fresh = step
            # A second restore costs less than to look whether it is needed.
            if waited or step.action != Action.RESTORE:
                # What another build has just made is fresh enough even for --force.
                fresh = plan_target(
                    project, target, digests, store, force=self.force and not waited
                )
            outcome, manifest = self._act(fresh)
            if not self.check_reproducible:
                return outcome
            self._target_builder().reproduce(replace(fresh, manifest=manifest))
            return replace(outcome, action=Done.REPRODUCED)

    def _act(self, step: Step) -> tuple[Outcome, Manifest | None]:
        """Do what the step says; its outcome and the manifest that is published then."""
        if step.action == Action.UP_TO_DATE:
            return outcome_of(step.target, Done.UP_TO_DATE, (), step.manifest), step.manifest
        if step.action == Action.RECHECK:
            manifest = self._target_builder().recheck(step)
            return outcome_of(step.target, Done.RECHECKED, step.reasons, manifest), manifest
        restored = restore(self.context, step) if step.action == Action.RESTORE else None
        made = restored or self._target_builder().build(step, from_nothing=self.force)
        reasons = tuple(Reason(**reason) for reason in made.reasons)
        return outcome_of(step.target, Done(made.action), reasons, made, seconds=made.seconds), made

    def _target_builder(self) -> TargetBuilder:
        # Imported here because a restore needs nothing of it.
        from aoti_build.work.target import TargetBuilder

        return TargetBuilder(self.context)


def run_all(
    builder: Builder,
    steps: tuple[Step, ...],
    jobs: int,
    keep_going: bool,
    check_early: Callable[[], None],
) -> dict[str, Outcome]:
    """Outcomes by target name. `check_early` is called once the first steps are running; an
    exception that it raises ends them.

    Raises `Interrupted` on Ctrl-C, after every worker has ended.
    """
    outcomes: dict[str, Outcome] = {}
    waiting = list(steps)
    running: dict[Future[Outcome], Step] = {}
    allow_starts()
    with ThreadPoolExecutor(max_workers=jobs, thread_name_prefix="build") as pool:

        def start() -> None:
            while waiting and len(running) < jobs:
                step = waiting.pop(0)
                running[pool.submit(builder, step)] = step

        try:
            start()
            check_early()
            while running:
                done, _ = wait(running, timeout=1.0, return_when=FIRST_COMPLETED)
                for future in done:
                    outcome = future.result()
                    outcomes[running.pop(future).target.name] = outcome
                    builder.progress(outcome.target, outcome.action)
                    if outcome.action == Done.FAILED and not keep_going:
                        outcomes |= {
                            step.target.name: outcome_of(
                                step.target, Done.NOT_STARTED, step.reasons, step.manifest
                            )
                            for step in waiting
                        }
                        waiting.clear()
                start()
        except Exception:
            stop_all()
            raise
        except KeyboardInterrupt:
            stop_all()
            raise Interrupted(
                "interrupted: every worker has ended, published artifacts are as they were"
            ) from None
    return outcomes
