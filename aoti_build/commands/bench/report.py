"""The report of `bench`: what was measured of each target, and what makes the task fail."""

from __future__ import annotations

from dataclasses import dataclass

from aoti_build.commands.conclusion import (
    Failure,
    code_of,
    concluding_error,
    error_class,
    head,
    of_total,
    one_line,
    target_option,
)
from aoti_build.commands.json_values import json_or_none
from aoti_build.common.json_object import JsonObject
from aoti_build.errors import AotiBuildError, ExitCode
from aoti_build.measurement.gate import Rule
from aoti_build.measurement.record import BenchRecord, ComparisonRecord, bench_json
from aoti_build.measurement.statistics import Verdict
from aoti_build.models_file.project import Target


@dataclass(frozen=True)
class Benchmark:
    """The benchmark of one target.

    Attributes:
        record: what was measured. None if the target could not be measured.
        notes: sentences about what was left out.
        unavailable: why this host cannot run the target at all.
        error: why there is no record, or why it is incomplete.
    """

    target: Target
    record: BenchRecord | None = None
    notes: tuple[str, ...] = ()
    unavailable: str | None = None
    error: AotiBuildError | None = None

    @property
    def has_figures(self) -> bool:
        """Whether any sample was taken."""
        return self.record is not None and any(row.samples for row in self.record.rows)

    @property
    def gated(self) -> tuple[ComparisonRecord, ...]:
        """The comparisons with the base of ``--against``."""
        if self.record is None or self.record.base is None:
            return ()
        return self.record.base.comparisons


@dataclass(frozen=True)
class BenchReport:
    """The benchmarks in the order of models.yaml, judged by `rule`."""

    benchmarks: tuple[Benchmark, ...]
    rule: Rule
    seconds: float

    def failures(self, benchmark: Benchmark) -> tuple[str, ...]:
        """What makes the task fail about one target, a clause for each."""
        clauses = []
        if benchmark.error is not None:
            clauses.append(one_line(benchmark.error))
        if benchmark.unavailable is not None and self.rule.strict:
            clauses.append(f"unavailable, {benchmark.unavailable}")
        for record in benchmark.gated:
            if self.rule.fails(record):
                clauses.append(comparison_text(record))
        return tuple(clauses)

    @property
    def exit_code(self) -> int:
        return code_of(self.error)

    @property
    def error(self) -> AotiBuildError | None:
        """The error that ends the task: of the class of the first error, else a failed comparison;
        None if nothing failed."""
        failed = [found for found in self.benchmarks if self.failures(found)]
        if not failed:
            return None
        errors = [found.error for found in failed if found.error is not None]
        code = errors[0].exit_code if errors else ExitCode.VERIFICATION_FAILED
        count = of_total(len(failed), len(self.benchmarks), "target")
        verb = "failed" if errors else "did not pass"
        return concluding_error(
            error_class(code),
            f"{count} {verb}",
            [Failure(found.target.name, "; ".join(self.failures(found))) for found in failed],
            hint="\n".join(self._hints(failed)),
            log=errors[0].log if len(errors) == 1 else None,
        )

    def _hints(self, failed: list[Benchmark]) -> list[str]:
        """What to do next, a line for each kind of failure."""
        hints = []
        for found in failed:
            if found.error is not None and found.error.hint and found.error.hint not in hints:
                hints.append(found.error.hint)
        names = target_option([found.target.name for found in failed])
        verdicts = [record.verdict for found in failed for record in found.gated]
        if Verdict.WORSE in verdicts:
            hints.append(
                f"`invoke why{names}` shows what changed; or allow it with --fail-if METRIC>RATIO"
            )
        elif Verdict.UNKNOWN in verdicts:
            hints.append(
                f"measure again while nothing else runs: `invoke bench{names}` with --against"
            )
        return hints or [f"correct it, then run `invoke bench{names}`"]

    def as_json(self) -> JsonObject:
        limits = {str(metric): limit for metric, limit in self.rule.limits.items()}
        return {
            **head("aoti-build/bench-report", 1, self.error),
            "seconds": round(self.seconds, 3),
            "band": self.rule.band,
            "limits": limits,
            "strict": self.rule.strict,
            "targets": [self._target_json(found) for found in self.benchmarks],
        }

    def _target_json(self, found: Benchmark) -> JsonObject:
        return {
            "target": found.target.name,
            "bench": bench_json(found.record) if found.record else None,
            "failures": list(self.failures(found)),
            "unavailable": found.unavailable,
            "notes": list(found.notes),
            "error": json_or_none(found.error),
        }


def comparison_text(record: ComparisonRecord) -> str:
    """``steady at batch 8 is worse: 1.083 (1.071..1.095) times that of v1``."""
    text = f"{metric_text(record)} is {record.verdict}: {record.ratio:.3f}"
    if record.pairs > 1 and record.low is not None and record.high is not None:
        text += f" ({record.low:.3f}..{record.high:.3f})"
    text += f" times that of {record.base}"
    if record.limit is not None:
        text += f", and the limit is {record.limit:g}"
    return f"{text}; {record.why}" if record.why else text


def metric_text(record: ComparisonRecord) -> str:
    """``steady at batch 8``."""
    sizes = ", ".join(f"{name} {size}" for name, size in record.sizes.items())
    return f"{record.metric} at {sizes}" if sizes else str(record.metric)
