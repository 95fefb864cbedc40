"""Facts in an ELF file: machine, needed libraries and versions, and a GPU binary's architecture.

They are read from the file's own headers, with a function that returns the bytes at an offset. So a
shared library of gigabytes inside a package costs a few small reads. The file is not trusted: a bad
header raises `NotElf`, and bad sections count as missing.

Sources: the System V ABI (gABI), chapters 4 and 5; for symbol versions the LSB Core specification,
"Symbol Versioning". The flags of NVIDIA's binaries are described by LLVM
(llvm/include/llvm/BinaryFormat/ELF.h, `EF_CUDA_*`), and agree with the output of ptxas of CUDA 12.9
and 13.3:

- ABI version 7: the architecture is the low byte of `e_flags`; 0x800 marks an architecture-specific
  binary (sm_90a).
- ABI version 8, from sm_100 on in CUDA 12.8 and for every architecture in CUDA 13: it is the second
  byte, and the mark is 0x8. CUDA 13 does not set the mark. The suffix is then taken from the
  compiler's command line in ``.note.nv.tkinfo``, if that section exists.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Read = Callable[[int, int], bytes]  # (offset, size) -> at most `size` bytes

# e_machine -> the name of the machine in the kernel's `uname -m`, or the GPU vendor's name for its
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
CUDA = 190
AMDGPU = 224
_DYNAMIC = 6  # section type SHT_DYNAMIC
_VERSION_NEEDS = 0x6FFFFFFE  # section type SHT_GNU_verneed
_NEEDED = 1  # dynamic tag DT_NEEDED
_MAX_SECTIONS = 4096  # shared libraries have forty, GPU binaries some for each kernel
_MAX_SECTION_SIZE = 8 << 20  # bytes; the string table of a library has some 100 KiB
_MAX_VERSION_RECORDS = 4096  # a library has some twenty
_MAX_STRING = 4096  # bytes
_HEADER_SIZE = 64  # bytes; the header of a 32-bit file is shorter
_CUDA_ABI_1 = 7
_CUDA_ABI_2 = 8


class NotElf(ValueError):
    """The bytes are not an ELF file, or its header contradicts itself."""


@dataclass(frozen=True)
class Elf:
    """Facts of a shared library.

    Attributes:
        machine: as in `uname -m`; ``elf-N`` for an unknown one.
        bits: 32 or 64.
        little: whether the byte order is little-endian.
        needed: the names of the libraries that it needs (DT_NEEDED).
        versions: the newest version of each set of symbols, such as {"GLIBC": "2.34"}.
        compiler: the text that the compiler left in ``.comment``.
    """

    machine: str
    bits: int
    little: bool
    needed: tuple[str, ...] = ()
    versions: Mapping[str, str] | None = None
    compiler: str | None = None


@dataclass(frozen=True)
class GpuBinary:
    """Facts of a cubin.

    Attributes:
        arch: such as ``sm_90a``; None if the flags hold no known architecture.
        kernels: the names of the entry functions.
        tool: the name and version of the assembler, by its own note.
    """

    arch: str | None
    kernels: tuple[str, ...]
    tool: str | None


def read_machine(read: Read) -> str:
    """The machine of an ELF file, by one read. Raises NotElf."""
    return _machine(_read_header(read))


def read_elf(read: Read) -> Elf:
    """The facts of a shared library. Raises NotElf."""
    file = _ElfFile(read)
    return Elf(
        machine=_machine(file.header),
        bits=file.header.bits,
        little=file.header.little,
        needed=tuple(_needed_libraries(file)),
        versions=_newest_versions(file),
        compiler=_string(file.content(".comment"), 0) or None,
    )


def read_gpu_binary(read: Read) -> GpuBinary:
    """The facts of a cubin. Raises NotElf, also for an ELF file of another kind."""
    file = _ElfFile(read)
    if file.header.machine != CUDA:
        raise NotElf(f"an ELF file for {_machine(file.header)}, not a CUDA binary")
    note = file.content(".note.nv.tkinfo").decode("ascii", "replace")
    tool = re.search(r"release [\d.]{1,20}, (V[\d.]{1,20})", note)
    kernels = []
    for section in file.sections:
        if section.name.startswith(".text."):
            kernels.append(section.name.removeprefix(".text."))
    return GpuBinary(
        arch=_cuda_architecture(file.header, note),
        kernels=tuple(sorted(kernels)),
        tool=f"ptxas {tool[1]}" if tool else None,
    )


@dataclass(frozen=True)
class _Header:
    """Fields of the ELF header; the last four describe the table of sections."""

    bits: int
    little: bool
    abi_version: int
    machine: int
    flags: int
    table_offset: int
    entry_size: int
    section_count: int
    names_index: int

    @property
    def byte_order(self) -> str:
        return "<" if self.little else ">"


@dataclass(frozen=True)
class _Section:
    name: str
    kind: int
    offset: int
    size: int
    link: int


class _ElfFile:
    """The header and the sections of an ELF file. Raises NotElf."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self.header = _read_header(read)
        self.sections = _read_sections(self.header, read)

    def content(self, name: str) -> bytes:
        """The bytes of the section of that name; empty if there is none."""
        for section in self.sections:
            if section.name == name:
                return self.content_of(section)
        return b""

    def first_of(self, kind: int) -> _Section | None:
        """The first section of a type."""
        for section in self.sections:
            if section.kind == kind:
                return section
        return None

    def content_of(self, section: _Section) -> bytes:
        return self._read(section.offset, min(section.size, _MAX_SECTION_SIZE))

    def strings_of(self, section: _Section) -> bytes:
        """The string table that a section refers to; empty if there is none."""
        if section.link >= len(self.sections):
            return b""
        return self.content_of(self.sections[section.link])


