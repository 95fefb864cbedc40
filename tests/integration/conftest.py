"""Fixtures that compile once per test session; tests change copies."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from projects import write_project


@dataclass(frozen=True)
class Finished:
    """A finished `inv` process."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.out)
        return document

    def target(self, name: str) -> dict[str, Any]:
        return next(row for row in self.json["targets"] if row["target"] == name)


Inv = Callable[..., Finished]


def start_inv(
    root: Path, *words: str, env: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "invoke", *words],
        cwd=root,
        env={**os.environ, **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def run_inv(
    root: Path, *words: str, env: Mapping[str, str] | None = None, limit: float = 600
) -> Finished:
    """`inv` with `words` in `root`, as a user's shell would start it, for at most `limit`
    seconds."""
    process = start_inv(root, *words, env=env)
    out, err = process.communicate(timeout=limit)
    return Finished(process.returncode, out, err)


def wait_for_phase(root: Path, phase: str) -> None:
    """Wait until the log of a build that runs now has the phase."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        for log in (root / "artifacts/.logs").glob("*@build.log"):
            if f"--- {phase}\n" in log.read_text():
                return
        time.sleep(0.1)
    raise AssertionError(f"the build did not come to the phase {phase}")


def phases_of(root: Path, target: str) -> list[str]:
    """The phases that the last build of `target` went through, from its trace."""
    trace = gzip.decompress((root / "artifacts/.logs/trace.json.gz").read_bytes())
    return [
        event["name"]
        for event in json.loads(trace)["traceEvents"]
        if event.get("cat") == "phase" and event["args"]["target"] == target
    ]


@pytest.fixture(scope="session")
def built_once(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Finished]:
    root = tmp_path_factory.mktemp("built") / "project"
    write_project(root)
    (root.parent / "tmp").mkdir()
    finished = run_inv(root, "build", "--json", env={"TMPDIR": str(root.parent / "tmp")})
    assert finished.code == 0, finished.err
    return root, finished


@pytest.fixture
def built(built_once: tuple[Path, Finished], tmp_path: Path) -> Path:
    """A copy of the built project that a test may change."""
    root = tmp_path / "project"
    shutil.copytree(built_once[0], root)
    return root


@pytest.fixture(scope="session")
def cpp_cache(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment with one compiled C++ runner for all tests."""
    return {"AOTI_BUILD_CACHE": str(tmp_path_factory.mktemp("cache"))}
