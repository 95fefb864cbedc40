"""Parts of the JSON document of `verify`, as the writers of reports get them."""

from __future__ import annotations

from typing import Any


def target(verdict: str = "passed", **fields: Any) -> dict[str, Any]:
    return {
        "target": "small/cpu",
        "verdict": verdict,
        "seconds": 1.25,
        "out_of_date": [],
        "cases": [],
        **fields,
    }


def case(*outputs: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"name": "example", "sizes": {"batch": 4}, "seed": 7, "outputs": list(outputs), **fields}
