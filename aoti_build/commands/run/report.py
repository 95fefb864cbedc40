"""The report of `run`: the runs of each target, with their verdicts and exit codes."""

from __future__ import annotations

from dataclasses import dataclass

from aoti_build.artifact.reasons import Reason
from aoti_build.commands.conclusion import (
    Failure,
    concluding_error,
    error_class,
    head,
    of_total,
    one_line,
    target_option,
)
from aoti_build.commands.json_values import json_list, json_or_none
from aoti_build.commands.received.release import NEXT_STEP, ReceivedRelease
from aoti_build.commands.verdicts import VerdictKind
from aoti_build.common.json_object import JsonObject
from aoti_build.errors import AotiBuildError, ExitCode
from aoti_build.figures import RunFigures, as_json
from aoti_build.models_file.project import Target

# From the worst to the least bad.
_BAD_VERDICTS = (VerdictKind.FAILED, VerdictKind.MISMATCH, VerdictKind.UNVERIFIED)


@dataclass(frozen=True)
class Run:
    """One call of an artifact.

    `source` names the inputs as the command line does. `seed` is that of random inputs. `result`
    has the worker's figures, and is None if there is an error.
    """

    source: tuple[str, ...]
    seed: int | None
    result: RunFigures | None
    error: AotiBuildError | None = None

    @property
    def verdict(self) -> VerdictKind:
        if self.result is None:
            return VerdictKind.FAILED
        if self.result.check == "none":
            return VerdictKind.UNVERIFIED
        if self.result.passed:
            return VerdictKind.PASSED
        return VerdictKind.MISMATCH

    @property
    def exit_code(self) -> int:
        if self.error is not None:
            return self.error.exit_code
        if self.verdict == VerdictKind.MISMATCH:
            return ExitCode.VERIFICATION_FAILED
        return ExitCode.OK

    def as_json(self) -> JsonObject:
        # A run with an error has no figures at all.
        figures = as_json(self.result) if self.result else {}
        return {
            "source": list(self.source),
            "seed": self.seed,
            "verdict": self.verdict,
            **figures,
            "error": json_or_none(self.error),
        }


@dataclass(frozen=True)
class TargetRuns:
    """The runs of one target, or the error because of which there are none."""

    target: Target
    runs: tuple[Run, ...] = ()
    # Why the artifact is not what the sources describe now.
    out_of_date: tuple[Reason, ...] = ()
    error: AotiBuildError | None = None
    # False if the error is that this host lacks the device or the architecture.
    available: bool = True
    # Why neither build nor verify has compared the artifact with eager mode.
    unverified: str | None = None
    # Seconds of a call in eager mode at the example sizes, when the artifact was built.
    eager_seconds: float | None = None

    @property
    def verdict(self) -> VerdictKind:
        """The worst verdict of the runs."""
        if self.error is not None:
            return VerdictKind.FAILED if self.available else VerdictKind.UNAVAILABLE
        verdicts = {run.verdict for run in self.runs}
        for verdict in _BAD_VERDICTS:
            if verdict in verdicts:
                return verdict
        return VerdictKind.PASSED

    @property
    def exit_code(self) -> int:
        """The exit code of the first failure. `RunReport` decides about an absent device."""
        if self.error is not None:
            return self.error.exit_code if self.available else ExitCode.OK
        for run in self.runs:
            if run.exit_code != ExitCode.OK:
                return run.exit_code
        return ExitCode.OK

    def as_json(self) -> JsonObject:
        return {
            "target": self.target.name,
            "verdict": self.verdict,
            "out_of_date": json_list(self.out_of_date),
            "unverified": self.unverified,
            "eager_seconds": self.eager_seconds,
            "runs": json_list(self.runs),
            "error": json_or_none(self.error),
        }


@dataclass(frozen=True)
class RunReport:
    """Targets in the order of models.yaml, or of the `release` that was received."""

    targets: tuple[TargetRuns, ...]
    release: ReceivedRelease | None = None

    @property
    def exit_code(self) -> int:
        """The exit code of the first failure. An absent device is a failure only if it keeps every
        target from running."""
        if self.targets and not any(target.available for target in self.targets):
            return ExitCode.UNFIT_ARTIFACT
        for target in self.targets:
            if target.exit_code != ExitCode.OK:
                return target.exit_code
        return ExitCode.OK

    @property
    def error(self) -> AotiBuildError | None:
        """The error that ends the task; None if nothing failed."""
        code = self.exit_code
        if code == ExitCode.OK:
            return None
        return _run_error(code, self.targets, is_received=self.release is not None)

    def as_json(self) -> JsonObject:
        return {
            **head("aoti-build/run", 2, self.error),
            "release": json_or_none(self.release),
            "targets": json_list(self.targets),
        }


def _run_error(code: int, targets: tuple[TargetRuns, ...], *, is_received: bool) -> AotiBuildError:
    failed = [target for target in targets if target.exit_code != ExitCode.OK]
    # An absent device is a failure only if no target has one.
    failed = failed or list(targets)
    failures = [Failure(target.target.name, _why(target)) for target in failed]
    names = target_option([failure.name for failure in failures])
    errors = [error for target in failed for error in _errors(target)]
    if errors and errors[0].hint:
        hint = errors[0].hint
    elif is_received:
        hint = NEXT_STEP
    elif any(target.verdict == VerdictKind.MISMATCH for target in failed):
        hint = f"`invoke verify --localize{names}` finds where outputs differ"
    else:
        hint = f"`invoke inspect --host{names}` shows what this host can load"
    return concluding_error(
        error_class(code),
        f"{of_total(len(failed), len(targets), 'target')} failed",
        failures,
        hint=hint,
        log=errors[0].log if len(errors) == 1 else None,
    )


def _errors(target: TargetRuns) -> list[AotiBuildError]:
    errors = [target.error, *(run.error for run in target.runs)]
    return [error for error in errors if error is not None]


def _why(target: TargetRuns) -> str:
    """Why a target failed, in a clause."""
    errors = _errors(target)
    if errors:
        return one_line(errors[0])
    for run in target.runs:
        if run.verdict == VerdictKind.MISMATCH and run.result is not None:
            why = [output.why for output in run.result.verdicts if not output.ok and output.why]
            return ", ".join([f"mismatch on {', '.join(run.source)}", *why[:1]])
    return str(target.verdict)
