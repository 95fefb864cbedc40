"""The report of `verify`: a verdict for each target, and which of its findings are failures."""

from __future__ import annotations

from dataclasses import dataclass

from aoti_build.artifact.manifest import FileRecord
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
from aoti_build.commands.verdicts import VerdictKind
from aoti_build.common.json_object import JsonObject
from aoti_build.errors import AotiBuildError, ExitCode
from aoti_build.figures import CallFigures, Loss, Refusal, Vacuous, as_json
from aoti_build.messages import LocalizeResult
from aoti_build.models_file.project import Target

PYTHON = "python"
CPP = "cpp"
# The values of `--runtime`.
RUNTIMES = (PYTHON, CPP)
# Called from Python, and replayed from CUDA graphs: `--cuda-graphs`.
CUDA_GRAPHS = "cuda-graphs"
# What a report adds to its line of totals.
RUNTIME_WORDS = {CPP: "called from C++", CUDA_GRAPHS: "replayed from CUDA graphs"}
# The words by which a report names what makes a passed artifact doubtful.
OUT_OF_DATE = "out_of_date"
VACUOUS = "vacuous"
# What to do about failures that have the same word. `{targets}` is an option of the command.
_NEXT_STEPS = {
    OUT_OF_DATE: "`invoke build{targets}` brings what is out of date up to date",
    VACUOUS: "the comparison shows nothing: give trained weights, inputs of a realistic range or a"
    " smaller tolerance, then run `invoke build{targets}`",
    VerdictKind.MISSING: "`invoke build{targets}` builds what is missing",
    VerdictKind.REFUSED: "`invoke build{targets}` builds what was refused again",
    VerdictKind.MISMATCH: "`invoke verify --localize{targets}` finds where outputs differ",
    VerdictKind.CRASHED: "`invoke verify --debug{targets}` tries the crashed one again; its log has"
    " the details",
    VerdictKind.TIMEOUT: "`invoke verify --timeout 3600{targets}` waits longer",
    VerdictKind.UNVERIFIED: "`invoke verify --fresh{targets}` computes new references",
    VerdictKind.UNAVAILABLE: "verify on a host that has the device, or omit --strict; `invoke"
    " doctor` shows this host's devices",
    VerdictKind.INCOMPLETE: "`invoke verify --fresh{targets}` compares the skipped cases on a host"
    " with more memory; or omit --strict",
}
# Verdicts that are no failures without --strict.
_LENIENT_VERDICTS = (
    VerdictKind.PASSED,
    VerdictKind.UNAVAILABLE,
    VerdictKind.INCOMPLETE,
)


@dataclass(frozen=True)
class Verdict:
    """The result of one target.

    `seconds` is the time of load and check in the worker. `error` says why the artifact could not
    be compared.
    """

    target: Target
    verdict: VerdictKind
    # Why the artifact differs from what the sources describe now, or why it is unavailable.
    out_of_date: tuple[Reason, ...] = ()
    cases: tuple[CallFigures, ...] = ()
    # One for each input that the artifact must refuse.
    refusals: tuple[Refusal, ...] = ()
    # Outputs whose comparison shows nothing.
    vacuous: tuple[Vacuous, ...] = ()
    # Why there was no float64 reference.
    no_fp64: str | None = None
    # Where the artifact differs from its model.
    localization: LocalizeResult | None = None
    seconds: float = 0.0
    error: AotiBuildError | None = None
    runtime: str = PYTHON
    # What the model loses against its baseline.
    baseline: tuple[Loss, ...] = ()
    # The package that was compared, and its path relative to the project. None if none was read.
    package: FileRecord | None = None
    path: str | None = None

    @property
    def doubts(self) -> tuple[str, ...]:
        """The reasons to doubt even a passed artifact: `OUT_OF_DATE` and `VACUOUS`. Without
        --strict they are only shown."""
        # Of an unavailable artifact, `out_of_date` only says why it is unavailable.
        if self.verdict == VerdictKind.UNAVAILABLE:
            return ()
        doubts = []
        if self.out_of_date:
            doubts.append(OUT_OF_DATE)
        if self.vacuous:
            doubts.append(VACUOUS)
        return tuple(doubts)

    def failures(self, *, strict: bool) -> tuple[str, ...]:
        """The words of all that counts as a failure: the verdict, and with `strict` the doubts.
        Empty if the target did not fail.

        Only this method knows what `--strict` treats as a failure.
        """
        if not strict:
            return () if self.verdict in _LENIENT_VERDICTS else (self.verdict,)
        if self.verdict == VerdictKind.PASSED:
            return self.doubts
        return (self.verdict, *self.doubts)

    def as_json(self) -> JsonObject:
        return {
            "target": self.target.name,
            "verdict": self.verdict,
            "runtime": self.runtime,
            "path": self.path,
            "sha256": self.package.sha256 if self.package else None,
            "size": self.package.size if self.package else None,
            "out_of_date": json_list(self.out_of_date),
            "cases": [as_json(case) for case in self.cases],
            "refusals": [as_json(refusal) for refusal in self.refusals],
            "vacuous": [as_json(output) for output in self.vacuous],
            "no_fp64": self.no_fp64,
            "baseline": [as_json(loss) for loss in self.baseline],
            "localization": as_json(self.localization) if self.localization else None,
            "seconds": self.seconds,
            "error": json_or_none(self.error),
        }


