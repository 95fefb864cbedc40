"""This processor: its instruction set extensions, and those that code may be compiled for."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path

_CPUS = Path("/sys/devices/system/cpu")
# Instruction set extensions that gcc's -march=native may use. The other words in /proc/cpuinfo do
# not change code.
_X86_FEATURES = frozenset({
    "adx", "aes", "amx_bf16", "amx_complex", "amx_fp16", "amx_int8", "amx_tile", "apx_f", "avx",
    "avx2", "avx512_4fmaps", "avx512_4vnniw", "avx512_bf16", "avx512_bitalg", "avx512_fp16",
    "avx512_ifma", "avx512_vbmi2", "avx512_vnni", "avx512_vp2intersect", "avx512_vpopcntdq",
    "avx512bw", "avx512cd", "avx512dq", "avx512er", "avx512f", "avx512ifma", "avx512pf",
    "avx512vbmi", "avx512vl", "avx_ifma", "avx_ne_convert", "avx_vnni", "avx_vnni_int8",
    "avx_vnni_int16", "avx10", "bmi1", "bmi2", "abm", "clwb", "clzero", "cldemote", "clflushopt",
    "cx16", "enqcmd", "f16c", "fma", "fma4", "fsgsbase", "fxsr", "gfni", "hle", "kl", "lahf_lm",
    "movbe", "movdir64b", "movdiri", "mwaitx", "pclmulqdq", "pku", "pni", "popcnt", "prefetchwt1",
    "ptwrite", "rdpid", "rdrand", "rdseed", "rtm", "serialize", "sha512", "sha_ni", "sm3", "sm4",
    "sse", "sse2", "sse4_1", "sse4_2", "sse4a", "ssse3", "tbm", "uintr", "vaes", "vpclmulqdq",
    "waitpkg", "wbnoinvd", "xop", "xsave", "xsavec", "xsaveopt", "xsaves",
})  # fmt: skip
# The levels x86-64-v3 and x86-64-v4 (psABI, microarchitecture levels), in the words of
# /proc/cpuinfo. Level v4 is what inductor's AVX-512 code needs.
_V3 = frozenset({
    "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "cx16", "lahf_lm", "popcnt",
    "pni", "sse4_1", "sse4_2", "ssse3", "sse", "sse2", "fxsr",
})  # fmt: skip
_V4 = _V3 | frozenset(["avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"])
ISA_FEATURES: Mapping[str, frozenset[str]] = {
    "avx2": _V3,
    "avx512": _V4,
}


def isa_level() -> str:
    """The name of the highest level of `ISA_FEATURES` that this processor has, or "base"."""
    features = set(cpu_features())
    level = "base"
    for name, needed in ISA_FEATURES.items():
        if needed <= features:
            level = name
    return level


def physical_cores(root: Path = _CPUS) -> int | None:
    """The number of cores that this process may run on, each counted once however many threads it
    has. None if the system does not tell."""
    cores = set()
    for number in os.sched_getaffinity(0):
        try:
            siblings = (root / f"cpu{number}/topology/thread_siblings_list").read_text()
        except OSError:
            return None
        cores.add(siblings.strip())
    return len(cores)


@cache
def cpu_features() -> tuple[str, ...]:
    """This processor's instruction set extensions, in the words of /proc/cpuinfo, sorted.

    Empty if /proc/cpuinfo does not list them.
    """
    try:
        text = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        return ()
    for line in text.splitlines():
        name, _, value = line.partition(":")
        words = value.split()
        if name.strip() == "flags":
            return tuple(sorted(_X86_FEATURES.intersection(words)))
        # aarch64 has "Features", and every word is an extension.
        if name.strip() == "Features":
            return tuple(sorted(words))
    return ()