def _read_header(read: Read) -> _Header:
    start = read(0, _HEADER_SIZE)
    if start[:4] != b"\x7fELF":
        raise NotElf("not an ELF file")
    if len(start) < _HEADER_SIZE:
        raise NotElf("an ELF file with a damaged header")
    # EI_CLASS is 1 for 32 bits, 2 for 64. EI_DATA is 1 for little-endian, 2 for big-endian.
    word_class = start[4]
    byte_order = start[5]
    if word_class not in (1, 2) or byte_order not in (1, 2):
        raise NotElf("an ELF file with a damaged header")
    is_64_bit = word_class == 2
    little = byte_order == 1
    order = "<" if little else ">"
    (machine,) = struct.unpack_from(f"{order}H", start, 18)
    # From e_shoff to e_shstrndx.
    layout, offset = (f"{order}QL6H", 40) if is_64_bit else (f"{order}LL6H", 32)
    table_offset, flags, _, _, _, entry_size, section_count, names_index = struct.unpack_from(
        layout, start, offset
    )
    return _Header(
        bits=64 if is_64_bit else 32,
        little=little,
        abi_version=start[8],
        machine=machine,
        flags=flags,
        table_offset=table_offset,
        entry_size=entry_size,
        section_count=section_count,
        names_index=names_index,
    )


def _machine(header: _Header) -> str:
    name = MACHINES.get(header.machine, f"elf-{header.machine}")
    return "ppc64le" if name == "ppc64" and header.little else name


