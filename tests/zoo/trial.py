"""One entry from models.yaml to compared calls: what a user does, by the same commands, and how
long it took."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from entry import Entry

HERE = Path(__file__).parent
LIMIT_S = 600
REASON = 600  # characters of torch's reason that are kept


def try_entry(entry: Entry, root: Path, *, plain: bool) -> dict[str, Any]:
    """Write the project of `entry` into `root`, build it, verify it strictly, load it and compare
    calls with eager.

    Returns the row: `outcome` is "served", or the first step that did not hold ("build", "verify"
    or "calls"), with `message`, the error there. `plain` does it with torch alone as well.
    """
    root.mkdir(parents=True, exist_ok=True)
    (root / "models.yaml").write_text(entry.models_yaml())
    (root / "tasks.py").write_text("from aoti_build.tasks import ns\n")
    if entry.python:
        (root / "nets.py").write_text(entry.nets())
    row: dict[str, Any] = {
        "name": entry.name,
        "library": entry.library,
        "kind": entry.kind,
        "note": entry.note,
        "dims": _dims(root),
        "yaml_lines": entry.yaml_lines(),
        "python_lines": entry.python_lines(),
        **_ours(entry, root),
    }
    if plain:
        row["plain"] = _plain(entry, root)
    return row


def _ours(entry: Entry, root: Path) -> dict[str, Any]:
    seconds: dict[str, float] = {}
    built = _inv(root, seconds, "build", "--json")
    if built.returncode:
        return {"outcome": "build", "message": _error(built), "seconds": seconds}
    verified = _inv(root, seconds, "verify", "--strict", "--json")
    if verified.returncode:
        return {"outcome": "verify", "message": _error(verified), "seconds": seconds}
    served = _python(root, "served.py", str(root), str(entry.bound))
    if served.returncode:
        return {"outcome": "calls", "message": served.stderr[-REASON:], "seconds": seconds}
    calls = json.loads(served.stdout.splitlines()[-1])
    differs = [f"{call['sizes']}: {call['differs']}" for call in calls if call["differs"]]
    return {
        "outcome": "calls" if differs else "served",
        "message": "; ".join(differs),
        "calls": calls,
        "seconds": seconds,
    }


def _plain(entry: Entry, root: Path) -> dict[str, Any]:
    finished = _python(root, "plain.py", str(root), str(entry.bound))
    if finished.returncode:
        return {"calls": [], "error": f"exit {finished.returncode}: {finished.stderr[-REASON:]}"}
    answer: dict[str, Any] = json.loads(finished.stdout.splitlines()[-1])
    return {**answer, "error": answer["error"][:REASON]}


def _dims(root: Path) -> str:
    from aoti_build.errors import AotiBuildError
    from aoti_build.models_file import load_project

    try:
        (target,) = load_project(root / "models.yaml").targets
    except AotiBuildError:
        return ""
    return ", ".join(f"{dim.name} {dim.min}..{dim.max}" for dim in target.model.dims)


def _inv(
    root: Path, seconds: dict[str, float], command: str, *words: str
) -> subprocess.CompletedProcess[str]:
    start = time.monotonic()
    finished = _started(root, "-m", "invoke", command, *words)
    seconds[command] = round(time.monotonic() - start, 1)
    return finished


def _python(root: Path, script: str, *words: str) -> subprocess.CompletedProcess[str]:
    return _started(root, str(HERE / script), *words)


def _started(root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    try:
        return subprocess.run(
            [sys.executable, *words],
            cwd=root,
            env={**os.environ, **offline},
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
    except (
        subprocess.TimeoutExpired
    ):  # an outcome of this entry, which must not cost the rows of the others
        return subprocess.CompletedProcess(words, 124, "", f"not done after {LIMIT_S} seconds")


def _error(finished: subprocess.CompletedProcess[str]) -> str:
    """The error of a task's JSON, as one text: place, message, cause and hint."""
    try:
        document = json.loads(finished.stdout)
    except json.JSONDecodeError:
        return (finished.stdout + finished.stderr)[-2 * REASON :]
    rows = document.get("targets", [])
    error = next(filter(None, [document.get("error"), *(row.get("error") for row in rows)]), None)
    if error:
        return "\n".join(
            f"{part}: {error[part]}"
            for part in ("where", "message", "cause", "hint")
            if error.get(part)
        )
    told = [
        {
            name: row[name]
            for name in ("verdict", "vacuous", "out_of_date", "refusals")
            if row.get(name)
        }
        for row in rows
    ]
    wrong = [
        f"{case['name']} {case['sizes']}: {output['name']}: {output['why']}"
        for row in rows
        for case in row.get("cases", [])
        for output in case["outputs"]
        if not output["ok"]
    ]
    return "\n".join([*map(str, told), *wrong])[: 4 * REASON]
