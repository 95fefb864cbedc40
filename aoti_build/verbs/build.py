"""`build`: bring every target's artifact up to what the sources say, in worker processes, publishing only what was
checked."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from typing import Any

from aoti_build.errors import BUILD_FAILED, OK, AotiBuildError, BuildError
from aoti_build.files import lock, recover_directory
from aoti_build.fingerprint import Reason
from aoti_build.index import Index, Published
from aoti_build.layout import artifact_directory, index_path, lock_path, stat_cache_path, store_root
from aoti_build.manifest import MODEL, Manifest
from aoti_build.plan import RECHECK, RESTORE, UNAVAILABLE, UP_TO_DATE, Plan, Step, make_plan, plan_target
from aoti_build.spec.project import Project, Target
from aoti_build.stat_cache import StatCache
from aoti_build.store import Store
from aoti_build.target_build import TargetBuilder
from aoti_build.worker import Interrupted, allow_starts, check_stopping, stop_all

FAILED, NOT_STARTED, RECHECKED, REPRODUCED = "failed", "not-started", "rechecked", "reproduced"
_GIB = 1 << 30
_JOB_MEMORY = 3 * _GIB  # a worker with torch, an export and one C++ compiler; resnet18 peaks near 2 GiB

OnProgress = Callable[[Target, str], None]


@dataclass(frozen=True)
class Outcome:
    """What became of one target. `action` is of docs/formats.md; `seconds` are wall times by phase."""

    target: Target
    action: str
    reasons: tuple[Reason, ...] = ()
    published: Published | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    error: AotiBuildError | None = None


@dataclass(frozen=True)
class BuildReport:
    """Outcomes in the order of models.yaml."""

    project: Project
    outcomes: tuple[Outcome, ...]

    @property
    def exit_code(self) -> int:
        """0 if nothing failed; 1 if any build failed; else the first error's (2 where models.yaml's contents are
        wrong)."""
        codes = [outcome.error.exit_code for outcome in self.outcomes if outcome.error is not None]
        return BUILD_FAILED if BUILD_FAILED in codes else codes[0] if codes else OK

    def as_json(self) -> dict[str, Any]:
        return {
            "format": "aoti-build/build",
            "format_version": 1,
            "ok": self.exit_code == OK,
            "targets": [self._outcome_json(outcome) for outcome in self.outcomes],
        }

    def _outcome_json(self, outcome: Outcome) -> dict[str, Any]:
        directory = artifact_directory(self.project, outcome.target).relative_to(self.project.root)
        published = outcome.published
        return {
            "target": outcome.target.name,
            "action": outcome.action,
            "reasons": [reason.as_json() for reason in outcome.reasons],
            "artifact": (directory / MODEL).as_posix() if published else None,
            "key": published.key if published else None,
            "seconds": {name: outcome.seconds.get(name) for name in ("total", "export", "compile", "check")},
            "error": outcome.error.as_json() if outcome.error else None,
        }


@dataclass(frozen=True)
class PlanReport:
    """A plan as a report, for --dry-run."""

    plan: Plan

    def as_json(self) -> dict[str, Any]:
        targets = [
            {
                "target": step.target.name,
                "action": step.action,
                "reasons": [reason.as_json() for reason in step.reasons],
            }
            for step in self.plan.steps
        ]
        return {"format": "aoti-build/plan", "format_version": 1, "ok": True, "targets": targets}


def plan(project: Project, targets: tuple[Target, ...], *, force: bool = False, quick: bool = True) -> Plan:
    """The plan that `build` would act on. Without `quick` every step has its manifest, for reports that show it."""
    digests = StatCache(stat_cache_path(project))
    index = Index(index_path(project), project.root, digests) if quick else None
    made = make_plan(project, targets, digests, Store(store_root(project)), force=force, index=index)
    digests.save()
    if index is not None:
        index.save()
    return made


def build(
    project: Project,
    targets: tuple[Target, ...],
    *,
    jobs: int | None = None,
    force: bool = False,
    keep_going: bool = False,
    strict: bool = False,
    check_reproducible: bool = False,
    on_progress: OnProgress = lambda target, phase: None,
) -> BuildReport:
    """Build `targets`; up to `jobs` at once (None: as cores and memory allow).

    After a failure no further target is started unless `keep_going`. With `strict` an unavailable device is a failure.
    With `check_reproducible` every target is compiled once more from nothing and compared, byte by byte.
    Raises `Interrupted` on Ctrl-C, after every worker has ended.
    """
    digests = StatCache(stat_cache_path(project))
    store = Store(store_root(project))
    index = Index(index_path(project), project.root, digests)
    steps = make_plan(project, targets, digests, store, force=force, index=index)
    builder = _Builder(TargetBuilder(project, digests, store, on_progress), force, check_reproducible)
    work = tuple(step for step in steps.steps if check_reproducible and step.action == UP_TO_DATE) + steps.work
    outcomes = {step.target.name: _settled(step, strict) for step in steps.steps if step not in work}
    if work:
        outcomes |= _run_all(builder, work, jobs or default_jobs(len(work)), keep_going)
    digests.save()
    index.save()
    return BuildReport(project, tuple(outcomes[step.target.name] for step in steps.steps))


def default_jobs(work: int) -> int:
    """Workers at once: one a core, as long as each finds memory."""
    return max(1, min(os.cpu_count() or 1, _available_memory() // _JOB_MEMORY, work))


@dataclass
class _Builder:
    """Does one step under its lock; planned again inside it, since another build may just have done the work."""

    targets: TargetBuilder
    force: bool
    check_reproducible: bool
    gpu: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, step: Step) -> Outcome:
        try:
            if step.target.device == "cuda":
                with self.gpu:  # two autotuning runs on one GPU measure each other
                    return self._locked(step)
            return self._locked(step)
        except AotiBuildError as error:
            error.target = step.target.name
            return Outcome(step.target, FAILED, step.reasons, _published(step.manifest), error=error)
        except OSError as error:
            failure = BuildError("the disk refused", target=step.target.name, cause=str(error))
            return Outcome(step.target, FAILED, step.reasons, _published(step.manifest), error=failure)

    def progress(self, target: Target, text: str) -> None:
        self.targets.on_progress(target, text)

    def _locked(self, step: Step) -> Outcome:
        target, waited = step.target, False
        project, digests, store = self.targets.project, self.targets.digests, self.targets.store

        def on_wait() -> None:
            nonlocal waited
            check_stopping()
            if not waited:
                self.progress(target, "waiting for another build of this target")
            waited = True

        with lock(lock_path(project, target), on_wait):
            recover_directory(artifact_directory(project, target))
            # What another build has just made is fresh enough even for --force.
            fresh = plan_target(project, target, digests, store, force=self.force and not waited)
            outcome, manifest = self._act(fresh)
            if not self.check_reproducible:
                return outcome
            self.targets.reproduce(replace(fresh, manifest=manifest))
            return replace(outcome, action=REPRODUCED)

    def _act(self, step: Step) -> tuple[Outcome, Manifest | None]:
        """Do what the step says; its outcome and the manifest that is published then."""
        if step.action == UP_TO_DATE:
            return Outcome(step.target, UP_TO_DATE, (), _published(step.manifest)), step.manifest
        if step.action == RECHECK:
            manifest = self.targets.recheck(step)
            return Outcome(step.target, RECHECKED, step.reasons, _published(manifest)), manifest
        restored = self.targets.restore(step) if step.action == RESTORE else None
        made = restored or self.targets.build(step, from_nothing=self.force)
        reasons = tuple(Reason(**reason) for reason in made.reasons)
        return Outcome(step.target, made.action, reasons, _published(made), made.seconds), made


def _run_all(builder: _Builder, steps: tuple[Step, ...], jobs: int, keep_going: bool) -> dict[str, Outcome]:
    outcomes: dict[str, Outcome] = {}
    waiting = list(steps)
    running: dict[Future[Outcome], Step] = {}
    allow_starts()
    with ThreadPoolExecutor(max_workers=jobs, thread_name_prefix="build") as pool:
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    step = waiting.pop(0)
                    running[pool.submit(builder, step)] = step
                done, _ = wait(running, timeout=1.0, return_when=FIRST_COMPLETED)
                for future in done:
                    outcome = future.result()
                    outcomes[running.pop(future).target.name] = outcome
                    builder.progress(outcome.target, outcome.action)
                    if outcome.action == FAILED and not keep_going:
                        outcomes |= {
                            step.target.name: Outcome(step.target, NOT_STARTED, step.reasons) for step in waiting
                        }
                        waiting.clear()
        except KeyboardInterrupt:
            stop_all()
            raise Interrupted("interrupted: every worker has ended, published artifacts are as they were") from None
    return outcomes


def _settled(step: Step, strict: bool) -> Outcome:
    """The outcome of a step that needs no work."""
    error = None
    if step.action == UNAVAILABLE and strict:
        error = BuildError(
            f"this host has no {step.target.device} device",
            target=step.target.name,
            hint="build it on a host that has one, or leave --strict away",
        )
    return Outcome(step.target, step.action, step.reasons, step.published or _published(step.manifest), error=error)


def _published(manifest: Manifest | None) -> Published | None:
    return Published(manifest.key, manifest.files[MODEL].size) if manifest else None


def _available_memory() -> int:
    """Bytes that new processes can have; everything physical where the system does not tell."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
