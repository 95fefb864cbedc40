"""Decides whether an artifact is worse than the base of ``--against``, metric by metric.

Without a limit a metric is worse if the whole interval of new / base lies above the band. With a
limit, such as ``steady>1.05``, it is worse if the whole interval lies above the limit, and passes
if the whole interval lies below it. Everything else is unknown. Holm's procedure keeps the
probability of a wrong decision for all metrics of all targets together.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from aoti_build.errors import UsageError
from aoti_build.measurement.host_noise import LEAST_PAIRS, band_of, resolvable_band
from aoti_build.measurement.record import ComparisonRecord, Metric, Sample
from aoti_build.measurement.statistics import (
    BAND,
    PAIRS,
    Comparison,
    Pair,
    Verdict,
    compare,
    holm,
)

# The metrics that ``--fail-if`` may name.
GATED = (Metric.STEADY, Metric.FIRST, Metric.SIZE, Metric.MEMORY)
_LIMIT = re.compile(r"([a-z]+)\s*>\s*([0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]{1,3})?)")

Limits = Mapping[Metric, float]
Sizes = Mapping[str, int]


@dataclass(frozen=True)
class Rule:
    """What counts as worse.

    Attributes:
        band: ratios from 1 - band to 1 + band are no difference.
        limits: the ratio above which a metric fails. Without any, every `worse` fails.
        strict: `unknown` fails as well.
    """

    band: float = BAND
    limits: Limits = field(default_factory=dict)
    strict: bool = False

    def judges(self, metric: str) -> bool:
        """Whether the verdict on a metric can make the task fail."""
        return not self.limits or metric in self.limits

    def fails(self, record: ComparisonRecord) -> bool:
        """Whether a comparison makes the task fail."""
        if not self.judges(record.metric):
            return False
        return record.verdict == Verdict.WORSE or (
            self.strict and record.verdict == Verdict.UNKNOWN
        )


@dataclass(frozen=True)
class Question:
    """Pairs of a metric, of the base and of the new artifact, and what they are compared with.

    `host_band` is the smallest band that this host resolves for the metric, if that is known.
    """

    metric: Metric
    base: str
    pairs: Sequence[Pair]
    sizes: Sizes = field(default_factory=dict)
    host_band: float | None = None


def parse_limits(text: str) -> dict[Metric, float]:
    """The limits in ``steady>1.05,first>1.2``. Raises `UsageError`."""
    limits: dict[Metric, float] = {}
    for name, limit in read_limits(text, GATED, "steady>1.05").items():
        if limit <= 0:
            raise UsageError(f"--fail-if {text}: a ratio is always above {limit:g}")
        limits[Metric(name)] = limit
    return limits


def read_limits(text: str, names: Sequence[str], example: str) -> dict[str, float]:
    """The limits in ``name>number,name>number``, in the order of the text.

    Raises `UsageError` for another form, and for a name that is not one of `names` or occurs twice.
    """
    limits: dict[str, float] = {}
    for part in text.split(","):
        match = _LIMIT.fullmatch(part.strip())
        name = match[1] if match else ""
        if match is None or name not in names or not math.isfinite(float(match[2])):
            raise UsageError(
                f"--fail-if {text}: {part.strip() or 'nothing'} is no limit",
                hint=f"write for example {example}; the metrics are {', '.join(names)}",
            )
        if name in limits:
            raise UsageError(f"--fail-if {text}: {name} occurs twice")
        limits[name] = float(match[2])
    return limits


def value_of(sample: Sample, metric: Metric, sizes: Sizes) -> float | None:
    """A metric of one sample. None if the sample does not have it."""
    if metric == Metric.STEADY:
        for steady in sample.steady:
            if dict(steady.sizes) == dict(sizes):
                return steady.p50
        return None
    values: Mapping[Metric, float] = {
        Metric.IMPORT: sample.import_seconds,
        Metric.LOAD: sample.load_seconds,
        Metric.FIRST: sample.first_seconds,
        Metric.MEMORY: float(sample.peak_memory),
    }
    return values.get(metric)


def question(
    metric: Metric,
    base: str,
    old: Sequence[Sample],
    new: Sequence[Sample],
    sizes: Sizes | None = None,
) -> Question:
    """The pairs of a metric from the samples of the same index. A sample without it makes none."""
    pairs = []
    for earlier, later in zip(old, new, strict=False):
        values = (value_of(earlier, metric, sizes or {}), value_of(later, metric, sizes or {}))
        if values[0] and values[1]:
            pairs.append((values[0], values[1]))
    host_band = band_of_pairs(pairs)
    return Question(metric, base, pairs, sizes or {}, host_band)


def band_of_pairs(pairs: Sequence[Pair]) -> float | None:
    """The smallest band that this host resolves with such pairs of samples, whatever the
    difference between their subjects is. None if there are too few.

    The spread of the ratios around their mean is the noise of a pair.
    """
    if len(pairs) < LEAST_PAIRS:
        return None
    ratios = [math.log(new / old) for old, new in pairs]
    mean = math.fsum(ratios) / len(ratios)
    squares = math.fsum((ratio - mean) ** 2 for ratio in ratios)
    return band_of(squares, len(ratios) - 1)


def noise_band(series: Sequence[Sequence[float]]) -> float | None:
    """The smallest band that this host resolves with samples that are taken one after the other.

    Two samples of a package that follow each other are a pair of the package with itself, so each
    benchmark is an A/A run as well. None if there are too few of them.

    Args:
        series: the values of one package after the other, each in the order of measurement.
    """
    pairs: list[Pair] = []
    for values in series:
        pairs += zip(values[::2], values[1::2], strict=False)
    if len(pairs) < LEAST_PAIRS:
        return None
    return resolvable_band(pairs)


def answers(questions: Sequence[Question], rule: Rule) -> list[ComparisonRecord]:
    """The verdict on each question, all of them together by Holm's procedure.

    A question without pairs has no answer.
    """
    asked = [entry for entry in questions if entry.pairs]
    compared = [_compared(entry.pairs, rule.band, rule.limits.get(entry.metric)) for entry in asked]
    records = []
    for entry, found in zip(asked, holm(compared), strict=True):
        records.append(_record(entry, found, rule))
    return records


def size_answer(base: str, old: int, new: int, rule: Rule) -> ComparisonRecord:
    """The verdict on the sizes of two packages in bytes, which are exact."""
    ratio = new / old
    limit = rule.limits.get(Metric.SIZE)
    highest = 1 + rule.band if limit is None else limit
    verdict = Verdict.SAME
    if ratio > highest:
        verdict = Verdict.WORSE
    elif ratio < 1 - rule.band:
        verdict = Verdict.BETTER
    return ComparisonRecord(
        metric=Metric.SIZE,
        base=base,
        ratio=ratio,
        low=ratio,
        high=ratio,
        pairs=1,
        band=rule.band,
        verdict=verdict.value,
        limit=limit,
    )


def _compared(pairs: Sequence[Pair], band: float, limit: float | None) -> Comparison:
    """The comparison of the pairs. With a limit, `worse` is above it and `better` below it."""
    if limit is None:
        return compare(pairs, band=band)
    # Relative to the limit, without a band.
    found = compare([(old * limit, new) for old, new in pairs], band=0.0)
    return replace(
        found,
        ratio=found.ratio * limit,
        low=found.low * limit,
        high=found.high * limit,
    )


def _record(entry: Question, found: Comparison, rule: Rule) -> ComparisonRecord:
    limit = rule.limits.get(entry.metric)
    verdict, why = _verdict(entry, found, rule)
    has_interval = found.pairs > 1
    return ComparisonRecord(
        metric=entry.metric,
        base=entry.base,
        ratio=found.ratio,
        low=found.low if has_interval else None,
        high=found.high if has_interval else None,
        pairs=found.pairs,
        band=rule.band,
        verdict=verdict.value,
        sizes=dict(entry.sizes),
        why=why,
        limit=limit,
    )


def _verdict(entry: Question, found: Comparison, rule: Rule) -> tuple[Verdict, str | None]:
    """The verdict, and why it is unknown.

    A noisy host makes intervals wide, so what they decide all the same stands.
    """
    limit = rule.limits.get(entry.metric)
    if found.pairs < PAIRS:
        return Verdict.UNKNOWN, f"only {found.pairs} of {PAIRS} pairs were measured"
    if found.verdict == Verdict.UNKNOWN:
        asked = rule.band if limit is None else abs(limit - 1)
        band = entry.host_band
        if band is not None and band > asked:
            why = f"this host is too noisy: it resolves {band:.1%}, and {asked:.1%} is asked for"
            return Verdict.UNKNOWN, why
        edge = "the band" if limit is None else f"the limit {limit:g}"
        return Verdict.UNKNOWN, f"the interval does not tell on which side of {edge} the ratio is"
    if limit is None or found.verdict == Verdict.WORSE:
        return found.verdict, None
    # It is below the limit. Whether it became better is a question of the band.
    is_better = compare(entry.pairs, band=rule.band).verdict == Verdict.BETTER
    return (Verdict.BETTER if is_better else Verdict.SAME), None
