"""What an error of a failed check advises."""

from __future__ import annotations

from pathlib import Path

from aoti_build.figures import CallFigures, OutputFigures
from aoti_build.work.check_failure import comparison_error

REFUSED = "the package refused inputs of its range: expected size 4==4, stride 60==1 at dim=1"


def hint(why: str) -> str:
    outputs = (OutputFigures(name="(call)", ok=False, why=why),)
    case = CallFigures(name="min", sizes={}, seed=0, outputs=outputs)
    return comparison_error([case], Path("build.log"), None).hint or ""


def test_a_result_in_another_memory_format_is_named() -> None:
    assert "Raise `min` of the dim, or remove `memory_format`" in hint(REFUSED)
    assert "memory_format" not in hint("2 outputs, expected 1")
