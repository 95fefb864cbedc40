"""results.json, which holds the newest row of each entry, and docs/zoo.md, which is written from it.

``python tests/zoo/table.py`` writes the document anew.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from zoo import ENTRIES

RESULTS = Path(__file__).with_name("results.json")
DOCUMENT = Path(__file__).parents[2] / "docs" / "zoo.md"


def record(rows: Iterable[Mapping[str, Any]]) -> None:
    """Keep `rows` in place of earlier ones of the same entries, and write the document."""
    known = read()
    known.update({row["name"]: dict(row) for row in rows})
    order = [entry.name for entry in ENTRIES if entry.name in known]
    RESULTS.write_text(json.dumps({name: known[name] for name in order}, indent=1) + "\n")
    DOCUMENT.write_text(document())


def read() -> dict[str, dict[str, Any]]:
    return json.loads(RESULTS.read_bytes()) if RESULTS.exists() else {}


def document() -> str:
    return "TODO\n"


if __name__ == "__main__":
    DOCUMENT.write_text(document())
