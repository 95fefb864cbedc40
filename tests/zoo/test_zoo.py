"""Real architectures, each built, verified strictly, loaded, and called at sizes that no check
used.

``pytest -m zoo_ci`` runs the part that CI has time for; ``pytest -m zoo`` all of it, with torch
alone beside each, and writes results.json, of which table.py makes docs/zoo.md.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import table
from entry import Entry
from trial import try_entry
from zoo import ENTRIES

Trials = dict[str, "Future[dict[str, Any]]"]
_RECORDING = threading.Lock()


def _marked(entry: Entry) -> Any:
    marks = [pytest.mark.zoo, *([pytest.mark.zoo_ci] if entry.ci else [])]
    return pytest.param(entry, id=entry.name, marks=marks)


@pytest.fixture(scope="module")
def trials(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Trials]:
    """The chosen entries, as many at a time as there are cores: most of a compile is one C++
    compiler."""
    calls = [item.callspec for item in request.session.items if hasattr(item, "callspec")]
    chosen = [call.params["entry"] for call in calls if "entry" in call.params]
    full = request.config.option.markexpr == "zoo"
    root = tmp_path_factory.mktemp("zoo")
    if full and chosen:
        try_entry(
            ENTRIES[0], root / "first", plain=True
        )  # what only a machine's first compile does is in no row
    with ThreadPoolExecutor(int(os.environ.get("ZOO_JOBS", os.cpu_count() or 1))) as pool:
        futures = {
            entry.name: pool.submit(_tried, entry, root / entry.name, full=full)
            for entry in chosen
            if not _missing(entry)
        }
        yield futures


@pytest.mark.parametrize("entry", [_marked(entry) for entry in ENTRIES])
def test_is_served(entry: Entry, trials: Trials) -> None:
    if missing := _missing(entry):
        pytest.skip(f"needs {missing}: pip install -e '.[zoo]'")
    row = trials[entry.name].result()
    if not entry.refused:
        assert row["outcome"] == "served", row["message"]
        return
    assert row["outcome"] == "build"
    for text in entry.refused:
        assert text in row["message"]
    if "plain" in row:
        assert row["plain"]["error"] or any(call["differs"] for call in row["plain"]["calls"])


def _tried(entry: Entry, root: Path, *, full: bool) -> dict[str, Any]:
    try:
        row = try_entry(entry, root, plain=full)
    finally:
        shutil.rmtree(root, ignore_errors=True)  # all artifacts together would take gigabytes
    if full:
        with _RECORDING:
            table.record([row])
    return row


def _missing(entry: Entry) -> str:
    return ", ".join(name for name in entry.needs if importlib.util.find_spec(name) is None)


def test_the_document_is_what_the_results_say() -> None:
    assert table.DOCUMENT.read_text() == table.document(table.read()), (
        "python tests/zoo/table.py writes it"
    )
