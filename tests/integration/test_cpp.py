"""`invoke verify --runtime cpp`, and the example of a C++ service, on real artifacts."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import Finished, run_inv
from projects import write_single
from test_faults import tamper

REPOSITORY = Path(__file__).parents[2]
EXAMPLE = REPOSITORY / "examples" / "cpp"


@pytest.fixture
def cache(cpp_cache: dict[str, str]) -> dict[str, str]:
    return cpp_cache


def test_references_and_refusals_pass_from_cpp_as_from_python(
    built: Path, cache: dict[str, str]
) -> None:
    """The tagger has int64 and bool inputs, a dict of outputs and a dynamic size."""
    reports = {
        runtime: run_inv(built, "verify", "--jobs", "2", "--json", "--runtime", runtime, env=cache)
        for runtime in ("python", "cpp")
    }
    for runtime, finished in reports.items():
        assert finished.code == 0, finished.out + finished.err
        assert finished.json["runtime"] == runtime
        assert {row["runtime"] for row in finished.json["targets"]} == {runtime}
    for one, other in zip(
        *(finished.json["targets"] for finished in reports.values()), strict=True
    ):
        assert said(one) == said(other)
    assert len(reports["cpp"].target("tagger/cpu")["cases"]) > 3
    assert json.loads((built / "artifacts/linear/cpu/verify.json").read_bytes())["runtime"] == "cpp"
    (program,) = (
        path for path in Path(cache["AOTI_BUILD_CACHE"]).glob("build/runner/*") if not path.suffix
    )
    made = program.stat().st_mtime_ns
    again = run_inv(built, "verify", "--target", "linear", "--runtime", "cpp", env=cache)
    assert (again.code, program.stat().st_mtime_ns) == (0, made), "the runner was compiled again"
    assert again.out.strip().endswith("1 artifact: 1 passed, called from C++")


def said(row: dict[str, Any]) -> tuple[list[object], list[object]]:
    """Which outputs were compared with what result, and which inputs were refused."""
    outputs = [
        (case["name"], out["name"], out["ok"], out["by"])
        for case in row["cases"]
        for out in case["outputs"]
    ]
    return outputs, [(probed["name"], probed["ok"]) for probed in row["refusals"]]


@pytest.mark.slow
def test_one_wrong_weight_is_found_from_cpp(built: Path, cache: dict[str, str]) -> None:
    def off(values: Any) -> None:
        values[3] += 1e-2

    tamper(built / "artifacts/weighted/cpu", off)
    finished = run_inv(
        built, "verify", "--json", "--runtime", "cpp", "--target", "weighted", env=cache
    )
    assert finished.code == 3
    row = finished.target("weighted/cpu")
    assert row["verdict"] == "mismatch"
    assert any(
        not output["ok"] and output["max_abs"] > 1e-4
        for case in row["cases"]
        for output in case["outputs"]
    )


@pytest.mark.slow
def test_a_crash_in_cpp_is_a_verdict_with_the_signals_name(
    built: Path, cache: dict[str, str], tmp_path: Path
) -> None:
    """A library that the runner alone is given, and that dies of SIGSEGV when it is loaded."""
    source, library = tmp_path / "crash.c", tmp_path / "crash.so"
    source.write_text(
        "#include <signal.h>\n#include <string.h>\nextern char *program_invocation_short_name;\n"
        "__attribute__((constructor)) static void crash(void) {\n"
        '  if (!strncmp(program_invocation_short_name, "runner-", 7)) raise(SIGSEGV);\n}\n'
    )
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-D_GNU_SOURCE", str(source), "-o", str(library)], check=True
    )
    run_inv(built, "verify", "--target", "linear", "--runtime", "cpp", env=cache)
    env = {**cache, "LD_PRELOAD": str(library)}
    finished = run_inv(built, "verify", "--json", "--runtime", "cpp", "--target", "linear", env=env)
    assert finished.code == 3
    row = finished.target("linear/cpu")
    assert row["verdict"] == "crashed"
    assert "SIGSEGV" in row["error"]["message"]


def test_a_compiler_that_fails_ends_with_5(built: Path, tmp_path: Path) -> None:
    env = {"AOTI_BUILD_CACHE": str(tmp_path / "cache"), "CXX": "false"}
    finished = run_inv(built, "verify", "--json", "--runtime", "cpp", env=env)
    assert finished.code == 5
    assert "doctor" in finished.json["error"]["hint"]
    assert "C++ runner" in finished.json["error"]["message"]


HALVES = """\
import torch
from torch import nn


class Halves(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 4)

    def forward(self, half, brain, double, count):
        mixed = half.float() + brain.float()
        return self.linear(mixed).half(), brain * 2, double.sum(), count + 1, mixed > 0
"""


@pytest.mark.slow
def test_other_dtypes_and_no_rank_go_through_files(tmp_path: Path, cache: dict[str, str]) -> None:
    shapes = {"half": "float16", "brain": "bfloat16", "double": "float64", "count": "int32"}
    entries = "".join(
        f"    {name}: {{shape: [3, 8], dtype: {dtype}}}\n" for name, dtype in shapes.items()
    )
    write_single(tmp_path, HALVES, f"halves:\n  source: net.py:Halves\n  inputs:\n{entries}")
    built = run_inv(tmp_path, "build", env=cache)
    assert built.code == 0, built.out + built.err
    finished = run_inv(tmp_path, "verify", "--json", "--runtime", "cpp", env=cache)
    assert finished.code == 0, finished.out + finished.err
    (case,) = finished.target("halves/cpu")["cases"]
    found = [(output["dtype"], output["ok"]) for output in case["outputs"]]
    assert found == [(name, True) for name in ("float16", "bfloat16", "float64", "int32", "bool")]


EAGER = """
import sys, torch
values = torch.arange(32, dtype=torch.float32).view(4, 8) / 7
values.numpy().tofile(sys.argv[1])
loader = torch._C._aoti.AOTIModelPackageLoader(sys.argv[2], "model", False, 1, -1)
print(*loader.run([values])[0].flatten().tolist())
"""


@pytest.mark.slow
@pytest.mark.parametrize("way", ["build.sh", "cmake"])
def test_the_example_service_answers_what_python_answers(
    built_once: tuple[Path, Finished], tmp_path: Path, way: str
) -> None:
    package = built_once[0] / "artifacts/linear/cpu/model.pt2"
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    if way == "cmake":
        if shutil.which("cmake") is None:
            pytest.skip("there is no cmake")
        call(["cmake", "-S", EXAMPLE, "-B", tmp_path, f"-DPython_EXECUTABLE={sys.executable}"], env)
        call(["cmake", "--build", tmp_path], env)
    else:
        call([EXAMPLE / "build.sh", tmp_path / "service"], {**env, "PYTHON": sys.executable})
    values = tmp_path / "values.bin"
    expected = call([sys.executable, "-c", EAGER, values, package], env).split()
    request = f"float32 4x8 {values}\nfloat32 4x7 {values}\n"
    said = call(
        [tmp_path / "service", package], {**env, "AOTI_RUNTIME_CHECK_INPUTS": "1"}, request
    ).splitlines()
    assert said[0].startswith("output 0 float32 4x4:")
    assert [float(word) for word in said[0].partition(":")[2].split()] == pytest.approx(
        list(map(float, expected))
    )
    assert said[1].startswith("took ")
    assert said[2].startswith("refused: ")


def call(words: list[Any], env: dict[str, str], text: str = "") -> str:
    done = subprocess.run(
        list(map(str, words)), env=env, input=text, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