def _read_sections(header: _Header, read: Read) -> list[_Section]:
    """The sections of a file; none if their table is missing or damaged."""
    is_64_bit = header.bits == 64
    # The first eight fields, from sh_name to sh_info, of an entry with this size.
    fields, entry_size = ("2L4Q2L", 64) if is_64_bit else ("8L", 40)
    if not header.table_offset or header.entry_size != entry_size:
        return []
    if header.section_count > _MAX_SECTIONS:
        return []
    layout = struct.Struct(header.byte_order + fields)
    table = read(header.table_offset, entry_size * header.section_count)
    rows = []
    for index in range(len(table) // entry_size):
        row = layout.unpack_from(table, entry_size * index)
        name_offset, kind, _, _, offset, size, link, _ = row
        rows.append((name_offset, kind, offset, size, link))
    names = b""
    if header.names_index < len(rows):
        _, _, offset, size, _ = rows[header.names_index]
        names = read(offset, min(size, _MAX_SECTION_SIZE))
    sections = []
    for name_offset, kind, offset, size, link in rows:
        name = _string(names, name_offset)
        sections.append(_Section(name, kind, offset, size, link))
    return sections


def _cuda_architecture(header: _Header, note: str) -> str | None:
    """``sm_90a``, from the flags and the compiler's note. See the module's docstring."""
    if header.abi_version == _CUDA_ABI_1:
        number = header.flags & 0xFF
        is_specific = bool(header.flags & 0x800)
    elif header.abi_version == _CUDA_ABI_2:
        number = header.flags >> 8 & 0xFF
        is_specific = bool(header.flags & 0x8)
    else:
        return None
    in_note = re.search(rf"\bsm_{number}([af]?)\b", note)
    if in_note:
        return f"sm_{number}{in_note[1]}"
    return f"sm_{number}a" if is_specific else f"sm_{number}"


def _needed_libraries(file: _ElfFile) -> list[str]:
    section = file.first_of(_DYNAMIC)
    if section is None:
        return []
    content = file.content_of(section)
    strings = file.strings_of(section)
    fields = "2Q" if file.header.bits == 64 else "2L"
    entry = struct.Struct(file.header.byte_order + fields)
    complete_size = len(content) // entry.size * entry.size
    names = []
    for tag, value in entry.iter_unpack(content[:complete_size]):
        name = _string(strings, value) if tag == _NEEDED else ""
        if name:
            names.append(name)
    return names


def _newest_versions(file: _ElfFile) -> dict[str, str]:
    """The newest version of each set of symbols that the library needs."""
    section = file.first_of(_VERSION_NEEDS)
    if section is None:
        return {}
    strings = file.strings_of(section)
    newest: dict[str, str] = {}
    for name_offset in _version_names(file, section):
        # Such as GLIBC_2.34.
        symbols, _, version = _string(strings, name_offset).partition("_")
        if not re.fullmatch(r"\d{1,9}(\.\d{1,9}){0,3}", version):
            continue
        if symbols not in newest or _numbers(version) > _numbers(newest[symbols]):
            newest[symbols] = version
    return dict(sorted(newest.items()))


def _version_names(file: _ElfFile, section: _Section) -> list[int]:
    """Offsets of the names of all needed versions in the section's string table.

    The section holds one record (Verneed) for each library. It links to the library's versions
    (Vernaux) and to the next record, by distances in bytes.
    """
    content = file.content_of(section)
    library_layout = struct.Struct(f"{file.header.byte_order}2H3L")
    version_layout = struct.Struct(f"{file.header.byte_order}L2H2L")
    names: list[int] = []
    # Each version is visited once. Otherwise links that cross could make the work grow with the
    # square of the size.
    visited: set[int] = set()
    library = 0
    for _ in range(_MAX_VERSION_RECORDS):
        if library + library_layout.size > len(content):
            break
        _, _, _, to_versions, to_next_library = library_layout.unpack_from(content, library)
        version = library + to_versions
        while version not in visited and version + version_layout.size <= len(content):
            visited.add(version)
            _, _, _, name, to_next_version = version_layout.unpack_from(content, version)
            names.append(name)
            if not to_next_version or len(visited) > _MAX_VERSION_RECORDS:
                break
            version += to_next_version
        if not to_next_library:
            break
        library += to_next_library
    return names


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def _string(strings: bytes, offset: int) -> str:
    """The zero-terminated string at an offset; empty if it is missing, too long or unprintable."""
    end = strings.find(b"\0", offset, offset + _MAX_STRING)
    if not 0 <= offset < end:
        return ""
    text = strings[offset:end].decode("utf-8", "replace")
    return text if text.isprintable() else ""
