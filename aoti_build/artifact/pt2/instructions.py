"""Which instruction set extensions the code of a shared library uses, from what ``objdump -d``
prints of it.

The encoding decides first: in 64-bit mode the byte 62 begins an EVEX instruction (AVX-512 and
later), C4 and C5 a VEX one (AVX, AVX2 and what came with and after them), D5 an APX one (Intel 64
SDM, volume 2, chapter 2). The mnemonic says which extension it is where an encoding has several.
Instructions of older encodings up to SSE4.2, POPCNT, LZCNT and MOVBE belong to every portable
architecture and are not told apart. Names are those of /proc/cpuinfo, except that ``avx512f``
stands for F, BW, CD, DQ and VL together, and ``avx2`` for AVX as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

UNKNOWN = "unknown"
_LINE = re.compile(
    r"\s*([0-9a-f]+):\t((?:[0-9a-f]{2} )+)\s*\t(?:\{\w+\} |(?:lock|repz?|repnz|notrack|bnd|data16)"
    r" )*(\S+)"
)
_SYMBOL = re.compile(r"[0-9a-f]+ <(.+)>:$")
_PREFIXES = frozenset({"26", "2e", "36", "3e", "64", "65", "66", "67", "f0", "f2", "f3"})

_EVEX = (
    ("avx512_vnni", r"vpdp(busd|wssd)s?"),
    ("avx512_bf16", r"vcvtne2?ps2bf16|vdpbf16ps"),
    ("avx512_vbmi2", r"vp(compress|expand)[bw]|vpsh[lr]dv?[wdq]"),
    ("avx512vbmi", r"vperm(b|[it]2b)|vpmultishiftqb"),
    ("avx512ifma", r"vpmadd52[lh]uq"),
    ("avx512_bitalg", r"vpopcnt[bw]|vpshufbitqmb"),
    ("avx512_vpopcntdq", r"vpopcnt[dq]"),
    ("avx512_vp2intersect", r"vp2intersect[dq]"),
    ("gfni", r"vgf2p8\w+"),
    ("vaes", r"vaes\w+"),
    ("vpclmulqdq", r"vpclmul\w+"),
    ("avx512er", r"v(exp2|rcp28|rsqrt28)[ps][sd]"),
    ("avx512_4fmaps", r"v4fn?madd[ps]s"),
    ("avx512_4vnniw", r"vp4dpwssds?"),
    ("avx512_fp16", r"(?!(vcvtps2ph|vcvtph2ps)$)v(\w+[ps]h|cvt\w*[ps]h\w*|movw)"),
)
_VEX = (
    ("avx512f", r"k(add|andn?|mov|not|or|ortest|shift[lr]|test|unpck|xnor|xor)[bwdq]{1,2}"),
    ("amx_tile", r"(tile|ldtilecfg|sttilecfg|tdp|tc?mm)\w*"),
    ("avx_vnni", r"vpdp(busd|wssd)s?"),
    ("avx_vnni_int8", r"vpdpb(ss|su|uu)ds?"),
    ("avx_vnni_int16", r"vpdpw(su|us|uu)ds?"),
    ("avx_ifma", r"vpmadd52[lh]uq"),
    ("avx_ne_convert", r"vbcstn\w+|vcvtne(e|o|ps)\w+"),
    ("gfni", r"vgf2p8\w+"),
    ("aes", r"vaes\w+"),
    ("pclmulqdq", r"vpclmul\w+"),
    ("sha512", r"vsha512\w+"),
    ("sm3", r"vsm3\w+"),
    ("sm4", r"vsm4\w+"),
    ("cmpccxadd", r"cmp\w+xadd"),
    ("fma4", r"vfn?m(add|sub|addsub|subadd)[ps][sd]"),
    ("xop", r"vpermil2p[sd]"),
    ("fma", r"vfn?m(add|sub|addsub|subadd)(132|213|231)[ps][sd]"),
    ("f16c", r"vcvtp[sh]2p[sh]"),
    ("bmi1", r"(andn|bextr|bls(i|r|msk))[lq]?"),
    ("bmi2", r"(bzhi|mulx|pdep|pext|rorx|sarx|shlx|shrx)[lq]?"),
    ("avx2", r"v\w+"),
)
_OLDER = (
    ("aes", r"aes(enc|dec|imc|keygen)\w*"),
    ("pclmulqdq", r"pclmul\w+"),
    ("sha_ni", r"sha(1|256)\w+"),
    ("gfni", r"gf2p8\w+"),
    ("adx", r"ad[co]x[lq]?"),
    ("sse4a", r"extrq|insertq|movnts[sd]"),
    ("rdrand", r"rdrand"),
    ("rdseed", r"rdseed"),
    ("movdiri", r"movdiri"),
    ("movdir64b", r"movdir64b"),
    ("clflushopt", r"clflushopt"),
    ("clwb", r"clwb"),
    ("rdpid", r"rdpid"),
    ("xop", r"v\w+"),
    ("tbm", r"blc\w+|blsfill|blsic|t1mskc|tzmsk"),
    (UNKNOWN, r"\(bad\)"),
)


@dataclass(frozen=True)
class Use:
    """The first instruction of an extension that was met."""

    extension: str
    instruction: str
    symbol: str
    address: str

    def __str__(self) -> str:
        return f"{self.extension}: {self.instruction} in {self.symbol} at {self.address}"


def extensions(lines: Iterable[str]) -> dict[str, Use]:
    """The extensions that a disassembly (``objdump -d --insn-width=16``) uses, each with its first
    instruction."""
    found: dict[str, Use] = {}
    known: dict[tuple[str, str], str | None] = {}
    symbol = "?"
    for line in lines:
        matched = _LINE.match(line)
        if matched is None:
            if named := _SYMBOL.match(line):
                symbol = named[1]
            continue
        encoding, mnemonic = _encoding(matched[2].split()), matched[3]
        if (encoding, mnemonic) not in known:
            known[encoding, mnemonic] = _extension(encoding, mnemonic)
        extension = known[encoding, mnemonic]
        if extension is not None and extension not in found:
            text = " ".join(line[matched.start(3) :].split("#")[0].split())
            found[extension] = Use(extension, text, symbol, matched[1])
    return found


def _encoding(code: list[str]) -> str:
    first = next((byte for byte in code if byte not in _PREFIXES), "")
    return {"62": "evex", "c4": "vex", "c5": "vex", "d5": "apx"}.get(first, "")


def _extension(encoding: str, mnemonic: str) -> str | None:
    if encoding == "apx":
        return "apx_f"
    rules = {"evex": _EVEX, "vex": _VEX}.get(encoding, _OLDER)
    for extension, names in rules:
        if re.fullmatch(names, mnemonic):
            return extension
    return {"evex": "avx512f", "vex": UNKNOWN}.get(encoding)
