"""What a report says about the comparison of an artifact with eager mode.

The newest `verify` of the published artifact counts. Without one it is the check of the build.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aoti_build.artifact.manifest import VERIFY, Manifest
from aoti_build.commands.verdicts import VerdictKind
from aoti_build.common.fields import loads
from aoti_build.common.json_object import JsonObject
from aoti_build.common.reading import RECORD_LIMIT, read_bytes
from aoti_build.figures import CallFigures, OutputFigures, Refusal, typed

BUILD = "build"
VERIFY_TASK = "verify"


@dataclass(frozen=True)
class WorstOutput:
    """An output in the case in which it came closest to its bound, or furthest beyond it.

    `used` is the part of the bound that it took: 1.0 is the bound itself. None if the rule has no
    such number.
    """

    case: str
    figures: OutputFigures
    used: float | None


@dataclass(frozen=True)
class Verification:
    """The result of a comparison.

    Attributes:
        source: `BUILD` or `VERIFY_TASK`.
        verdict: a word of `VerdictKind`.
        cases: what was compared.
        refusals: inputs that the artifact must refuse.
        why: why there was no comparison, or what failed.
    """

    source: str
    verdict: str
    cases: tuple[CallFigures, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    why: str | None = None

    @property
    def passed(self) -> bool:
        return self.verdict == VerdictKind.PASSED

    @property
    def outputs(self) -> list[WorstOutput]:
        """Each output in its worst case, the worst output first."""
        worst: dict[str, WorstOutput] = {}
        for case in self.cases:
            for figures in case.outputs:
                entry = WorstOutput(case.name, figures, _used(figures))
                known = worst.get(figures.name)
                if known is None or _badness(entry) > _badness(known):
                    worst[figures.name] = entry
        return sorted(worst.values(), key=_badness, reverse=True)

    def as_json(self) -> JsonObject:
        outputs = self.outputs
        return {
            "source": self.source,
            "verdict": self.verdict,
            "cases": len(self.cases),
            "worst": _worst_json(outputs[0]) if outputs else None,
            "why": self.why,
        }


def _worst_json(worst: WorstOutput) -> JsonObject:
    return {
        "output": worst.figures.name,
        "case": worst.case,
        "max_abs": worst.figures.max_abs,
        "used": worst.used,
    }


def _badness(entry: WorstOutput) -> tuple[bool, float, float]:
    return (not entry.figures.ok, entry.used or 0.0, entry.figures.max_abs or 0.0)


def _used(figures: OutputFigures) -> float | None:
    if figures.by == "fp64" and figures.fp64 is not None and figures.fp64.allowed > 0:
        return figures.fp64.candidate_rmse / figures.fp64.allowed
    if figures.needed_atol is not None and figures.atol:
        return figures.needed_atol / figures.atol
    return None


def verification_of(manifest: Manifest, directory: Path) -> Verification:
    """The verification of the artifact in `directory`."""
    found = _of_verify(manifest, directory / VERIFY)
    return _of_build(manifest) if found is None else found


def _of_verify(manifest: Manifest, path: Path) -> Verification | None:
    """That of `verify.json`. None if the file is of another artifact, or cannot be read."""
    try:
        document = loads(read_bytes(path, RECORD_LIMIT))
        is_known = document["format"] == "aoti-build/verdict" and document["format_version"] == 2
        if not is_known or document["key"] != manifest.key:
            return None
        error = document["error"]
        return Verification(
            VERIFY_TASK,
            str(VerdictKind(document["verdict"])),
            _cases(document["cases"]),
            tuple(typed(refusal, Refusal) for refusal in document["refusals"]),
            why=str(error["message"]) if error else None,
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _of_build(manifest: Manifest) -> Verification:
    if manifest.unverified is not None:
        return Verification(BUILD, VerdictKind.UNVERIFIED, why=manifest.unverified)
    try:
        cases = _cases(manifest.check.get("cases", []))
    except ValueError:
        # Another release may have recorded other figures.
        cases = ()
    return Verification(BUILD, VerdictKind.PASSED, cases)


def _cases(documents: Iterable[Mapping[str, Any]]) -> tuple[CallFigures, ...]:
    return tuple(typed(document, CallFigures) for document in documents)
