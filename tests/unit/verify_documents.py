"""Reports of `verify` from JSON as its documents have it, for the writers of reports."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec

from aoti_build.artifact.reasons import Reason
from aoti_build.commands.verify.report import Verdict, VerifyReport
from aoti_build.errors import AotiBuildError
from aoti_build.figures import CallFigures, Refusal, Vacuous, typed
from aoti_build.messages import LocalizeResult


def target(verdict: str = "passed", **fields: Any) -> dict[str, Any]:
    return {"target": "small/cpu", "verdict": verdict, "seconds": 1.25, **fields}


def case(*outputs: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"name": "example", "sizes": {"batch": 4}, "seed": 7, "outputs": list(outputs), **fields}


def verify_report(*targets: dict[str, Any], strict: bool = False) -> VerifyReport:
    return VerifyReport(tuple(_verdict(**fields) for fields in targets), strict)


def _verdict(target: str, **fields: Any) -> Verdict:
    kinds = {"cases": CallFigures, "refusals": Refusal, "vacuous": Vacuous}
    for name, kind in kinds.items():
        fields[name] = tuple(typed(entry, kind) for entry in fields.get(name, ()))
    fields["out_of_date"] = tuple(Reason(**entry) for entry in fields.get("out_of_date", ()))
    if "localization" in fields:
        fields["localization"] = msgspec.convert(
            {"type": "localize-result", "weights": [], "left": None, **fields["localization"]},
            LocalizeResult,
        )
    if fields.get("error"):
        fields["error"] = _error(**fields["error"])
    return Verdict(cast("Any", SimpleNamespace(name=target)), **fields)


def _error(message: str, log: str | None = None, **answers: str) -> AotiBuildError:
    return AotiBuildError(message, log=Path(log) if log else None, **answers)
