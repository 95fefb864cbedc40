"""The limits of ``release-diff --fail-if``, and the verdict on each."""

from __future__ import annotations

from dataclasses import dataclass

from aoti_build.common.json_object import JsonObject
from aoti_build.common.text_enum import TextEnum
from aoti_build.measurement.gate import read_limits
from aoti_build.measurement.record import Metric

# What can be limited. Counts of targets and of libraries come first.
COUNTS = ("added", "removed", "changed", "libraries", "licences")
SIZE = str(Metric.SIZE)
DRIFT = "drift"
SPEEDS = (str(Metric.STEADY), str(Metric.FIRST), str(Metric.MEMORY))
_NAMES = (*COUNTS, SIZE, DRIFT, *SPEEDS)
_EXAMPLE = "size>1.1,drift>1e-3,removed>0"


class Verdict(TextEnum):
    """What a limit says."""

    PASSED = "passed"
    FAILED = "failed"
    UNKNOWN = "unknown"  # a figure is missing, and none of the others is above the limit


@dataclass(frozen=True)
class Limit:
    """A limit of ``--fail-if``."""

    name: str
    limit: float

    def __str__(self) -> str:
        return f"{self.name}>{self.limit:g}"


@dataclass(frozen=True)
class Judgement:
    """The verdict on one limit. `why` has a clause for each figure that is above it or missing."""

    limit: Limit
    verdict: Verdict
    why: tuple[str, ...] = ()

    def as_json(self) -> JsonObject:
        return {
            "metric": self.limit.name,
            "limit": self.limit.limit,
            "verdict": self.verdict,
            "why": list(self.why),
        }


@dataclass(frozen=True)
class Policy:
    """What makes `release-diff` fail. With `strict` also a limit whose figure is missing."""

    limits: tuple[Limit, ...] = ()
    strict: bool = False

    def fails(self, judgement: Judgement) -> bool:
        """Whether a verdict makes the task fail."""
        if judgement.verdict == Verdict.UNKNOWN:
            return self.strict
        return judgement.verdict == Verdict.FAILED


def parse_policy(text: str, *, strict: bool = False) -> Policy:
    """The policy of ``--fail-if TEXT``, which may be empty. Raises `UsageError`."""
    if not text:
        return Policy(strict=strict)
    limits = read_limits(text, _NAMES, _EXAMPLE)
    return Policy(tuple(Limit(name, limit) for name, limit in limits.items()), strict)