@dataclass(frozen=True)
class VerifyReport:
    """The verdicts in the order of models.yaml. `strict` is the option of that name."""

    verdicts: tuple[Verdict, ...]
    strict: bool = False
    runtime: str = PYTHON

    @property
    def failed(self) -> tuple[Verdict, ...]:
        """The verdicts that count as failures."""
        return tuple(verdict for verdict in self.verdicts if self.failures(verdict))

    @property
    def error(self) -> AotiBuildError | None:
        """The error that ends the task; None if nothing failed."""
        return _verify_error(self) if self.failed else None

    @property
    def exit_code(self) -> int:
        """4 if an artifact was refused, else 3 if one failed, else 0."""
        if any(verdict.verdict == VerdictKind.REFUSED for verdict in self.verdicts):
            return ExitCode.UNFIT_ARTIFACT
        if self.failed:
            return ExitCode.VERIFICATION_FAILED
        return ExitCode.OK

    def failures(self, verdict: Verdict) -> tuple[str, ...]:
        """The words of what counts as a failure of this verdict in this report."""
        return verdict.failures(strict=self.strict)

    def as_json(self) -> JsonObject:
        return {
            **head("aoti-build/verify", 2, self.error),
            "strict": self.strict,
            "runtime": self.runtime,
            "targets": [
                {**verdict.as_json(), "failures": list(self.failures(verdict))}
                for verdict in self.verdicts
            ],
        }


def _verify_error(report: VerifyReport) -> AotiBuildError:
    failures = []
    targets_of_word: dict[str, list[str]] = {}
    for verdict in report.failed:
        words = report.failures(verdict)
        failures.append(Failure(verdict.target.name, _why(verdict, words)))
        for word in words:
            targets_of_word.setdefault(word, []).append(verdict.target.name)
    hints = []
    for word, names in targets_of_word.items():
        hints.append(_NEXT_STEPS[word].format(targets=target_option(names)))
    count = of_total(len(failures), len(report.verdicts), "artifact")
    return concluding_error(
        error_class(report.exit_code),
        f"{count} failed" + (" by --strict" if report.strict else ""),
        failures,
        hint="\n".join(hints),
    )


def _why(verdict: Verdict, words: tuple[str, ...]) -> str:
    """Why a verdict is a failure, in a clause."""
    parts = []
    for word in words:
        if word == OUT_OF_DATE:
            parts.append(f"out of date, {verdict.out_of_date[0]}")
        elif word == VACUOUS:
            parts.append(f"vacuous, {verdict.vacuous[0].output} would pass with other values")
        elif verdict.error is not None:
            parts.append(f"{word}, {one_line(verdict.error)}")
        elif verdict.verdict == VerdictKind.UNAVAILABLE and verdict.out_of_date:
            parts.append(f"{word}, {verdict.out_of_date[0]}")
        else:
            parts.append(", ".join([str(word), *_first_finding(verdict)]))
    return "; ".join(parts).replace("\n", " ")


def _first_finding(verdict: Verdict) -> list[str]:
    """The first thing that a failed comparison found."""
    for case in verdict.cases:
        if case.skipped is not None and verdict.verdict == VerdictKind.INCOMPLETE:
            return [f"case {case.name} was skipped: {case.skipped}"]
        for output in case.outputs:
            if not output.ok:
                return [f"{output.name} in case {case.name}: {output.why or 'it differs'}"]
    for refusal in verdict.refusals:
        if not refusal.ok:
            return [f"not refused: {refusal.name}"]
    return []
