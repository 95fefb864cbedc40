"""What `build --dry-run` and `--check` report: a plan, and whether it has anything to build."""

from __future__ import annotations

from dataclasses import dataclass

from aoti_build.commands.conclusion import (
    Failure,
    code_of,
    concluding_error,
    head,
    of_total,
    target_option,
)
from aoti_build.commands.json_values import json_list
from aoti_build.common.json_object import JsonObject
from aoti_build.errors import AotiBuildError, OutOfDateError
from aoti_build.planning.actions import Action
from aoti_build.planning.plan import WORK, Plan, Step


@dataclass(frozen=True)
class PlanReport:
    """A plan as a report, for --dry-run.

    With `check` it is a failure if there is something to build, and with `strict` also what `build
    --strict` treats as one.
    """

    plan: Plan
    check: bool = False
    strict: bool = False

    @property
    def error(self) -> AotiBuildError | None:
        """The error that ends the task with --check; None if everything is up to date."""
        return out_of_date_error(self.plan, strict=self.strict) if self.check else None

    @property
    def exit_code(self) -> int:
        return code_of(self.error)

    def as_json(self) -> JsonObject:
        return {
            **head("aoti-build/plan", 2, self.error),
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


def out_of_date_error(plan: Plan, *, strict: bool = False) -> AotiBuildError | None:
    """The error of --check: a build would have something to do. None if it would not.

    With `strict` a target that this host cannot build counts too, and so does an artifact that was
    never compared with eager mode.
    """
    failures = []
    for step in plan.steps:
        doubtful = step.action == Action.UNAVAILABLE or step.unverified is not None
        if step.action in WORK or (strict and doubtful):
            reasons = [str(reason) for reason in step.reasons[:1]]
            why = "; ".join(reasons) or f"unverified: {step.unverified}"
            failures.append(Failure(step.target.name, f"{step.action}, {why}"))
    if not failures:
        return None
    count = of_total(len(failures), len(plan.steps), "target")
    verb = "is" if len(failures) == 1 else "are"
    names = target_option([failure.name for failure in failures])
    return concluding_error(
        OutOfDateError,
        f"{count} {verb} not up to date",
        failures,
        hint=f"`invoke build{names}` builds, `invoke why{names}` explains",
    )
