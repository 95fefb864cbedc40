"""The check of the C++ compiler: it compiles and loads a few lines as inductor does.

By cpp_builder.py of torch 2.11 to 2.14, AOTInductor's commands need the language standard, torch's
headers, OpenMP's header and libgomp for the loops, precompiled headers, and a shared library that
takes libstdc++ from the process that loads it. They do not need Python.h: packages for the CPU
include nothing of Python.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from aoti_build.common.directories import temporary_directory
from aoti_build.common.elf import NotElf, read_elf
from aoti_build.errors import DirectoryError
from aoti_build.host.checks.finding import FAIL, OK, WARN, Finding
from aoti_build.host.checks.inductor import (
    calls_openssl,
    command_words,
    cpp_standard,
    include_directories,
)
from aoti_build.host.checks.programs import failure_of, gist
from aoti_build.host.programs import compiler_command

STATIC = "static-libstdc++"
_MAX_CANDIDATES = 8
_INSTALL = (
    "install g++ (Debian, Ubuntu: apt install g++; Fedora: dnf install gcc-c++), or set CXX to"
    " another compiler; none of those found here passes"
)

# Uses names from libstdc++.so. A library that does not need libstdc++.so has them inside.
_PROBE = """\
#include <filesystem>
#include <iostream>
#include <string>
#include <omp.h>
{headers}
extern "C" int aoti_build_probe(int count) {{
  std::string text(count, 'x');
  int sum = 0;
#pragma omp parallel for reduction(+ : sum)
  for (int i = 0; i < count; ++i) sum += text[i] == 'x';
  if (sum < 0) std::cerr << std::filesystem::path(text) << omp_get_max_threads();
  return sum;
}}
"""
_TORCH_HEADER = "#include <torch/csrc/inductor/aoti_torch/c/shim.h>"
_LOAD = "import ctypes, sys; sys.exit(ctypes.CDLL(sys.argv[1]).aoti_build_probe(3) != 3)"


@dataclass(frozen=True)
class Fault:
    """A fault of a compiler.

    `output` is what the compiler printed. `fix` is a remedy other than another compiler. `outcome`
    and `stops` are as for `Finding`.
    """

    name: str
    message: str
    output: str = ""
    fix: str | None = None
    stops: bool = True
    outcome: str = FAIL


def check_compiler(command: str | None = None, *, directory: Path | None = None) -> Finding:
    """Try the compiler that inductor will call, or `command`; if it fails, find one that passes.

    The probe is compiled in `directory`, by default the temporary directory.
    """
    command = compiler_command() if command is None else command
    fault = try_compiler(command, directory)
    if fault is None:
        parts = f"{cpp_standard()}, torch's headers, OpenMP, libstdc++ shared"
        return Finding("compiler", OK, f"{_with_path(command)}: {parts}")
    fix = fault.fix or other_compiler(command, directory) or _INSTALL
    return Finding(
        "compiler",
        fault.outcome,
        fault.message,
        cause=fault.output or None,
        fix=fix,
        stops=fault.stops,
    )


def check_openssl() -> Finding:
    if not calls_openssl():
        return Finding("openssl", OK, "not needed by this torch")
    path = shutil.which("openssl")
    if path:
        return Finding("openssl", OK, path)
    return Finding(
        "openssl",
        FAIL,
        "inductor calls the program openssl to name its precompiled headers, and there is none on"
        " the PATH",
        fix="install openssl, or set aot_inductor.precompile_headers: false in the preset",
    )


def try_compiler(command: str, directory: Path | None = None) -> Fault | None:
    """The first fault that keeps the compiler from making packages that load, or None."""
    words = command_words(command)
    if not words:
        return Fault(
            "absent",
            f"CXX={command!r} is not a command",
            fix="unset CXX, or set it to a compiler",
        )
    if shutil.which(words[0]) is None:
        return Fault("absent", f"there is no compiler {words[0]}")
    try:
        # The compiled library is loaded, so other users must not be able to write there.
        parent = directory or temporary_directory()
        with tempfile.TemporaryDirectory(dir=parent, prefix="aoti_build-doctor-") as scratch:
            return _try_in(Path(scratch), words)
    except (OSError, DirectoryError) as error:
        return Fault(
            "place",
            f"the compiler could not be tried in {directory or 'the temporary directory'}",
            str(error),
            fix="see `temp directory`",
            stops=False,
        )


def _try_in(scratch: Path, words: list[str]) -> Fault | None:
    command = " ".join(words)
    source = scratch / "probe.cpp"
    source.write_text(_PROBE.format(headers=_TORCH_HEADER), encoding="utf-8")
    library = scratch / "probe.so"
    # Inductor has options of its own for Intel's compilers.
    is_intel = re.match(r"ic(c|x|pc|px)\b", Path(words[0]).name) is not None
    openmp = "-fiopenmp" if is_intel else "-fopenmp"
    flags = [f"-std={cpp_standard()}", "-O1", "-fPIC", openmp]
    call = [*words, *flags]
    call += [f"-I{path}" for path in include_directories()]
    call += ["-shared", str(source), "-o", str(library)]
    if not is_intel:
        call.append("-lgomp")
    output = failure_of(call)
    if output is not None:
        return _compile_fault(command, output)
    if not library.exists():
        return Fault("output", f"{command} made no shared library")
    needed = _needed_libraries(library)
    if not any(name.startswith("libstdc++.so") for name in needed):
        return _libstdcxx_fault(command, library, needed)
    return _load_fault(library) or _precompile_fault(words, flags, scratch)


def _needed_libraries(library: Path) -> tuple[str, ...]:
    content = library.read_bytes()
    try:
        return read_elf(lambda offset, size: content[offset : offset + size]).needed
    except NotElf:
        # Nothing is known about another format, so do not report a fault.
        return ("libstdc++.so",)


def _libstdcxx_fault(command: str, library: Path, needed: tuple[str, ...]) -> Fault:
    """The fault of a library that does not need libstdc++.so.

    It has libstdc++ inside, uses another standard library, or uses none.
    """
    cause = f"a test library does not need libstdc++.so.6, but {', '.join(needed)}"
    fix = "set CXX to a compiler that links libstdc++.so, such as g++"
    if any(name.startswith("libc++.so") for name in needed):
        return Fault(
            "libc++",
            f"{command} uses libc++, and torch libstdc++; such packages are not tested",
            cause,
            fix,
            stops=False,
            outcome=WARN,
        )
    if "undefined symbol" in (_load_error(library) or ""):
        return Fault(
            "c-compiler",
            f"{command} does not link libstdc++; it seems to be a C compiler",
            cause,
            fix,
            stops=False,
            outcome=WARN,
        )
    # With libstdc++ inside, torch and the package have locale facets of their own. The std::regex
    # that reads the device's name then throws std::bad_cast or crashes.
    return Fault(
        STATIC,
        f"{command} links libstdc++ statically: packages made with it crash, or fail, when they are"
        " loaded",
        cause,
    )


def _load_fault(library: Path) -> Fault | None:
    """The fault of a library that a new process cannot load.

    Its libraries do not fit, or files in this directory cannot be executed.
    """
    error = _load_error(library)
    if error is None:
        return None
    last_line = error.rpartition("\n")[2]
    if "failed to map segment" in last_line or "Operation not permitted" in last_line:
        return Fault(
            "noexec",
            f"a library in {library.parent.parent} cannot be loaded: the file system is mounted"
            " noexec",
            last_line,
            fix="set TMPDIR to a directory that allows execution",
            stops=True,
        )
    message = "a library made by the compiler cannot be loaded by this Python"
    missing_version = re.search(r"version `(\S+)' not found", last_line)
    if missing_version:
        message = (
            "the compiler is newer than the libstdc++ that this Python finds, which has no"
            f" {missing_version[1]}"
        )
    return Fault("load", message, last_line, stops=False)


def _load_error(library: Path) -> str | None:
    return failure_of([sys.executable, "-I", "-S", "-c", _LOAD, str(library)])


def _precompile_fault(words: list[str], flags: list[str], scratch: Path) -> Fault | None:
    """The fault of a compiler that cannot precompile a header.

    AOTInductor precompiles two, unless a preset forbids it.
    """
    header = scratch / "probe.h"
    header.write_text("#include <string>\n")
    call = [*words, "-x", "c++-header", str(header), *flags, "-o", f"{header}.gch"]
    output = failure_of(call)
    if output is None:
        return None
    command = " ".join(words)
    return Fault(
        "precompile",
        f"{command} cannot precompile a header; a wrapper that adds linker options to every call"
        " causes this",
        gist(output),
        stops=False,
    )


class _KnownError(NamedTuple):
    """A pattern of a compiler's errors, with its meaning and remedy."""

    pattern: str
    message: str
    fix: str | None


