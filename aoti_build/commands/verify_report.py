"""The report of `verify`: a verdict for each target, and which of its findings are failures."""

from __future__ import annotations

from dataclasses import dataclass

from aoti_build.artifact.reasons import Reason
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
    def exit_code(self) -> int:
        """4 if an artifact was refused, else 3 if one failed, else 0."""
        if any(verdict.verdict == VerdictKind.REFUSED for verdict in self.verdicts):
            return ExitCode.UNFIT_ARTIFACT
        if any(self.failures(verdict) for verdict in self.verdicts):
            return ExitCode.VERIFICATION_FAILED
        return ExitCode.OK

    def failures(self, verdict: Verdict) -> tuple[str, ...]:
        """The words of what counts as a failure of this verdict in this report."""
        return verdict.failures(strict=self.strict)

    def as_json(self) -> JsonObject:
        return {
            "format": "aoti-build/verify",
            "format_version": 2,
            "ok": self.exit_code == ExitCode.OK,
            "strict": self.strict,
            "runtime": self.runtime,
            "targets": [
                {**verdict.as_json(), "failures": list(self.failures(verdict))}
                for verdict in self.verdicts
            ],
        }
