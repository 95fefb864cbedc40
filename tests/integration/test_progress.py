"""What a real build leaves behind about its time, and what it says when the compiler fails."""

from __future__ import annotations

import gzip
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from conftest import Finished, run_inv
from projects import write_single

SOURCE = "from torch import nn\n\n\ndef build():\n    return nn.Linear(8, 4)\n"
MODEL = "net:\n  source: net.py:build\n  inputs: [{shape: [2, 8]}]\n"
STAGES = {"codegen", "wrapper", "kernels", "link"}
# A compiler that fails for the kernels of a model.
COMPILER = """\
#!/bin/sh
for word in "$@"; do
  case "$word" in
    *kernel.o) echo "/cache/cabc.kernel.cpp:12:5: error: no such intrinsic" >&2; exit 1;;
  esac
done
exec g++ "$@"
"""


def test_a_trace_has_the_processes_the_stages_and_the_compiler_calls(
    built_once: tuple[Path, Finished],
) -> None:
    root, finished = built_once
    assert finished.json["trace"] == "artifacts/.logs/trace.json.gz"
    path = root / finished.json["trace"]
    events: list[dict[str, Any]] = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    complete = [event for event in events if event["ph"] == "X"]
    compiled = [row["target"] for row in finished.json["targets"] if row["action"] == "compiled"]
    for target in compiled:
        own = [event for event in complete if event["args"]["target"] == target]
        kinds = {event["cat"] for event in own}
        assert {"target", "phase", "process", "stage", "program"} <= kinds
        assert {event["name"] for event in own if event["cat"] == "stage"} >= STAGES
        outputs = [event["args"].get("output", "") for event in own if event["cat"] == "program"]
        assert sum(output.endswith("wrapper.so") for output in outputs) == 1
        # A worker's phases and stages are inside its process.
        for process in (event for event in own if event["cat"] == "process"):
            for event in own:
                if event["pid"] == process["pid"]:
                    assert process["ts"] <= event["ts"]
                    end = process["ts"] + process["dur"]
                    assert event["ts"] + event["dur"] <= end


def test_later_builds_know_how_long_the_stages_took(built_once: tuple[Path, Finished]) -> None:
    root, finished = built_once
    record = json.loads((root / "artifacts/.durations.json").read_text())
    for row in finished.json["targets"]:
        if row["action"] == "compiled":
            stages = record["targets"][row["target"]]
            assert stages.keys() >= {"start", "export", "reference", *STAGES, "check", "publish"}
            assert sum(stages.values()) >= row["seconds"]["total"] - 1


def test_without_a_terminal_each_target_has_a_line(built_once: tuple[Path, Finished]) -> None:
    _, finished = built_once
    lines = re.findall(r"^\d{4}-\d\d-\d\dT\S+ (\S+) compiled in [\d.]+ s$", finished.err, re.M)
    assert sorted(lines) == sorted(row["target"] for row in finished.json["targets"])


def test_packages_without_state_are_timed_against_eager(
    built_once: tuple[Path, Finished],
) -> None:
    """Other programs may have disturbed all calls. Then there is no figure."""
    for row in built_once[1].json["targets"]:
        if row["latency"] is not None:
            assert 0 < row["latency"]["artifact"] < 60
            assert row["latency"]["eager"] is None or 0 < row["latency"]["eager"] < 60


@pytest.mark.slow
def test_a_failure_has_the_first_error_of_the_compiler(tmp_path: Path) -> None:
    write_single(tmp_path, SOURCE, MODEL)
    compiler = tmp_path / "cxx"
    compiler.write_text(COMPILER)
    compiler.chmod(0o755)
    finished = run_inv(tmp_path, "build", env={"CXX": str(compiler), "PATH": os.environ["PATH"]})
    assert finished.code == 1, finished.err
    line = next(line for line in finished.out.splitlines() if line.startswith("error: "))
    assert line.startswith("error: net/cpu: inductor could not compile the exported program: ")
    assert line.endswith("cabc.kernel.cpp:12:5: error: no such intrinsic")
    log = next((tmp_path / "artifacts/.logs").glob("net@*@build.log"))
    assert "no such intrinsic" in log.read_text()
