"""The instruction sets that inductor may use: this host's, found out once, or those of a portable
architecture.

Left alone, inductor finds out anew in each empty cache directory, and each job has one: for every
set that the processor has, it compiles programs and loads them in processes of their own. That is 6
of the 15 seconds which a small model takes to compile (torch 2.14, two cores; with 2.11 each of
these processes imports torch). The answers follow from what the keys hold of the toolchain, so a
yes is kept beside the cache directories, for the same toolchain.

For a portable architecture (``cpu: {isa: ...}``) the host must not be asked at all. Of several sets
with one vector width inductor takes the richest, so that code "for AVX-512" made on a processor
with VNNI needs VNNI, and where the host lacks the set it makes none (`pick_vec_isa` in
torch/_inductor/cpu_vec_isa.py). Here it is told: the sets of the architecture and no others,
without a trial, so an architecture can be compiled on a host that cannot run it.

The C++ compiler gets the architecture by ``-march``. Where this torch's inductor has no option for
that (2.11), it writes ``-march=native`` into every command, and a program that stands in front of
the compiler puts the architecture in its place.
"""

from __future__ import annotations

import contextlib
import platform
import shlex
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from torch._inductor import config, cpp_builder, cpu_vec_isa

from aoti_build.common.digests import digest_bytes, digest_json
from aoti_build.common.writing import write_program

MARCH, WIDTH = "cpp.march", "cpp.simdlen"


class _Avx2(cpu_vec_isa.VecAVX2):
    """AVX2 with FMA and F16C, which x86-64-v3 has. Never tried on the host."""

    def __bool__(self) -> bool:
        return True


class _Avx512(cpu_vec_isa.VecAVX512):
    """AVX-512 F, BW, DQ and VL, without the extensions that torch would add where the host has
    them."""

    def __bool__(self) -> bool:  # type: ignore[override]
        return True


_ARCHITECTURES: Mapping[int, tuple[type[cpu_vec_isa.VecISA], ...]] = {
    256: (_Avx2,),
    512: (_Avx512, _Avx2),
}


def architecture_options(patches: Mapping[str, Any]) -> dict[str, Any]:
    """What of an architecture's `patches` inductor has options for."""
    return {name: value for name, value in patches.items() if name != MARCH or _knows_march()}


def architecture_settings(patches: Mapping[str, Any]) -> dict[str, str]:
    """What of an architecture decides about the code and is not among inductor's settings, as text
    by name."""
    return (
        {"aoti_build.march": repr(patches[MARCH])}
        if MARCH in patches and not _knows_march()
        else {}
    )


@contextlib.contextmanager
def tried_once(toolchain: str, cache_root: Path) -> Iterator[None]:
    """Let inductor try no instruction set again that has worked with the same `toolchain` (a
    digest): each leaves an empty file. Those that are new are tried at once, where inductor goes
    from one to the next."""
    directory, asked = cache_root / "instruction-sets", cpu_vec_isa.VecISA.check_build

    def check_build(isa: cpu_vec_isa.VecISA, code: str) -> bool:
        tried = [toolchain, code, isa.build_arch_flags(), cpp_builder.get_cpp_compiler()]
        worked = directory / digest_json(tried)
        if worked.exists():
            return True
        if not asked(isa, code):
            return False  # and not remembered: it may have been a full disk's no
        with contextlib.suppress(OSError):
            directory.mkdir(exist_ok=True)
            worked.touch()
        return True

    cpu_vec_isa.VecISA.check_build = check_build  # type: ignore[method-assign,assignment]
    try:
        # Each set keeps its own answer, and tries its extensions in turn; the sets have nothing to
        # do with each other.
        with ThreadPoolExecutor() as together:
            list(together.map(bool, _sets_of_this_processor()))
        yield
    finally:
        cpu_vec_isa.VecISA.check_build = asked  # type: ignore[method-assign]


def _sets_of_this_processor() -> list[cpu_vec_isa.VecISA]:
    """Those that `valid_vec_isa_list` will try: on x86, all whose flags the processor has."""
    if platform.machine() != "x86_64":
        return []
    flags = cpu_vec_isa.x86_isa_checker()
    return [
        isa
        for isa in cpu_vec_isa.supported_vec_isa_list
        if all(flag in flags for flag in str(isa).split())
    ]


@contextlib.contextmanager
def compiling_for(
    patches: Mapping[str, Any], options: Mapping[str, Any], cache_root: Path
) -> Iterator[Mapping[str, Any]]:
    """Let inductor compile for the processor architecture of `patches` (none: this host); gives the
    `options` to compile with."""
    if WIDTH not in patches:
        yield options
        return
    if not _knows_march():
        with config.patch(dict(options)):
            compiler = cpp_builder.get_cpp_compiler()
        options = {**options, "cpp.cxx": (str(compiler_for(compiler, patches[MARCH], cache_root)),)}
    sets = [kind() for kind in _ARCHITECTURES[patches[WIDTH]]]
    asked = cpu_vec_isa.valid_vec_isa_list
    cpu_vec_isa.valid_vec_isa_list = lambda: sets  # type: ignore[assignment]
    try:
        yield options
    finally:
        cpu_vec_isa.valid_vec_isa_list = asked


def compiler_for(compiler: str, march: str, cache_root: Path) -> Path:
    """A program that calls `compiler` (a command line) with `march` wherever it is told a
    processor.

    Its path follows from what it does: it is written into generated sources, and compiled headers
    are kept by it.
    """
    script = _SCRIPT.format(march=shlex.quote(march), compiler=shlex.join(shlex.split(compiler)))
    # torch tells compilers apart by their names where the version's first line does not.
    name = Path(shlex.split(compiler)[-1]).name
    directory = cache_root / "compilers" / digest_bytes(script.encode())[:16]
    write_program(directory / name, script)
    return directory / name


def _knows_march() -> bool:
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
