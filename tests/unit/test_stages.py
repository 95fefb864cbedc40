"""What a worker reports of a compile, from the commands that inductor runs. No torch is needed."""

from __future__ import annotations

import io
import json
import queue
import subprocess
import sys
import types
from typing import Any

import pytest

from aoti_build._torch.compiling.stages import first_error, followed, output_of, stage_of
from aoti_build._torch.events import Events

COMPILE = "g++ {name}.cpp -fPIC -O3 -c -o /cache/cxy/{name}.o"


def said(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def events(stream: io.StringIO) -> Events:
    return Events(stream, queue.Queue())


@pytest.mark.parametrize(
    ("command", "stage"),
    [
        (COMPILE.format(name="cabc.wrapper"), "wrapper"),
        (COMPILE.format(name="cdef.kernel"), "kernels"),
        ("g++ a.o b.o -shared -o /cache/cabc.wrapper.so", "link"),
        ("g++ -x c++-header h.h -o /cache/h.h.gch", "headers"),
        ("g++ --version", None),
        ("g++ probe.cpp -shared -o /cache/cprobe.so", None),
        ("g++ -o", None),
    ],
)
def test_the_stage_of_a_compiler_call(command: str, stage: str | None) -> None:
    assert stage_of(command.split()) == stage


def test_the_name_of_the_output() -> None:
    assert output_of(["ld", "-o", "/a/b.so", "c.o"]) == "b.so"
    assert output_of(["ld", "c.o"]) == ""


def test_a_compile_is_followed(events: Events, stream: io.StringIO) -> None:
    quiet = [sys.executable, "-c", "", "-o"]
    real = subprocess.Popen
    with events.phase("compile"), followed(events):
        subprocess.run([*quiet, "/x/a.wrapper.o"], check=True)
        subprocess.check_output([*quiet, "/x/a.kernel.o"])
        subprocess.check_call((*quiet, "/x/a.wrapper.so"))
        with pytest.raises(FileNotFoundError):
            subprocess.run("no-such-compiler", check=True)
    assert subprocess.Popen is real
    announced = [entry["name"] for entry in said(stream) if entry["type"] in ("phase", "stage")]
    assert announced == ["compile", "codegen", "wrapper", "kernels", "link"]
    spans = [entry for entry in said(stream) if entry["type"] == "span"]
    programs = [entry["facts"]["output"] for entry in spans if entry["kind"] == "program"]
    assert programs == ["a.wrapper.o", "a.kernel.o", "a.wrapper.so"]
    stages = [entry for entry in spans if entry["kind"] == "stage"]
    assert [entry["name"] for entry in stages] == ["codegen", "wrapper", "kernels", "link"]
    (phase,) = [entry for entry in spans if entry["kind"] == "phase"]
    # They nest: the phase has the stages, one after another.
    ends = [entry["start"] + entry["seconds"] for entry in stages]
    assert phase["start"] <= stages[0]["start"]
    assert all(end <= later["start"] + 1e-3 for end, later in zip(ends, stages[1:], strict=False))
    assert ends[-1] <= phase["start"] + phase["seconds"] + 1e-3


def test_kernels_and_candidates_are_counted(
    events: Events, stream: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With stand-ins for inductor's modules, which have the same functions."""

    class AlgorithmSelectorCache:
        @classmethod
        def benchmark_choices(cls, choices: list[str], scale: int = 1) -> list[int]:
            return [cls.benchmark_choice(choice) * scale for choice in choices]

        @classmethod
        def benchmark_choice(cls, choice: str) -> int:
            return len(choice)

    compiling = types.SimpleNamespace(tqdm=None)

    def wait() -> None:
        bar = compiling.tqdm(total=2, desc="Inductor Compilation", disable=True, delay=0)
        bar.set_postfix_str("kernel")
        bar.update(1)
        bar.update(1)

    compiling.tqdm = object()
    selecting = types.SimpleNamespace(AlgorithmSelectorCache=AlgorithmSelectorCache)
    monkeypatch.setitem(sys.modules, "torch._inductor.async_compile", compiling)
    monkeypatch.setitem(sys.modules, "torch._inductor.select_algorithm", selecting)
    before = vars(AlgorithmSelectorCache)["benchmark_choices"]
    with events.phase("compile"), followed(events):
        assert AlgorithmSelectorCache.benchmark_choices(["a", "bb"], scale=2) == [2, 4]
        wait()
    assert vars(AlgorithmSelectorCache)["benchmark_choices"] is before
    counts = [
        (entry["name"], entry.get("done", 0), entry.get("total", 0))
        for entry in said(stream)
        if entry["type"] == "stage"
    ]
    assert counts == [
        ("codegen", 0, 0),
        ("autotune", 0, 2),
        ("autotune", 1, 2),
        ("autotune", 2, 2),
        ("kernels", 0, 2),
        ("kernels", 1, 2),
        ("kernels", 2, 2),
    ]


def test_a_torch_without_these_functions_loses_detail_only(
    events: Events, stream: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("async_compile", "select_algorithm", "runtime.triton_heuristics"):
        monkeypatch.setitem(sys.modules, f"torch._inductor.{name}", types.SimpleNamespace())
    with events.phase("compile"), followed(events):
        pass
    assert [entry["name"] for entry in said(stream)][:2] == ["compile", "codegen"]


@pytest.mark.parametrize(
    ("output", "line"),
    [
        (
            "In file included from a.h:1:\n/tmp/x/b.cpp:7:3: error: no member 'x'\nb.cpp:9: error",
            "b.cpp:7:3: error: no member 'x'",
        ),
        (
            "/cache/a.cpp:1:10: fatal error: torch/x.h: No such file or directory\n",
            "a.cpp:1:10: fatal error: torch/x.h: No such file or directory",
        ),
        (
            "g++: fatal error: Killed signal terminated program cc1plus\ncompilation terminated.",
            "g++: fatal error: Killed signal terminated program cc1plus",
        ),
        ("a warning: unused\nerrors happen", ""),
    ],
)
def test_the_first_error_of_a_compiler(output: str, line: str) -> None:
    assert first_error(f"CppCompileError: C++ compile error\n\nOutput:\n{output}") == line
