"""`build`: bring every target's artifact up to what the sources say, in worker processes,
publishing only what was checked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from aoti_build.artifact.manifest import MODEL
from aoti_build.artifact.paths import artifact_directory, index_path, stat_cache_path
from aoti_build.common.json_object import JsonObject
from aoti_build.common.stat_cache import StatCache
from aoti_build.errors import BuildError, ExitCode
from aoti_build.models_file.project import Project, Target
from aoti_build.planning.actions import Action, Done
from aoti_build.planning.index import Index
from aoti_build.planning.plan import (
    Plan,
    Step,
    make_plan,
)
from aoti_build.store.selection import open_store
from aoti_build.work.outcome import Outcome, outcome_of

OnProgress = Callable[[Target, str], None]


@dataclass(frozen=True)
class BuildReport:
    """Outcomes in the order of models.yaml."""

    project: Project
    outcomes: tuple[Outcome, ...]

    @property
    def exit_code(self) -> int:
        """0 if nothing failed; 1 if any build failed; else the first error's (2 where models.yaml's
        contents are wrong)."""
        codes = [outcome.error.exit_code for outcome in self.outcomes if outcome.error is not None]
        if ExitCode.BUILD_FAILED in codes:
            return ExitCode.BUILD_FAILED
        return codes[0] if codes else ExitCode.OK

    def as_json(self) -> JsonObject:
        return {
            "format": "aoti-build/build",
            "format_version": 2,
            "ok": self.exit_code == ExitCode.OK,
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
            "seconds": {
                name: outcome.seconds.get(name) for name in ("total", "export", "compile", "check")
            },
            "baseline": [dict(loss) for loss in outcome.baseline],
            "unverified": outcome.unverified,
            "error": outcome.error.as_json() if outcome.error else None,
        }


@dataclass(frozen=True)
class PlanReport:
    """A plan as a report, for --dry-run."""

    plan: Plan

    def as_json(self) -> JsonObject:
        targets = [
            {
                "target": step.target.name,
                "action": step.action,
                "reasons": [reason.as_json() for reason in step.reasons],
                "unverified": step.unverified,
            }
            for step in self.plan.steps
        ]
        return {"format": "aoti-build/plan", "format_version": 2, "ok": True, "targets": targets}


def plan(
    project: Project, targets: tuple[Target, ...], *, force: bool = False, quick: bool = True
) -> Plan:
    """The plan that `build` would act on. Without `quick` every step has its manifest, for reports
    that show it."""
    digests = StatCache(stat_cache_path(project))
    index = Index(index_path(project), project.root, digests) if quick else None
    made = make_plan(
        project, targets, digests, open_store(project.artifacts), force=force, index=index
    )
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

    After a failure no further target is started unless `keep_going`. With `strict` an unavailable
    device is a failure, and so is an artifact that could not be compared with eager; it is
    published all the same. With `check_reproducible` every target is compiled once more from
    nothing and compared, byte by byte. Raises `ToolchainError` if a compile is needed for certain
    and sure to fail here, and `Interrupted` on Ctrl-C, both after every worker has ended.
    """
    digests = StatCache(stat_cache_path(project))
    store = open_store(project.artifacts)
    index = Index(index_path(project), project.root, digests)
    steps = make_plan(project, targets, digests, store, force=force, index=index)
    work = steps.work
    if check_reproducible:
        unchanged = (step for step in steps.steps if step.action == Action.UP_TO_DATE)
        work = (*unchanged, *work)
    outcomes = {step.target.name: _settled(step) for step in steps.steps if step not in work}
    if work:
        # Imported here because a no-op needs none of it.
        from aoti_build.work.context import BuildContext
        from aoti_build.work.preflight import Preflight
        from aoti_build.work.schedule import Builder, default_jobs, run_all

        preflight = Preflight(project, work, on_progress)
        context = BuildContext(project, digests, store, on_progress, preflight)
        builder = Builder(context, force, check_reproducible)
        check_early = partial(preflight.check_early, certain=lambda: force or store.is_empty())
        outcomes |= run_all(builder, work, jobs or default_jobs(len(work)), keep_going, check_early)
    digests.save()
    index.save()
    found = (outcomes[step.target.name] for step in steps.steps)
    return BuildReport(project, tuple(map(_strictly, found) if strict else found))


def _settled(step: Step) -> Outcome:
    """The outcome of a step that needs no work."""
    if step.published is not None:  # the index knew it, and no manifest was read
        return Outcome(step.target, Done(step.action), step.reasons, step.published)
    return outcome_of(step.target, Done(step.action), step.reasons, step.manifest)


def _strictly(outcome: Outcome) -> Outcome:
    """What is missing here, device or check, counts as an error."""
    target = outcome.target
    if outcome.error is not None:
        return outcome
    if outcome.action == Done.UNAVAILABLE:
        lacks = outcome.reasons[0].what
        error = BuildError(
            (
                f"this host has no {target.device} device"
                if lacks == target.device
                else "it cannot be built on this host"
            ),
            target=target.name,
            cause=None if lacks == target.device else lacks,
            hint="build it on a host that has one, or leave --strict away",
        )
        return replace(outcome, error=error)
    if outcome.unverified is None:
        return outcome
    error = BuildError(
        "the artifact is published, but was never compared with eager",
        target=target.name,
        cause=outcome.unverified,
        hint=(
            f"`invoke verify --target {target.name}` on a host that can run it settles that; or"
            " leave --strict away"
        ),
    )
    return replace(outcome, error=error)