_KNOWN_ERRORS = (
    _KnownError(
        r"omp\.h",
        "OpenMP's header omp.h is missing",
        "install it (libgomp comes with gcc; for clang: libomp-dev)",
    ),
    _KnownError(
        r"l?gomp\b|libgomp",
        "OpenMP's library libgomp is missing",
        "install libgomp (gcc brings it)",
    ),
    _KnownError(
        r"fopenmp",
        "the compiler does not know OpenMP (-fopenmp)",
        None,
    ),
    _KnownError(
        r"-std=|std=c\+\+",
        "the compiler does not know {standard}, which this torch's headers need",
        None,
    ),
    _KnownError(
        r"torch/csrc/\S+: No such file|torch/csrc/\S+' file not found",
        "torch's headers are missing",
        "install torch again: its wheel brings them",
    ),
    _KnownError(
        r"(filesystem|iostream|string)(: No such file|' file not found)",
        "the standard library's headers are missing",
        "install them (Debian, Ubuntu: apt install g++)",
    ),
    _KnownError(
        r"No space left",
        "there is no space in the temporary directory",
        "make space, or set TMPDIR",
    ),
)


def _compile_fault(command: str, output: str) -> Fault:
    """The fault of a failed compile or link, by the compiler's messages."""
    first_lines = gist(output)
    for entry in _KNOWN_ERRORS:
        if re.search(entry.pattern, first_lines):
            message = entry.message.format(standard=cpp_standard())
            return Fault("compile", f"{command}: {message}", first_lines, entry.fix)
    message = f"{command} cannot compile and link a few lines with torch's headers"
    return Fault("compile", message, first_lines)


