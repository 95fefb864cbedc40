"""ELF files say what they are for; whatever else is in them, nothing but NotElf comes of reading
one."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from packages import AARCH64, CUDA, X86_64, cubin, elf

from aoti_build.common.elf import NotElf, Read, read_elf, read_gpu_binary, read_machine

NOTE_13 = "Cuda compilation tools, release 13.3, V13.3.33\0Build cuda_13.3\0"


def of(data: bytes) -> Read:
    return lambda offset, size: data[offset : offset + size]


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_library_says_what_it_needs(order: str) -> None:
    found = read_elf(
        of(
            elf(
                AARCH64,
                needed=("libtorch.so", "libc.so.6"),
                versions=(
                    "GLIBC_2.9",
                    "GLIBC_2.34",
                    "GLIBC_2.17",
                    "GLIBC_PRIVATE",
                    "GLIBCXX_3.4.30",
                ),
                sections={".comment": b"GCC: (Some) 12.2.0\0GCC: other\0"},
                order=order,
            )
        )
    )
    assert (found.machine, found.bits, found.little) == ("aarch64", 64, order == "<")
    assert found.needed == ("libtorch.so", "libc.so.6")
    assert found.versions == {"GLIBC": "2.34", "GLIBCXX": "3.4.30"}
    assert found.compiler == "GCC: (Some) 12.2.0"


@pytest.mark.parametrize(
    ("machine", "name"),
    [(X86_64, "x86_64"), (AARCH64, "aarch64"), (CUDA, "cuda"), (21, "ppc64le"), (9999, "elf-9999")],
)
def test_machines_have_the_names_that_uname_has(machine: int, name: str) -> None:
    assert read_machine(of(elf(machine))) == name


@pytest.mark.parametrize(
    ("flags", "abi", "note", "arch"),
    [
        # e_flags as ptxas 12.9 and 13.3 write them
        (0x004B054B, 7, "", "sm_75"),
        (0x004B0556, 7, "", "sm_86"),
        (0x004B055A, 7, "", "sm_90"),
        (0x005A0D5A, 7, "", "sm_90a"),
        (0x06006402, 8, "V12.9.86\0-arch sm_100 ", "sm_100"),
        (0x0600640A, 8, "", "sm_100a"),
        (0x06004B04, 8, NOTE_13 + "-arch sm_75 ", "sm_75"),
        (0x06005A04, 8, NOTE_13 + "--gpu-name=sm_90a\0", "sm_90a"),
        (0x06005A04, 8, NOTE_13 + "-arch sm_90 ", "sm_90"),
        (0x06007802, 8, NOTE_13 + "-arch sm_120f ", "sm_120f"),
        (0x06005A04, 8, NOTE_13 + "-arch sm_100a ", "sm_90"),  # the note is of something else
        (0x06005A04, 9, "", None),  # a layout that is not known
    ],
)
def test_the_architecture_of_a_cubin(flags: int, abi: int, note: str, arch: str | None) -> None:
    found = read_gpu_binary(of(cubin(flags, abi, note)))
    assert found.arch == arch
    assert found.kernels == ("triton_poi_fused_0",)
    assert found.tool == ("ptxas V13.3.33" if note.startswith(NOTE_13) else None)


def test_a_library_is_no_cubin() -> None:
    with pytest.raises(NotElf, match="for x86_64, not a CUDA binary"):
        read_gpu_binary(of(elf()))


@pytest.mark.parametrize("data", [b"", b"\x7fELF", b"MZ" * 50, b"\x7fELF\x03\x01" + bytes(60)])
def test_what_is_no_elf_file_is_refused(data: bytes) -> None:
    with pytest.raises(NotElf):
        read_machine(of(data))


def test_names_that_a_terminal_would_obey_are_left_out() -> None:
    assert read_elf(of(elf(needed=("lib\x1b[2J.so", "libc.so.6")))).needed == ("libc.so.6",)


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_32_bit_library_is_read_too(order: str) -> None:
    """Its header and its tables have narrower fields."""
    names = b"\0.dynstr\0.dynamic\0.comment\0.shstrtab\0"
    strings = b"\0libc.so.6\0"
    parts = [
        ("", 0, b"", 0),
        (".dynstr", 3, strings, 0),
        (".dynamic", 6, struct.pack(f"{order}4L", 1, 1, 0, 0), 1),
        (".comment", 1, b"GCC: (Some) 12.2.0\0", 0),
        (".shstrtab", 3, names, 0),
    ]
    body, table = b"", b""
    for name, kind, content, link in parts:
        place = names.index(name.encode() + b"\0") if name else 0
        table += struct.pack(
            f"{order}10L", place, kind, 0, 0, 52 + len(body), len(content), link, 0, 1, 0
        )
        body += content
    ident = b"\x7fELF" + bytes([1, 1 if order == "<" else 2, 1]) + bytes(9)
    header = struct.pack(
        f"{order}2H5L6H", 3, 40, 1, 0, 0, 52 + len(body), 0, 52, 0, 0, 40, len(parts), 4
    )
    found = read_elf(of(ident + header + body + table))
    assert (found.machine, found.bits, found.little) == ("arm", 32, order == "<")
    assert (found.needed, found.compiler) == (("libc.so.6",), "GCC: (Some) 12.2.0")


def test_a_section_that_claims_to_be_huge_is_read_as_far_as_the_file_goes() -> None:
    data = bytearray(elf(sections={".comment": b"GCC: (Some) 12.2.0\0"}))
    (table,) = struct.unpack_from("<Q", data, 40)
    size_of_comment = table + 64 * 3 + 32
    data[size_of_comment : size_of_comment + 8] = b"\xff" * 8
    assert read_elf(of(bytes(data))).compiler == "GCC: (Some) 12.2.0"


WHOLE = elf(needed=("libc.so.6",), versions=("GLIBC_2.34",), sections={".comment": b"GCC\0"})


@given(
    changes=st.lists(st.tuples(st.integers(16, len(WHOLE) - 1), st.integers(0, 255)), max_size=30),
    cut=st.integers(0, len(WHOLE)),
    read=st.sampled_from([read_machine, read_elf, read_gpu_binary]),
)
@example(changes=[], cut=len(WHOLE), read=read_elf)
def test_garbled_files_are_read_or_refused(
    changes: list[tuple[int, int]], cut: int, read: Callable[[Read], object]
) -> None:
    data = bytearray(WHOLE)
    for at, value in changes:
        data[at] = value
    data[18:20] = CUDA.to_bytes(2, "little") if read is read_gpu_binary else data[18:20]
    asked = 0

    def counted(offset: int, size: int) -> bytes:
        nonlocal asked
        asked += 1
        assert offset >= 0, "the system refuses to read before the start of a file"
        assert size >= 0
        return bytes(data[:cut][offset : offset + size])

    try:
        read(counted)
    except NotElf:
        pass
    assert asked < 20, "a damaged file makes the reader read without end"


@given(st.binary(max_size=200), st.sampled_from([1, 2]), st.sampled_from([1, 2]))
def test_any_bytes_behind_the_magic_are_read_or_refused(
    content: bytes, bits: int, order: int
) -> None:
    try:
        read_elf(of(b"\x7fELF" + bytes([bits, order]) + content))
    except NotElf:
        pass


def test_a_real_library_is_read() -> None:
    """The C library of this host, or whatever Python has loaded in its place."""
    paths = {
        line.split()[-1]
        for line in Path("/proc/self/maps").read_text().splitlines()
        if "libc.so" in line
    }
    if not paths:
        pytest.skip("this Python is linked without a shared C library")
    data = Path(paths.pop()).read_bytes()
    assert read_elf(of(data)).needed
