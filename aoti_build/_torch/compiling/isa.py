"""The instruction sets that inductor may use: those of this host, or of a portable architecture.

Tests of this host. By default inductor tests the host in each empty cache directory, and each job
has one: it compiles a program for every set that the processor has, and loads it in a process of
its own. That is 6 of the 15 seconds that a small model takes to compile (torch 2.14, two cores;
with 2.11 each of these processes imports torch). The results follow from the toolchain in the keys,
so a success is cached next to the cache directories, for the same toolchain.

Portable architectures (``cpu: {isa: ...}``). Here inductor must not test the host at all. It gets
the sets of the architecture and no others, so an architecture can be compiled on a host that cannot
run it. `pick_vec_isa` in torch/_inductor/cpu_vec_isa.py would take the richest of several sets with
one vector width: code "for AVX-512" from a processor with VNNI would need VNNI, and a host without
the set would make no vector code.

The C++ compiler gets the architecture as ``-march``. Where this torch's inductor has no option for
that (2.11), it writes ``-march=native`` into every command. Then a script that is called in place
of the compiler writes the architecture there.
"""

from __future__ import annotations

import contextlib
import platform
import shlex
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeAlias

from torch._inductor import config, cpp_builder, cpu_vec_isa
from torch._inductor.cpu_vec_isa import VecISA

from aoti_build.common.digests import digest_bytes, digest_json
from aoti_build.common.writing import write_program

MARCH, WIDTH = "cpp.march", "cpp.simdlen"

# inductor's options by name.
Options: TypeAlias = Mapping[str, Any]


class _Avx2(cpu_vec_isa.VecAVX2):
    """AVX2 with FMA and F16C, which x86-64-v3 has. Not tested on the host."""

    def __bool__(self) -> bool:
        return True


class _Avx512(cpu_vec_isa.VecAVX512):
    """AVX-512 F, BW, DQ and VL, without the extensions that torch would add where the host has
    them. Not tested on the host."""

    def __bool__(self) -> bool:  # type: ignore[override]
        return True


# The sets of an architecture by its vector width in bits, the widest one first.
_ARCHITECTURES: Mapping[int, tuple[type[VecISA], ...]] = {
    256: (_Avx2,),
    512: (_Avx512, _Avx2),
}


def architecture_options(patches: Options) -> Options:
    """Those of an architecture's `patches` for which inductor has options."""
    options = dict(patches)
    if not _has_march_option():
        options.pop(MARCH, None)
    return options


def architecture_settings(patches: Options) -> dict[str, str]:
    """The setting of an architecture that decides about the code and is not among inductor's, as
    text by name."""
    if MARCH in patches and not _has_march_option():
        return {"aoti_build.march": repr(patches[MARCH])}
    return {}


@contextlib.contextmanager
def tried_once(toolchain: str, cache_root: Path) -> Iterator[None]:
    """Inside, inductor does not test an instruction set again that worked with the same `toolchain`
    (a digest).

    Each success leaves an empty file. Sets without one are tested at the same time; inductor would
    test one after another.
    """
    directory = cache_root / "instruction-sets"
    original = VecISA.check_build

    def check_build(isa: VecISA, code: str) -> bool:
        tested = [toolchain, code, isa.build_arch_flags(), cpp_builder.get_cpp_compiler()]
        success = directory / digest_json(tested)
        if success.exists():
            return True
        if not original(isa, code):
            # Not cached: the reason may have been a full disk.
            return False
        with contextlib.suppress(OSError):
            directory.mkdir(exist_ok=True)
            success.touch()
        return True

    VecISA.check_build = check_build  # type: ignore[method-assign,assignment]
    try:
        # Each set tests its extensions in turn and caches its own result. The sets share nothing.
        with ThreadPoolExecutor() as executor:
            list(executor.map(bool, _sets_of_this_processor()))
        yield
    finally:
        VecISA.check_build = original  # type: ignore[method-assign]


def _sets_of_this_processor() -> list[VecISA]:
    """The sets that `valid_vec_isa_list` will test: on x86, those whose flags the processor has."""
    if platform.machine() != "x86_64":
        return []
    processor_flags = cpu_vec_isa.x86_isa_checker()
    sets = []
    for isa in cpu_vec_isa.supported_vec_isa_list:
        needed_flags = str(isa).split()
        if all(flag in processor_flags for flag in needed_flags):
            sets.append(isa)
    return sets


@contextlib.contextmanager
def compiling_for(patches: Options, options: Options, cache_root: Path) -> Iterator[Options]:
    """Compiles inside are for the processor architecture of `patches`, or for this host if there
    are none. Gives the `options` to compile with."""
    if WIDTH not in patches:
        yield options
        return
    if not _has_march_option():
        with config.patch(dict(options)):
            compiler = cpp_builder.get_cpp_compiler()
        script = compiler_for(compiler, patches[MARCH], cache_root)
        options = {**options, "cpp.cxx": (str(script),)}
    sets = [kind() for kind in _ARCHITECTURES[patches[WIDTH]]]
    original = cpu_vec_isa.valid_vec_isa_list
    cpu_vec_isa.valid_vec_isa_list = lambda: sets  # type: ignore[assignment]
    try:
        yield options
    finally:
        cpu_vec_isa.valid_vec_isa_list = original


def compiler_for(compiler: str, march: str, cache_root: Path) -> Path:
    """A script that calls `compiler` (a command line) with `march` in place of any processor in its
    arguments.

    Its path follows from its content, because generated sources contain the path, and inductor
    caches compiled headers by it.
    """
    command = shlex.split(compiler)
    script = _SCRIPT.format(march=shlex.quote(march), compiler=shlex.join(command))
    directory = cache_root / "compilers" / digest_bytes(script.encode())[:16]
    # With the compiler's own name: torch recognises compilers by it where the first line of their
    # version does not tell.
    path = directory / Path(command[-1]).name
    write_program(path, script)
    return path


def _has_march_option() -> bool:
    return MARCH in config.get_config_copy()


_SCRIPT = """\
#!/bin/sh
# Written by aoti_build: calls the C++ compiler with -march={march}, whatever it was called with.
for argument do
    shift
    case $argument in
        -march=* | -mcpu=*) set -- "$@" -march={march} ;;
        -mtune=native) ;;
        *) set -- "$@" "$argument" ;;
    esac
done
exec {compiler} "$@"
"""
