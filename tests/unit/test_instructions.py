"""What a disassembly says of the processor that the code is for."""

from __future__ import annotations

import pytest

from aoti_build.artifact.pt2.instructions import UNKNOWN, extensions

HEAD = "0000000000001100 <kernel>:\n"


@pytest.mark.parametrize(
    ("line", "extension"),
    [
        ("    1100:\t0f 58 c1             \taddps  %xmm1,%xmm0\n", None),
        ("    1100:\tf3 48 0f b8 c7       \tpopcnt %rdi,%rax\n", None),
        ("    1100:\tc5 f4 58 c2          \tvaddps %ymm2,%ymm1,%ymm0\n", "avx2"),
        ("    1100:\tc4 e2 75 b8 c2       \tvfmadd231ps %ymm2,%ymm1,%ymm0\n", "fma"),
        ("    1100:\tc4 e2 f9 f7 c7       \tshlx   %rax,%rdi,%rax\n", "bmi2"),
        ("    1100:\tc4 e2 71 50 c2       \t{vex} vpdpbusd %xmm2,%xmm1,%xmm0\n", "avx_vnni"),
        ("    1100:\tc5 f8 92 cf          \tkmovw  %edi,%k1\n", "avx512f"),
        # Low registers, no mask: only the encoding tells.
        ("    1100:\t62 f1 7f 28 7f 03    \tvmovdqu8 %ymm0,(%rbx)\n", "avx512f"),
        ("    1100:\t62 f2 75 48 50 c2    \tvpdpbusd %zmm2,%zmm1,%zmm0\n", "avx512_vnni"),
        ("    1100:\t62 f2 76 48 52 c2    \tvdpbf16ps %zmm2,%zmm1,%zmm0\n", "avx512_bf16"),
        ("    1100:\t62 f2 7d 48 13 c0    \tvcvtph2ps %ymm0,%zmm0\n", "avx512f"),
        ("    1100:\t62 f5 74 48 58 c2    \tvaddph %zmm2,%zmm1,%zmm0\n", "avx512_fp16"),
        ("    1100:\t66 0f 38 dc c1       \taesenc %xmm1,%xmm0\n", "aes"),
        ("    1100:\tc4 e2 7b 49 c0       \ttilezero %tmm0\n", "amx_tile"),
        ("    1100:\td5 10 50              \tpush   %r16\n", "apx_f"),
        ("    1100:\t65 c5 f4 58 08       \tvaddps %gs:(%rax),%ymm1,%ymm1\n", "avx2"),
        ("    1100:\tf3                   \trepz\n", None),
        ("    1100:\tc5 ff ff             \tnew    %ymm0\n", UNKNOWN),
        ("    1100:\t06                   \t(bad)\n", UNKNOWN),
    ],
)
def test_an_instruction_belongs_to_an_extension(line: str, extension: str | None) -> None:
    found = extensions([HEAD, line])
    assert list(found) == ([extension] if extension else [])


def test_the_first_instruction_of_an_extension_is_named_with_its_function() -> None:
    zmm = "    1104:\t62 f1 74 48 58 c2    \tvaddps %zmm2,%zmm1,%zmm0        # note\n"
    (use,) = extensions([HEAD, zmm, "0000000000001200 <other>:\n", zmm]).values()
    assert str(use) == "avx512f: vaddps %zmm2,%zmm1,%zmm0 in kernel at 1104"
