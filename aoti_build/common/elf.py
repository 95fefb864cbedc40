"""What an ELF file says of itself: machine, the libraries and versions it needs, and of a GPU
binary its architecture.

Read from the file's own headers with a function that gives bytes at an offset, so a shared library
of gigabytes inside a package costs a few small reads. Nothing in it is believed: a file that
contradicts itself raises `NotElf` where the header is bad, and has no libraries or notes where its
sections are.

Sources: the System V ABI (gABI), chapters 4 and 5; for symbol versions the LSB Core specification,
"Symbol Versioning". The flags of NVIDIA's binaries are described by LLVM
(llvm/include/llvm/BinaryFormat/ELF.h, `EF_CUDA_*`), and agree with what ptxas of CUDA 12.9 and 13.3
writes:

- ABI version 7: the architecture is the low byte of `e_flags`; 0x800 marks an architecture-specific
  binary (sm_90a).
- ABI version 8, from sm_100 on in CUDA 12.8 and for every architecture in CUDA 13: it is the second
  byte, and the mark is 0x8. CUDA 13 does not set that, so the suffix is taken from the compiler's
  command line in ``.note.nv.tkinfo``, where there is one.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Read = Callable[[int, int], bytes]  # (offset, size) -> at most so many bytes

# e_machine -> the name that the kernel's `uname -m` has for it, or the GPU vendor's for its
# binaries.
MACHINES: Mapping[int, str] = {
    3: "i686",
    20: "ppc",
    21: "ppc64",
    22: "s390x",
    40: "arm",
    62: "x86_64",
    183: "aarch64",
    190: "cuda",
    205: "intelgt",
    224: "amdgpu",
    243: "riscv64",
    258: "loongarch64",
}
CUDA, AMDGPU = 190, 224
_DYNAMIC, _VERNEED = 6, 0x6FFFFFFE  # section types
_NEEDED = 1  # dynamic tag
_MOST_SECTIONS = 4096  # shared libraries have forty, GPU binaries some for each kernel
_LARGEST_SECTION = 8 << 20  # bytes read of one section; a library's string table has some 100 KiB
_MOST_RECORDS = 4096  # of symbol versions; a library has some twenty
_CUDA_ABI_1, _CUDA_ABI_2 = 7, 8


class NotElf(ValueError):
    """The bytes are not an ELF file, or its header contradicts itself."""


@dataclass(frozen=True)
class Elf:
    """`machine` as `uname -m` has it (``elf-N`` if unknown), `bits` 32 or 64; `needed` the names of
    libraries (DT_NEEDED); `versions` the newest version of each set of symbols, such as {"GLIBC":
    "2.34"}; `compiler` what the compiler left in ``.comment``."""

    machine: str
    bits: int
    little: bool
    needed: tuple[str, ...] = ()
    versions: Mapping[str, str] | None = None
    compiler: str | None = None


@dataclass(frozen=True)
class GpuBinary:
    """`arch` such as ``sm_90a``, None if the flags hold none that is known; `kernels` the entry
    functions in it; `tool` what made it, as it says itself."""

    arch: str | None
    kernels: tuple[str, ...]
    tool: str | None


@dataclass(frozen=True)
class _Section:
    name: str
    kind: int
    offset: int
    size: int
    link: int


@dataclass(frozen=True)
class _Header:
    bits: int
    little: bool
    abi_version: int
    machine: int
    flags: int
    sections: int
    entry_size: int
    count: int
    names: int

    @property
    def order(self) -> str:
        return "<" if self.little else ">"


def read_machine(read: Read) -> str:
    """The machine alone, by one read."""
    return _machine(_header(read))


def read_elf(read: Read) -> Elf:
    """A shared library. Raises NotElf."""
    header = _header(read)
    sections = _sections(header, read)
    return Elf(
        machine=_machine(header),
        bits=header.bits,
        little=header.little,
        needed=tuple(_needed(header, sections, read)),
        versions=_versions(header, sections, read),
        compiler=_first_text(_content(_named(sections, ".comment"), read)),
    )


def read_gpu_binary(read: Read) -> GpuBinary:
    """A cubin. Raises NotElf, also for an ELF file that is none."""
    header = _header(read)
    if header.machine != CUDA:
        raise NotElf(f"an ELF file for {_machine(header)}, not a CUDA binary")
    sections = _sections(header, read)
    note = _content(_named(sections, ".note.nv.tkinfo"), read).decode("ascii", "replace")
    tool = re.search(r"release [\d.]{1,20}, (V[\d.]{1,20})", note)
    kernels = tuple(
        sorted(part.name[len(".text.") :] for part in sections if part.name.startswith(".text."))
    )
    return GpuBinary(_cuda_arch(header, note), kernels, f"ptxas {tool[1]}" if tool else None)


def _cuda_arch(header: _Header, note: str) -> str | None:
    if header.abi_version == _CUDA_ABI_1:
        number, special = header.flags & 0xFF, header.flags & 0x800
    elif header.abi_version == _CUDA_ABI_2:
        number, special = header.flags >> 8 & 0xFF, header.flags & 0x8
    else:
        return None
    asked = re.search(rf"\bsm_{number}([af]?)\b", note)
    return f"sm_{number}{asked[1] if asked else 'a' * bool(special)}"


def _header(read: Read) -> _Header:
    start = read(0, 64)
    if start[:4] != b"\x7fELF":
        raise NotElf("not an ELF file")
    if len(start) < 64 or start[4] not in (1, 2) or start[5] not in (1, 2):
        raise NotElf("an ELF file with a damaged header")
    wide, little = start[4] == 2, start[5] == 1
    order = "<" if little else ">"
    (machine,) = struct.unpack_from(f"{order}H", start, 18)
    layout, at = (f"{order}QL6H", 40) if wide else (f"{order}LL6H", 32)
    sections, flags, _, _, _, entry_size, count, names = struct.unpack_from(layout, start, at)
    return _Header(
        64 if wide else 32, little, start[8], machine, flags, sections, entry_size, count, names
    )


def _machine(header: _Header) -> str:
    name = MACHINES.get(header.machine, f"elf-{header.machine}")
    return "ppc64le" if name == "ppc64" and header.little else name


def _sections(header: _Header, read: Read) -> list[_Section]:
    """The section headers; none where they are missing or damaged."""
    size = 64 if header.bits == 64 else 40
    if not header.sections or header.entry_size != size or header.count > _MOST_SECTIONS:
        return []
    table = read(header.sections, size * header.count)
    layout = f"{header.order}{'2L4Q2L' if header.bits == 64 else '8L'}"
    rows = [struct.unpack_from(layout, table, size * index) for index in range(len(table) // size)]
    names = b""
    if header.names < len(rows):
        names = read(rows[header.names][4], min(rows[header.names][5], _LARGEST_SECTION))
    return [
        _Section(_text(names, name), kind, offset, size, link)
        for name, kind, _, _, offset, size, link, _ in rows
    ]


def _named(sections: list[_Section], name: str) -> _Section | None:
    return next((section for section in sections if section.name == name), None)


def _content(section: _Section | None, read: Read) -> bytes:
    return read(section.offset, min(section.size, _LARGEST_SECTION)) if section else b""


def _linked(section: _Section, sections: list[_Section], read: Read) -> bytes:
    """The string table that a section names."""
    return _content(sections[section.link], read) if section.link < len(sections) else b""


def _needed(header: _Header, sections: list[_Section], read: Read) -> list[str]:
    section = next((part for part in sections if part.kind == _DYNAMIC), None)
    if section is None:
        return []
    content, strings = _content(section, read), _linked(section, sections, read)
    entry = struct.Struct(f"{header.order}{'2Q' if header.bits == 64 else '2L'}")
    whole = content[: len(content) // entry.size * entry.size]
    names = (_text(strings, value) for tag, value in entry.iter_unpack(whole) if tag == _NEEDED)
    return [name for name in names if name]


def _versions(header: _Header, sections: list[_Section], read: Read) -> dict[str, str]:
    """The newest of each set of symbol versions that the library asks of others."""
    section = next((part for part in sections if part.kind == _VERNEED), None)
    if section is None:
        return {}
    content, strings = _content(section, read), _linked(section, sections, read)
    newest: dict[str, str] = {}
    # A record for each library links to its versions and to the next record, by distances. A
    # version is visited only once, so that links which cross do not make the work grow with the
    # square of the size.
    at, seen = 0, set[int]()
    for _ in range(_MOST_RECORDS):
        if at + 16 > len(content):
            break
        _, _, _, versions, following = struct.unpack_from(f"{header.order}2H3L", content, at)
        version = at + versions
        while version not in seen and version + 16 <= len(content):
            seen.add(version)
            _, _, _, name, step = struct.unpack_from(f"{header.order}L2H2L", content, version)
            kind, _, number = _text(strings, name).partition("_")
            if re.fullmatch(r"\d{1,9}(\.\d{1,9}){0,3}", number) and _numbers(number) > _numbers(
                newest.get(kind, "")
            ):
                newest[kind] = number
            if not step or len(seen) > _MOST_RECORDS:
                break
            version += step
        if not following:
            break
        at += following
    return dict(sorted(newest.items()))


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part)


def _text(strings: bytes, at: int) -> str:
    """The zero-terminated string at an offset; empty if there is none, or none that can be
    shown."""
    end = strings.find(b"\0", at, at + 4096)
    text = strings[at:end].decode("utf-8", "replace") if 0 <= at < end else ""
    return text if text.isprintable() else ""


def _first_text(content: bytes) -> str | None:
    return _text(content, 0) or None
