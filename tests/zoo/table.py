"""results.json, which holds the newest row of each entry, and docs/zoo.md, which is written from
it.

``python tests/zoo/table.py`` writes the document anew.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from zoo import ENTRIES

RESULTS = Path(__file__).with_name("results.json")
DOCUMENT = Path(__file__).parents[2] / "docs" / "zoo.md"

Row = Mapping[str, Any]

HEAD = """\
# Tested architectures

The zoo is a set of real architectures in small configurations, from the libraries that people use.
Each one is built, verified with `--strict` and loaded with `aoti_build.load`. It is then called at
its smallest sizes, and at sizes that no check used. Outputs and their structure are compared with
eager mode. Where the task has a batch, one artifact serves the whole range from 1 on.

```sh
pip install -e '.[test,zoo]' && pip install --no-deps facenet-pytorch
pytest -m zoo_ci   # the part that CI runs
pytest -m zoo      # all entries, each beside torch alone; writes this document
```

The entries are in `tests/zoo`. An entry is a model of `models.yaml`, and a factory's file where
one is needed.

<!-- written by tests/zoo/table.py -->
"""

COLUMNS = """\
- **dims**: the sizes that one artifact serves.
- **build**: seconds of `inv build`, including the comparison with eager mode.
- **plain**: seconds of a script that does the least with torch alone: import, export and
  `aoti_compile_and_package`.
- **verify**: seconds of `inv verify --strict`.
- **yaml**, **Python**: the lines that a user writes for this model.
- **plain torch**: at how many of the same sizes the package of the plain script equals eager mode.

All ran on two shared cores. Compare the columns with each other, not with another machine.
"""

GPU = """\
## On a GPU

`tests/gpu/test_cuda_zoo.py` does the same on a CUDA device, from a batch of 1. It ran on an H200
with torch 2.11, and all five were served at sizes that no check used.

| model | dtype | sizes |
| --- | --- | --- |
| BERT, 2 layers | bfloat16 | batch 1..8, seq 2..64 |
| Llama, 2 layers | bfloat16 | batch 1..8, seq 2..64 |
| swin_t | float16 | batch 1..8 |
| causal attention | float32 | batch 1..8, seq 1..64 |
| convolution with batch norm, `max_autotune` | float32 | batch 1..8 |
"""


def record(rows: Iterable[Row]) -> None:
    """Keep `rows` in place of earlier ones of the same entries, and write the document."""
    rows_by_name = read()
    rows_by_name.update({row["name"]: row for row in rows})
    order = [entry.name for entry in ENTRIES if entry.name in rows_by_name]
    RESULTS.write_text(json.dumps({name: rows_by_name[name] for name in order}, indent=1) + "\n")
    DOCUMENT.write_text(document(rows_by_name))


def read() -> dict[str, Row]:
    return json.loads(RESULTS.read_bytes()) if RESULTS.exists() else {}


def document(rows_by_name: Mapping[str, Row]) -> str:
    """The text of docs/zoo.md."""
    rows = [rows_by_name[entry.name] for entry in ENTRIES if entry.name in rows_by_name]
    expected = {entry.name: entry.refused for entry in ENTRIES}
    served = [row for row in rows if row["outcome"] == "served"]
    refused = [row for row in rows if row["outcome"] == "build" and expected[row["name"]]]
    others = [row for row in rows if row not in served and row not in refused]
    count = (
        f"There are {len(ENTRIES)} entries. {len(rows)} have a result, and **{len(served)}** of"
        " them are served.\n"
    )
    parts = [HEAD, count, COLUMNS, _served(served), GPU]
    if refused:
        parts += ["## What torch cannot export\n", *map(_refused, refused)]
    if others:
        parts += ["## Not served yet\n", *map(_refused, others)]
    return "\n".join(parts)


def _served(rows: Sequence[Row]) -> str:
    heads = (
        "model",
        "library",
        "dims",
        "build",
        "plain",
        "verify",
        "yaml",
        "Python",
        "plain torch",
        "remarks",
    )
    return _table(heads, [_served_cells(row) for row in rows])


def _served_cells(row: Row) -> tuple[str, ...]:
    plain = row.get("plain", {})
    remarks = ", ".join(filter(None, (row["kind"], row["note"])))
    return (
        row["name"],
        row["library"],
        row["dims"] or "fixed",
        f"{row['seconds']['build']:.0f}",
        f"{plain['seconds']:.0f}" if "seconds" in plain else "",
        f"{row['seconds']['verify']:.0f}",
        str(row["yaml_lines"]),
        str(row["python_lines"]),
        _plain(plain),
        remarks,
    )


def _plain(plain: Mapping[str, Any]) -> str:
    if not plain:
        return ""
    if plain["error"]:
        return _first_line(plain["error"], 80)
    right = [call for call in plain["calls"] if not call["differs"]]
    wrong = [call["sizes"] for call in plain["calls"] if call["differs"]]
    count = f"{len(right)} of {len(plain['calls'])}"
    return count + (f", wrong at {_sizes(wrong[0])}" if wrong else "")


def _refused(row: Row) -> str:
    plain = row.get("plain", {})
    torch_message = plain.get("error") or "; ".join(
        f"{_sizes(call['sizes'])}: {call['differs']}"
        for call in plain.get("calls", [])
        if call["differs"]
    )
    message = row["message"].strip() or "(nothing)"
    parts = [f"### {row['name']} ({row['library']})\n"]
    if torch_message:
        parts.append(f"torch alone: `{_first_line(torch_message, 300)}`\n")
    return "\n".join([*parts, f"At {row['outcome']}:\n", f"```text\n{message}\n```\n"])


def _sizes(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {size}" for name, size in sizes.items())


def _first_line(text: str, most: int) -> str:
    return text.strip().splitlines()[0][:most].replace("|", "\\|").replace("`", "'")


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    DOCUMENT.write_text(document(read()))