def other_compiler(command: str | None = None, directory: Path | None = None) -> str | None:
    """``CXX=/usr/bin/g++`` for another compiler of this host that passes, or None.

    It is another one than `command`, by default the one that inductor will call.
    """
    command = compiler_command() if command is None else command
    for candidate in _candidates(command):
        if try_compiler(candidate, directory) is None:
            return f"CXX={candidate}"
    return None


def _candidates(command: str) -> Iterator[str]:
    """Other C++ compilers of this host, each once, the system's own first."""
    tried = set()
    words = command_words(command)
    if words:
        tried.add(os.path.realpath(shutil.which(words[0]) or words[0]))
    count = 0
    for path in _compilers():
        real = os.path.realpath(path)
        if real in tried or not os.access(path, os.X_OK):
            continue
        if count == _MAX_CANDIDATES:
            return
        tried.add(real)
        count += 1
        yield path


def _compilers() -> Iterator[str]:
    """Paths at which there may be a C++ compiler."""
    yield "/usr/bin/g++"
    yield "/usr/bin/c++"
    neighbour = _neighbour_of_c_compiler()
    if neighbour is not None:
        yield neighbour
    directories = [Path(part) for part in os.environ.get("PATH", "").split(os.pathsep) if part]
    for pattern in ("g++", "c++", "g++-[0-9]*", "clang++", "clang++-[0-9]*"):
        for directory in directories:
            # The newest first: g++-14, g++-9.
            paths = sorted(directory.glob(pattern), key=_name_length_and_name, reverse=True)
            yield from map(str, paths)


def _neighbour_of_c_compiler() -> str | None:
    """The C++ compiler that belongs to the C compiler in CC, such as clang++ for clang."""
    words = command_words(os.environ.get("CC", ""))
    if not words:
        return None
    c_compiler = Path(shutil.which(words[0]) or words[0])
    for c_name, cpp_name in (("gcc", "g++"), ("clang", "clang++"), ("cc", "c++")):
        if c_name in c_compiler.name:
            return str(c_compiler.with_name(c_compiler.name.replace(c_name, cpp_name)))
    return None


def _name_length_and_name(path: Path) -> tuple[int, str]:
    return len(path.name), path.name


def _with_path(command: str) -> str:
    """The command, with the path of a program that is named without one."""
    words = command_words(command)
    path = shutil.which(words[0]) if words else None
    return " ".join([path, *words[1:]]) if path else command
