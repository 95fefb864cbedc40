"""The check of the C++ compiler, with the host's own and with scripts that are no good in various
ways."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from aoti_build.host.checks import compiler
from aoti_build.host.checks.compiler import check_compiler, check_openssl, other_compiler
from aoti_build.host.checks.finding import FAIL, OK, WARN
from aoti_build.host.checks.inductor import cpp_standard

GOOD = shutil.which("g++") or "g++"
# As some distributed compilers do by themselves: what is linked into a shared library is theirs.
STATIC = f"""case " $* " in
*" -shared "*) exec {GOOD} "$@" -static-libstdc++ ;;
*) exec {GOOD} "$@" ;;
esac"""

Script = Callable[[str, str], str]


@pytest.fixture
def script(tmp_path: Path) -> Script:
    """Makes an executable of a name and the lines of a shell script; its path."""

    def make(name: str, lines: str) -> str:
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\n{lines}\n")
        path.chmod(0o755)
        return str(path)

    return make


@pytest.fixture
def others(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The other compilers of this machine, for a test to fill."""
    found: list[str] = []
    monkeypatch.setattr(compiler, "_compilers", lambda: iter(found))
    return found


def test_the_compiler_of_this_host_is_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    finding = check_compiler()
    assert (finding.outcome, finding.fix) == (OK, None), finding
    assert GOOD in finding.message


def test_a_statically_linked_libstdcxx_is_found_and_a_better_compiler_named(
    script: Script, others: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = script("g++-static", STATIC)
    monkeypatch.setenv("CXX", bad)
    others += [bad, script("g++-broken", "exit 1"), "/no/such/g++", GOOD]
    finding = check_compiler()
    assert (finding.outcome, finding.stops, finding.fix) == (FAIL, True, f"CXX={GOOD}")
    assert f"{bad} links libstdc++ statically" in finding.message
    assert "libstdc++.so.6" in (finding.cause or "")


def test_a_wrapper_that_adds_the_option_to_every_call_is_static_too(
    script: Script, others: list[str]
) -> None:
    finding = check_compiler(script("wrapper", f'exec {GOOD} -static-libstdc++ "$@"'))
    assert "links libstdc++ statically" in finding.message
    assert others == []
    assert "none of those found here passes" in (finding.fix or "")


def test_a_c_compiler_is_a_doubt_only(others: list[str]) -> None:
    """Its packages find libstdc++ in the process: torch has it."""
    assert others == []
    finding = check_compiler(shutil.which("gcc") or "gcc")
    assert (finding.outcome, finding.stops) == (WARN, False)
    assert "does not link libstdc++" in finding.message


@pytest.mark.parametrize(
    ("printed", "said", "fix"),
    [
        (
            "probe.cpp:4:10: fatal error: omp.h: No such file or directory",
            "omp.h is missing",
            "libomp-dev",
        ),
        (
            "/usr/bin/ld: cannot find -lgomp: No such file or directory",
            "libgomp is missing",
            "libgomp",
        ),
        (
            "g++: error: unrecognized command-line option '-std=c++20'",
            "does not know c++",
            "install g++",
        ),
        ("clang: error: unsupported option '-fopenmp'", "does not know OpenMP", "install g++"),
        (
            "probe.cpp:1:10: fatal error: 'iostream' file not found",
            "standard library's headers",
            "apt install g++",
        ),
        (
            "torch/csrc/inductor/aoti_torch/c/shim.h: No such file or directory",
            "torch's headers",
            "install torch",
        ),
        ("fatal error: error writing to /tmp/x.s: No space left on device", "no space", "TMPDIR"),
        ("internal compiler error: Killed", "cannot compile and link", "install g++"),
    ],
)
def test_what_a_compiler_says_is_understood(
    script: Script, others: list[str], printed: str, said: str, fix: str
) -> None:
    assert others == []
    finding = check_compiler(script("cxx", f'echo "some context"; echo "{printed}" >&2; exit 1'))
    assert (finding.outcome, finding.stops) == (FAIL, True)
    assert said in finding.message
    assert fix in (finding.fix or "")
    assert finding.cause == printed


def test_a_compiler_that_is_not_there(others: list[str]) -> None:
    others.append(GOOD)
    finding = check_compiler("/no/such/compiler --option")
    assert (finding.outcome, finding.stops, finding.fix) == (FAIL, True, f"CXX={GOOD}")
    assert "there is no compiler /no/such/compiler" in finding.message


@pytest.mark.parametrize("command", ["", " ", "g++ '"])
def test_a_variable_that_is_no_command(monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    monkeypatch.setenv("CXX", command)
    finding = check_compiler()
    assert (finding.outcome, finding.stops) == (FAIL, True)
    assert "unset CXX" in (finding.fix or "")


def test_a_compiler_that_makes_nothing(script: Script, others: list[str]) -> None:
    assert others == []
    assert "made no shared library" in check_compiler(script("silent", "exit 0")).message


def test_a_header_that_cannot_be_precompiled_does_not_stop_a_build(
    script: Script, others: list[str]
) -> None:
    assert others == []
    lines = (
        f'case " $* " in\n*" c++-header "*) echo "error: no" >&2; exit 1 ;;\n*) exec {GOOD} "$@"'
        " ;;\nesac"
    )
    finding = check_compiler(script("no-headers", lines))
    assert (finding.outcome, finding.stops) == (FAIL, False)
    assert "cannot precompile a header" in finding.message


@pytest.mark.parametrize(
    ("printed", "said", "stops"),
    [
        ("OSError: probe.so: failed to map segment from shared object", "mounted noexec", True),
        (
            "OSError: libstdc++.so.6: version `GLIBCXX_3.4.99' not found (required by probe.so)",
            "GLIBCXX_3.4.99",
            False,
        ),
    ],
    ids=["noexec", "newer"],
)
def test_a_library_that_does_not_load(
    monkeypatch: pytest.MonkeyPatch, printed: str, said: str, stops: bool
) -> None:
    monkeypatch.setattr(
        compiler, "_load_error", lambda _: f"Traceback (most recent call last):\n{printed}"
    )
    monkeypatch.setattr(compiler, "other_compiler", lambda *_: None)
    finding = check_compiler(GOOD)
    assert (finding.outcome, finding.stops, finding.cause) == (FAIL, stops, printed)
    assert said in finding.message


def test_the_same_compiler_under_another_name_is_no_way_out(
    others: list[str], tmp_path: Path
) -> None:
    (tmp_path / "c++").symlink_to(GOOD)
    others += [str(tmp_path / "c++"), GOOD]
    assert other_compiler(GOOD) is None


def test_the_sibling_of_the_c_compiler_is_looked_at(
    monkeypatch: pytest.MonkeyPatch, script: Script
) -> None:
    monkeypatch.setenv("CC", script("gcc-77", ""))
    monkeypatch.setenv("PATH", str(Path(script("clang++-9", "")).parent))
    found = [Path(path).name for path in compiler._compilers()]
    assert found == ["g++", "c++", "g++-77", "clang++-9"]


def test_openssl_is_asked_for_where_this_torch_calls_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "calls_openssl", lambda: True)
    monkeypatch.setenv("PATH", "")
    finding = check_openssl()
    assert (finding.outcome, finding.stops) == (FAIL, False)
    assert "install openssl" in (finding.fix or "")
    monkeypatch.setattr(compiler, "calls_openssl", lambda: False)
    assert check_openssl().outcome == OK


def test_the_standard_is_that_of_the_installed_torch() -> None:
    assert cpp_standard() in ("c++17", "c++20", "c++23")
