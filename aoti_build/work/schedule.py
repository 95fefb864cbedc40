"""Executes a plan with a pool of threads.

Each thread does one step under its target's lock and follows the workers of that step. A build with
nothing to do does not import this module.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
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
from aoti_build.work.processes import allow_starts, stop_all
from aoti_build.work.restore import restore

if TYPE_CHECKING:
    from aoti_build.work.target import TargetBuilder


def default_jobs(steps: int) -> int:
    """How many steps to do at once: as many as processors and memory allow, and at least one."""
    if steps == 1:
        return 1
    return max(1, min(usable_processors(), available_memory() // JOB_MEMORY, steps))


@dataclass
class Builder:
    """Does one step under its target's lock, and returns the outcome.

    `force` ignores the published artifact and the store. With `check_reproducible`, each target is
    compiled once more and compared.
    """

    context: BuildContext
    force: bool
    check_reproducible: bool

    def __call__(self, step: Step) -> Outcome:
        """If the step fails, the outcome has the error."""
        self.context.watcher.started(step.target)
        try:
            if not step.target.hardware.builds_alone:
                return self._do_locked(step)
            with contextlib.ExitStack() as stack:
                # Two autotuning runs on one GPU would measure each other, also those of two builds.
                gpu = inductor_cache_root() / "gpu.lock"
                self._enter_lock(stack, step.target, gpu, "waiting for the GPU")
                return self._do_locked(step)
        except AotiBuildError as error:
            return self._failure(step, error)
        except OSError as error:
            return self._failure(step, disk_error(error))

    def _failure(self, step: Step, error: AotiBuildError) -> Outcome:
        """The outcome of a failed step, with what is published now.

        A step may publish before it fails. This happens if the artifact cannot be reproduced.
        """
        error.target = step.target.name
        manifest = read_manifest(artifact_directory(self.context.project, step.target))
        return outcome_of(
            step.target,
            Done.FAILED,
            step.reasons,
            manifest if isinstance(manifest, Manifest) else None,
            error=error,
        )

    def _do_locked(self, step: Step) -> Outcome:
        project, target = self.context.project, step.target
        with contextlib.ExitStack() as stack:
            what = "waiting for another build of this target"
            waited = self._enter_lock(stack, target, lock_path(project, target), what)
            # A build that was killed may have left the artifact under another name.
            recover_directory(artifact_directory(project, target))
            current_step = self._plan_again(step, waited=waited)
            outcome, manifest = self._do(current_step)
            if not self.check_reproducible:
                return outcome
            self._target_builder().reproduce(replace(current_step, manifest=manifest))
            return replace(outcome, action=Done.REPRODUCED)

    def _enter_lock(
        self, stack: contextlib.ExitStack, target: Target, path: Path, what: str
    ) -> bool:
        """Hold a lock until the stack is closed. Returns whether it had to be waited for, which is
        reported as the phase `what`."""
        with self.context.waiting(target, what) as wait:
            stack.enter_context(lock(path, wait))
        if wait.happened:
            self.context.watcher.resumed(target)
        return wait.happened

    def _plan_again(self, step: Step, *, waited: bool) -> Step:
        """The step as planned under the lock. Another build may have done the work since the plan
        was made."""
        # A second restore costs less than a second plan.
        if step.action == Action.RESTORE and not waited:
            return step
        # The artifact of a build that held the lock is new, so it is enough for --force.
        force = self.force and not waited
        context = self.context
        return plan_target(
            context.project,
            step.target,
            context.digests,
            context.store,
            force=force,
        )

    def _do(self, step: Step) -> tuple[Outcome, Manifest | None]:
        """Do the action of a step. Returns the outcome, and the manifest that is published then."""
        target = step.target
        if step.action == Action.UP_TO_DATE:
            return outcome_of(target, Done.UP_TO_DATE, (), step.manifest), step.manifest
        if step.action == Action.RECHECK:
            manifest = self._target_builder().recheck(step)
            return outcome_of(target, Done.RECHECKED, step.reasons, manifest), manifest
        manifest = self._restore_or_build(step)
        outcome = outcome_of(
            target,
            Done(manifest.action),
            tuple(Reason(**reason) for reason in manifest.reasons),
            manifest,
            seconds=manifest.seconds,
        )
        return outcome, manifest

    def _restore_or_build(self, step: Step) -> Manifest:
        if step.action == Action.RESTORE:
            restored = restore(self.context, step)
            if restored is not None:
                return restored
        return self._target_builder().build(step, from_nothing=self.force)

    def _target_builder(self) -> TargetBuilder:
        # Imported here because a restore needs none of it.
        from aoti_build.work.target import TargetBuilder

        return TargetBuilder(self.context)


def run_all(
    builder: Builder,
    steps: tuple[Step, ...],
    jobs: int,
    keep_going: bool,
    check_early: Callable[[], None],
) -> dict[str, Outcome]:
    """Do all steps, up to `jobs` at once, and return the outcomes by target name.

    After a failure no further step is started unless `keep_going`. `check_early` is called when the
    first steps are running. If it raises an exception, all workers are ended.

    Raises `Interrupted` on Ctrl-C, after every worker has ended.
    """
    # An earlier command of this Python process may have been interrupted.
    allow_starts()
    with ThreadPoolExecutor(max_workers=jobs, thread_name_prefix="build") as pool:
        try:
            return _Run(builder, pool, list(steps), jobs, keep_going).finish(check_early)
        except Exception:
            # The pool waits for its threads, and they wait for their workers.
            stop_all()
            raise
        except KeyboardInterrupt:
            stop_all()
            raise Interrupted(
                "interrupted: every worker has ended, and published artifacts are unchanged"
            ) from None


class _Run:
    """The steps that wait and those that run."""

    def __init__(
        self,
        builder: Builder,
        pool: ThreadPoolExecutor,
        waiting: list[Step],
        jobs: int,
        keep_going: bool,
    ) -> None:
        self._builder = builder
        self._pool = pool
        self._waiting = waiting
        self._jobs = jobs
        self._keep_going = keep_going
        self._running: dict[Future[Outcome], Step] = {}
        self._outcomes: dict[str, Outcome] = {}

    def finish(self, check_early: Callable[[], None]) -> dict[str, Outcome]:
        self._start_steps()
        check_early()
        while self._running:
            done, _ = wait(self._running, timeout=1.0, return_when=FIRST_COMPLETED)
            for future in done:
                step = self._running.pop(future)
                self._record(step, future.result())
            self._start_steps()
        return self._outcomes

    def _start_steps(self) -> None:
        while self._waiting and len(self._running) < self._jobs:
            step = self._waiting.pop(0)
            self._running[self._pool.submit(self._builder, step)] = step

    def _record(self, step: Step, outcome: Outcome) -> None:
        self._outcomes[step.target.name] = outcome
        self._builder.context.watcher.ended(outcome)
        if outcome.action == Done.FAILED and not self._keep_going:
            self._cancel_waiting()

    def _cancel_waiting(self) -> None:
        for step in self._waiting:
            self._outcomes[step.target.name] = outcome_of(
                step.target,
                Done.NOT_STARTED,
                step.reasons,
                step.manifest,
            )
        self._waiting.clear()
