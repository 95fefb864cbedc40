"""`build`: brings the artifact of every target up to date with its sources.

Worker processes do the work. An artifact is published only after it was checked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from aoti_build.artifact.manifest import MODEL
from aoti_build.artifact.paths import (
    artifact_directory,
    index_path,
    make_artifacts,
    stat_cache_path,
)
from aoti_build.commands.json_values import json_list, json_or_none
from aoti_build.common.json_object import JsonObject
from aoti_build.common.stat_cache import StatCache
from aoti_build.errors import BuildError, ExitCode
from aoti_build.models_file.project import Project, Target
from aoti_build.models_file.tuned import missing_entries
from aoti_build.planning.actions import Action, Done
from aoti_build.planning.index import Index
from aoti_build.planning.plan import Plan, Step, make_plan
from aoti_build.store.selection import open_store
from aoti_build.work.outcome import Outcome, outcome_of

OnProgress = Callable[[Target, str], None]
# The phases whose times a report has.
_PHASES = ("total", "export", "compile", "check")


@dataclass(frozen=True)
class BuildReport:
    """The outcomes in the order of models.yaml."""

    project: Project
    outcomes: tuple[Outcome, ...]

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences about targets for which tuned.yaml has no entry for this host."""
        return missing_entries(self.project, [outcome.target for outcome in self.outcomes])

    @property
    def exit_code(self) -> int:
        """0 if nothing failed, 1 if any build failed, else the code of the first error.

        That is 2 if the contents of models.yaml are wrong.
        """
        codes = [outcome.error.exit_code for outcome in self.outcomes if outcome.error is not None]
        if not codes:
            return ExitCode.OK
        # A build that failed matters more than an error in models.yaml.
        if ExitCode.BUILD_FAILED in codes:
            return ExitCode.BUILD_FAILED
        return codes[0]

    def as_json(self) -> JsonObject:
        return {
            "format": "aoti-build/build",
            "format_version": 2,
            "ok": self.exit_code == ExitCode.OK,
            "targets": [self._outcome_json(outcome) for outcome in self.outcomes],
            "notes": list(self.notes),
        }

    def _outcome_json(self, outcome: Outcome) -> JsonObject:
        package = artifact_directory(self.project, outcome.target) / MODEL
        published = outcome.published
        return {
            "target": outcome.target.name,
            "action": outcome.action,
            "reasons": json_list(outcome.reasons),
            "artifact": self.project.shown(package) if published else None,
            "key": published.key if published else None,
            "seconds": {phase: outcome.seconds.get(phase) for phase in _PHASES},
            "baseline": [dict(loss) for loss in outcome.baseline],
            "unverified": outcome.unverified,
            "error": json_or_none(outcome.error),
        }


@dataclass(frozen=True)
class PlanReport:
    """A plan as a report, for --dry-run."""

    plan: Plan

    def as_json(self) -> JsonObject:
        return {
            "format": "aoti-build/plan",
            "format_version": 2,
            "ok": True,
            "targets": [_step_json(step) for step in self.plan.steps],
            "notes": list(self.plan.notes),
        }


def _step_json(step: Step) -> JsonObject:
    return {
        "target": step.target.name,
        "action": step.action,
        "reasons": json_list(step.reasons),
        "unverified": step.unverified,
    }


def plan(
    project: Project,
    targets: tuple[Target, ...],
    *,
    force: bool = False,
    quick: bool = True,
) -> Plan:
    """The plan that `build` would carry out.

    With `quick` the index may answer for a target, whose step then has no manifest. Reports that
    show manifests need `quick=False`.
    """
    digests = StatCache(stat_cache_path(project))
    index = Index(index_path(project), project, digests) if quick else None
    result = make_plan(
        project,
        targets,
        digests,
        open_store(project.main_artifacts),
        force=force,
        index=index,
    )
    # The next command need not digest the same files again.
    digests.save()
    if index is not None:
        index.save()
    return result


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
    """Build `targets`, up to `jobs` at once, or as many as cores and memory allow.

    After a failure no further target is started unless `keep_going` is set. With `strict` an
    unavailable device is a failure, and so is an artifact that could not be compared with eager
    mode, which is published all the same. With `check_reproducible` every target is compiled again
    from nothing and compared byte by byte.

    Raises:
        ToolchainError: A compile is certainly needed and sure to fail on this host.
        Interrupted: Ctrl-C was pressed.

    Every worker has ended by then.
    """
    digests = StatCache(stat_cache_path(project))
    store = open_store(project.main_artifacts)
    index = Index(index_path(project), project, digests)
    build_plan = make_plan(project, targets, digests, store, force=force, index=index)
    work = _steps_with_work(build_plan, check_reproducible)
    outcomes = {}
    for step in build_plan.steps:
        if step not in work:
            outcomes[step.target.name] = _settled(step)
    if work:
        # Imported here, because a build with nothing to do needs none of it.
        from aoti_build.work.context import BuildContext
        from aoti_build.work.preflight import Preflight
        from aoti_build.work.schedule import Builder, default_jobs, run_all

        make_artifacts(project)
        preflight = Preflight(project, work, on_progress)
        context = BuildContext(project, digests, store, on_progress, preflight)
        builder = Builder(context, force, check_reproducible)
        # With an empty store nothing can be restored, so a compile is certain.
        check_early = partial(preflight.check_early, certain=lambda: force or store.is_empty())
        job_count = jobs or default_jobs(len(work))
        outcomes |= run_all(
            builder,
            work,
            job_count,
            keep_going,
            check_early,
        )
    digests.save()
    index.save()
    in_order = [outcomes[step.target.name] for step in build_plan.steps]
    # Only the report changes. The artifacts stay published.
    if strict:
        in_order = [_strict_outcome(outcome) for outcome in in_order]
    return BuildReport(project, tuple(in_order))


def _steps_with_work(plan: Plan, check_reproducible: bool) -> tuple[Step, ...]:
    """The steps that need workers. `check_reproducible` compiles targets that are up to date as
    well, and first."""
    if not check_reproducible:
        return plan.work
    unchanged = [step for step in plan.steps if step.action == Action.UP_TO_DATE]
    return (*unchanged, *plan.work)


def _settled(step: Step) -> Outcome:
    """The outcome of a step that needs no work."""
    action = Done(step.action)
    # The index answered for this target, and no manifest was read.
    if step.published is not None:
        return Outcome(step.target, action, step.reasons, step.published)
    return outcome_of(step.target, action, step.reasons, step.manifest)


def _strict_outcome(outcome: Outcome) -> Outcome:
    """The outcome with an error if this host lacks the device, or could not check the artifact."""
    if outcome.error is not None:
        return outcome
    if outcome.action == Done.UNAVAILABLE:
        return replace(outcome, error=_unavailable_error(outcome))
    if outcome.unverified is not None:
        return replace(outcome, error=_unverified_error(outcome))
    return outcome


def _unavailable_error(outcome: Outcome) -> BuildError:
    target = outcome.target
    # The first reason names the absent device, or says why this host cannot build for it.
    obstacle = outcome.reasons[0].what
    if obstacle == target.device:
        message = f"this host has no {target.device} device"
        cause = None
    else:
        message = "it cannot be built on this host"
        cause = obstacle
    hint = "build it on a host that has one, or omit --strict"
    return BuildError(message, target=target.name, cause=cause, hint=hint)


def _unverified_error(outcome: Outcome) -> BuildError:
    name = outcome.target.name
    return BuildError(
        "the artifact is published, but was never compared with eager",
        target=name,
        cause=outcome.unverified,
        hint=f"run `invoke verify --target {name}` on a host that can run it, or omit --strict",
    )
