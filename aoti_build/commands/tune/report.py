"""The report of `tune`: what was measured, and what was chosen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aoti_build.commands.conclusion import code_of, failed_targets, head
from aoti_build.commands.json_values import json_or_none
from aoti_build.common.json_object import JsonObject
from aoti_build.common.text_enum import TextEnum
from aoti_build.errors import AotiBuildError
from aoti_build.measurement.statistics import Comparison, Verdict
from aoti_build.models_file.project import Choice, Target
from aoti_build.models_file.tuned import TUNED_FILE


class Outcome(TextEnum):
    """What happened to a candidate."""

    MEASURED = "measured"
    # It did not build, failed its check, or could not be called.
    FAILED = "failed"
    # The budget ended before.
    UNTRIED = "untried"
    # Only listed, for --dry-run.
    LISTED = "listed"


@dataclass(frozen=True)
class Row:
    """One candidate, or another library.

    `seconds` is the median of the samples, each of which is the median of one process. `loss` is
    the relative RMSE of the worst output, for a candidate that lowers the precision. `why` says why
    it was not measured. `choice` is None for another library.
    """

    name: str
    outcome: Outcome
    choice: Choice | None = None
    seconds: float | None = None
    samples: int = 0
    peak_memory: int | None = None
    comparison: Comparison | None = None
    loss: float | None = None
    why: str | None = None

    @property
    def is_better(self) -> bool:
        """Whether it is shown to be faster than the baseline."""
        return self.comparison is not None and self.comparison.verdict == Verdict.BETTER

    @property
    def ratio(self) -> float:
        """Its time divided by that of the baseline. 1 without a comparison."""
        return self.comparison.ratio if self.comparison else 1.0

    def as_json(self) -> JsonObject:
        return {
            "name": self.name,
            "outcome": self.outcome,
            "options": dict(self.choice.options) if self.choice else {},
            "precision": self.choice.precision if self.choice else {},
            "memory_format": self.choice.memory_format if self.choice else None,
            "seconds": self.seconds,
            "samples": self.samples,
            "peak_memory": self.peak_memory,
            "comparison": comparison_json(self.comparison),
            "loss": self.loss,
            "why": self.why,
        }


def comparison_json(comparison: Comparison | None) -> JsonObject | None:
    if comparison is None:
        return None
    # A single pair has no interval, and JSON no infinity.
    has_interval = comparison.pairs > 1
    return {
        "ratio": comparison.ratio,
        "low": comparison.low if has_interval else None,
        "high": comparison.high if has_interval else None,
        "pairs": comparison.pairs,
        "verdict": comparison.verdict.value,
    }


@dataclass(frozen=True)
class Tuning:
    """The candidates of one target, the baseline first.

    `target` is the target with the preset `tuned`, and `host` the class of this host. With
    `cuda_graphs` calls were replayed. `chosen` is
    the name of the fastest candidate that is shown to be faster than the baseline. `is_used` tells
    whether models.yaml has the target.
    """

    target: Target
    host: str | None
    rows: tuple[Row, ...] = ()
    peers: tuple[Row, ...] = ()
    notes: tuple[str, ...] = ()
    chosen: str | None = None
    is_used: bool = True
    cuda_graphs: bool = False
    error: AotiBuildError | None = None

    def row(self, name: str) -> Row:
        """The candidate with this name. Raises StopIteration if there is none."""
        return next(row for row in self.rows if row.name == name)

    def as_json(self) -> JsonObject:
        return {
            "target": self.target.name,
            "host": self.host,
            "chosen": self.chosen,
            "cuda_graphs": self.cuda_graphs,
            "candidates": [row.as_json() for row in self.rows],
            "peers": [row.as_json() for row in self.peers],
            "notes": list(self.notes),
            "error": json_or_none(self.error),
        }


@dataclass(frozen=True)
class TuneReport:
    """What `tune` did. `changes` tells for each target how its entry in tuned.yaml changed."""

    tunings: tuple[Tuning, ...]
    seconds: float
    dry_run: bool = False
    changes: Mapping[str, str] | None = None

    @property
    def exit_code(self) -> int:
        """The exit code of the first error. That nothing is faster is no error."""
        return code_of(self.error)

    @property
    def error(self) -> AotiBuildError | None:
        """The error that ends the task, of the class of the first; None if there is none."""
        errors = {
            tuning.target.name: tuning.error for tuning in self.tunings if tuning.error is not None
        }
        if not errors:
            return None
        first = next(iter(errors.values()))
        return failed_targets("tune", errors, len(self.tunings), first.exit_code)

    def as_json(self) -> JsonObject:
        document: dict[str, Any] = {
            **head("aoti-build/tune", 1, self.error),
            "file": TUNED_FILE,
            "seconds": round(self.seconds, 3),
            "dry_run": self.dry_run,
            "targets": [],
        }
        for tuning in self.tunings:
            change = (self.changes or {}).get(tuning.target.name, "unchanged")
            document["targets"].append({**tuning.as_json(), "entry": change})
        return document
