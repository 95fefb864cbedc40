"""The C++ compiler: is it the one that inductor needs? Shown by compiling and loading a few lines
in its manner.

What AOTInductor's commands ask for, by cpp_builder.py of torch 2.11 to 2.14: the language standard,
torch's headers, OpenMP's header and libgomp for the loops, precompiled headers, and a shared
library that takes libstdc++ from the process that loads it. Python.h is not among it: packages for
the CPU include none of Python.
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
_MOST_TRIED = 8
_INSTALL = (
    "install g++ (Debian, Ubuntu: apt install g++; Fedora: dnf install gcc-c++), or let CXX name"
    " another compiler; none of those found here will do"
)

# Names from libstdc++.so, so that a library which does not ask for it has them inside.
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
    """What is wrong with a compiler: a name, a sentence, what it printed, and a fix that is not
    another compiler. `outcome` and `stops` as for `Finding`."""

    name: str
    said: str
    printed: str = ""
    fix: str | None = None
    stops: bool = True
    outcome: str = FAIL


def check_compiler(command: str | None = None, *, directory: Path | None = None) -> Finding:
    """Try the compiler that inductor will call (or `command`) in `directory`, by default the
    temporary one; if it will not do, look for one that does."""
    command = compiler_command() if command is None else command
    fault = try_compiler(command, directory)
    if fault is None:
        return Finding(
            "compiler",
            OK,
            f"{_named(command)}: {cpp_standard()}, torch's headers, OpenMP, libstdc++ shared",
        )
    fix = fault.fix or other_compiler(command, directory) or _INSTALL
    return Finding(
        "compiler",
        fault.outcome,
        fault.said,
        cause=fault.printed or None,
        fix=fix,
        stops=fault.stops,
    )


def check_openssl() -> Finding:
    if not calls_openssl():
        return Finding("openssl", OK, "not needed by this torch")
    found = shutil.which("openssl")
    if found:
        return Finding("openssl", OK, found)
    return Finding(
        "openssl",
        FAIL,
        "inductor calls the program openssl to name its precompiled headers, and there is none on"
        " the PATH",
        fix="install openssl, or set aot_inductor.precompile_headers: false in the preset",
    )


def try_compiler(command: str, directory: Path | None = None) -> Fault | None:
    """What keeps the compiler from making packages that load; None if nothing was found."""
    words = command_words(command)
    if not words:
        return Fault(
            "absent", f"CXX={command!r} is no command", fix="unset CXX, or let it name a compiler"
        )
    if shutil.which(words[0]) is None:
        return Fault("absent", f"there is no compiler {words[0]}")
    try:
        # What is compiled there is loaded, so nobody else may write there.
        place = directory or temporary_directory()
        with tempfile.TemporaryDirectory(dir=place, prefix="aoti_build-doctor-") as scratch:
            return _try(words, Path(scratch))
    except (OSError, DirectoryError) as error:
        said = f"the compiler could not be tried in {directory or 'the temporary directory'}"
        return Fault("place", said, str(error), fix="see `temp directory`", stops=False)


def _try(words: list[str], scratch: Path) -> Fault | None:
    source, library = scratch / "probe.cpp", scratch / "probe.so"
    source.write_text(_PROBE.format(headers=_TORCH_HEADER), encoding="utf-8")
    # For these inductor has options of their own.
    intel = re.match(r"ic(c|x|pc|px)\b", Path(words[0]).name)
    common = [f"-std={cpp_standard()}", "-O1", "-fPIC", "-fiopenmp" if intel else "-fopenmp"]
    includes = [f"-I{path}" for path in include_directories()]
    linked = failure_of(
        [
            *words,
            *common,
            *includes,
            "-shared",
            str(source),
            "-o",
            str(library),
            *([] if intel else ["-lgomp"]),
        ]
    )
    if linked is not None:
        return _explained(" ".join(words), linked)
    if not library.exists():
        return Fault("output", f"{' '.join(words)} made no shared library")
    content = library.read_bytes()
    try:
        needed = read_elf(lambda offset, size: content[offset : offset + size]).needed
    except NotElf:
        needed = ("libstdc++.so",)  # no ELF file, about which nothing is known
    if not any(name.startswith("libstdc++.so") for name in needed):
        return _without_libstdcxx(" ".join(words), library, needed)
    return _load(library) or _precompile(words, common, scratch)


def _without_libstdcxx(command: str, library: Path, needed: tuple[str, ...]) -> Fault:
    """A library that does not ask for libstdc++.so: it has it inside, or another one's, or
    nobody's.

    With it inside, torch's and the package's locale facets do not know each other: the std::regex
    that reads the device's name throws std::bad_cast or crashes.
    """
    asks = "a test library does not ask for libstdc++.so.6, but for " + ", ".join(needed)
    fix = "let CXX name a compiler that links libstdc++.so, such as g++"
    if any(name.startswith("libc++.so") for name in needed):
        said = f"{command} uses libc++, and torch libstdc++; nobody tests packages made so"
        return Fault("libc++", said, asks, fix, stops=False, outcome=WARN)
    if "undefined symbol" in (_load_error(library) or ""):
        said = f"{command} does not link libstdc++; that is what a C compiler does"
        return Fault("c-compiler", said, asks, fix, stops=False, outcome=WARN)
    said = (
        f"{command} links libstdc++ statically: packages made with it crash, or fail, when they are"
        " loaded"
    )
    return Fault(STATIC, said, asks)


def _load(library: Path) -> Fault | None:
    """Load it in a child: that shows whether its libraries fit, and whether files here may be
    executed."""
    refused = _load_error(library)
    if refused is None:
        return None
    printed = refused.rpartition("\n")[2]
    if "failed to map segment" in printed or "Operation not permitted" in printed:
        said = (
            f"a library in {library.parent.parent} cannot be loaded: it lies on a file system"
            " mounted noexec"
        )
        return Fault(
            "noexec",
            said,
            printed,
            fix="let TMPDIR name a directory that allows execution",
            stops=True,
        )
    said = "a library made by the compiler cannot be loaded by this Python"
    if found := re.search(r"version `(\S+)' not found", printed):
        said = (
            "the compiler is newer than the libstdc++ that this Python finds, which has no"
            f" {found[1]}"
        )
    return Fault("load", said, printed, stops=False)


def _load_error(library: Path) -> str | None:
    return failure_of([sys.executable, "-I", "-S", "-c", _LOAD, str(library)])


def _precompile(words: list[str], common: list[str], scratch: Path) -> Fault | None:
    """A precompiled header, as AOTInductor makes two of unless a preset forbids it."""
    header = scratch / "probe.h"
    header.write_text("#include <string>\n")
    printed = failure_of([*words, "-x", "c++-header", str(header), *common, "-o", f"{header}.gch"])
    if printed is None:
        return None
    said = (
        f"{' '.join(words)} cannot precompile a header; a wrapper that adds linker options to every"
        " call does this"
    )
    return Fault("precompile", said, gist(printed), stops=False)


def _explained(command: str, printed: str) -> Fault:
    """A compile or link that failed, by what the compiler said of it."""
    no_standard = f"the compiler does not know {cpp_standard()}, which this torch's headers need"
    known = (
        (
            r"omp\.h",
            "OpenMP's header omp.h is missing",
            "install it (libgomp comes with gcc; for clang: libomp-dev)",
        ),
        (
            r"l?gomp\b|libgomp",
            "OpenMP's library libgomp is missing",
            "install libgomp (gcc brings it)",
        ),
        (r"fopenmp", "the compiler does not know OpenMP (-fopenmp)", None),
        (r"-std=|std=c\+\+", no_standard, None),
        (
            r"torch/csrc/\S+: No such file|torch/csrc/\S+' file not found",
            "torch's headers are missing",
            "install torch again: its wheel brings them",
        ),
        (
            r"(filesystem|iostream|string)(: No such file|' file not found)",
            "the standard library's headers are missing",
            "install them (Debian, Ubuntu: apt install g++)",
        ),
        (
            r"No space left",
            "there is no space in the temporary directory",
            "make space, or set TMPDIR",
        ),
    )
    first = gist(printed)
    for pattern, said, fix in known:
        if re.search(pattern, first):
            return Fault("compile", f"{command}: {said}", first, fix)
    return Fault(
        "compile", f"{command} cannot compile and link a few lines with torch's headers", first
    )


def other_compiler(command: str | None = None, directory: Path | None = None) -> str | None:
    """``CXX=/usr/bin/g++``: a compiler of this machine that passes, and is not `command` (None: the
    one that inductor will call)."""
    command = compiler_command() if command is None else command
    return next(
        (
            f"CXX={other}"
            for other in _candidates(command)
            if try_compiler(other, directory) is None
        ),
        None,
    )


def _candidates(command: str) -> Iterator[str]:
    """Other C++ compilers of this machine, the system's own first, each once."""
    words = command_words(command)
    seen = {os.path.realpath(shutil.which(words[0]) or words[0])} if words else set()
    tried = 0
    for path in _compilers():
        real = os.path.realpath(path)
        if real not in seen and os.access(path, os.X_OK) and tried < _MOST_TRIED:
            seen.add(real)
            tried += 1
            yield path


def _compilers() -> Iterator[str]:
    yield from ("/usr/bin/g++", "/usr/bin/c++")
    if words := command_words(os.environ.get("CC", "")):
        c_compiler = Path(shutil.which(words[0]) or words[0])
        for c_name, cpp_name in (("gcc", "g++"), ("clang", "clang++"), ("cc", "c++")):
            if c_name in c_compiler.name:
                yield str(c_compiler.with_name(c_compiler.name.replace(c_name, cpp_name)))
                break
    directories = [Path(part) for part in os.environ.get("PATH", "").split(os.pathsep) if part]
    for name in ("g++", "c++", "g++-[0-9]*", "clang++", "clang++-[0-9]*"):
        for directory in directories:
            newest_first = sorted(
                directory.glob(name), key=lambda path: (len(path.name), path.name), reverse=True
            )
            yield from map(str, newest_first)


def _named(command: str) -> str:
    """The command, with the path of a bare name."""
    words = command_words(command)
    found = shutil.which(words[0]) if words else None
    return " ".join([found, *words[1:]]) if found else command
