"""Packages made by hand, without torch: their ELF files, their generated source, and the zip around
them."""

from __future__ import annotations

import json
import os
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from small_projects import publish_fake

from aoti_build.artifact.manifest import MODEL, REFERENCE_DATA, FileRecord, Manifest
from aoti_build.artifact.paths import artifact_directory
from aoti_build.common.digests import digest_bytes, digest_file
from aoti_build.models_file import Project, Target

X86_64, AARCH64, CUDA = 62, 183, 190
ROOT = "model"
FOLDER = f"{ROOT}/data/aotinductor/model/"
STEM = "c" + "a2" * 25 + "q"  # as inductor names its files: a digest
LIBRARY, WRAPPER, METADATA = (
    f"{FOLDER}{STEM}.wrapper{end}" for end in (".so", ".cpp", "_metadata.json")
)
KERNEL = f"{FOLDER}{STEM}.kernel.cpp"
BLOB = f"{FOLDER}{STEM}.wrapper_weights.blob"
KEY = "ab" * 32
# A package of which nothing could run, for whoever reads every byte and understands none.
OPAQUE = {
    "model/data/aotinductor/model/code.wrapper.so": b"not really code" * 1000,
    "model/data/aotinductor/model/code.wrapper_weights.blob": (
        bytes(range(256)) * 40_000
    ),  # more than two blocks
    "model/data/aotinductor/model/empty.json": b"",
    "model/archive_format": b"pt2",
}

WRAPPER_TEXT = """\
AOTInductorModel::AOTInductorModel() {
    inputs_info_[0].name = "arg2_1";
    inputs_info_[1].name = "arg3_1";
    constants_info_[0].name = "a_weight";
    constants_info_[0].dtype = cached_torch_dtype_float32;
    constants_info_[0].data_size = 384;
    constants_info_[0].from_folded = false;
    constants_info_[0].shape = {12, 8};
    constants_info_[0].original_fqn = "a.weight";
    constants_info_[1].name = "_FOLDED_CONST_1";
    constants_info_[1].dtype = cached_torch_dtype_int64;
    constants_info_[1].data_size = 8;
    constants_info_[1].from_folded = true;
    constants_info_[1].shape = {};
    in_spec_ = R"([1, {"type": "builtins.tuple", "context": "null", "children_spec": [\
{"type": "builtins.tuple", "context": "null", "children_spec": [\
{"type": null, "context": null, "children_spec": []}]}, \
{"type": "builtins.dict", "context": "[\\"mask\\"]", "children_spec": \
[{"type": null, "context": null, "children_spec": []}]}]}])";
    out_spec_ = R"([1, {"type": null, "context": null, "children_spec": []}])";
    outputs_info_[0].name = "output0";
}
AOTI_NOINLINE static void check_input_0(
) {
    int32_t arg2_1_expected_dtype = aoti_torch_dtype_float32();
    if (arg2_1_size[0] < 2) {
    }
    if (arg2_1_size[0] > 16) {
    }
    if (8 != arg2_1_size[1]) {
    }
    if (1 != arg2_1_stride[1]) {
    }
}
AOTI_NOINLINE static void check_input_1(
) {
    int32_t arg3_1_expected_dtype = aoti_torch_dtype_bool();
    if (arg3_1_size[0] > 9223372036854775807) {
    }
}
static void other() {
    int64_t s31 = arg2_1_size[0];
    int64_t s52 = s31;
    if (checks()) { assert_size_stride(arg3_1, {s52}, {1L}, "input"); }
    aoti_torch_cpu_addmm_out(buf, a_weight);
}
// Compile cmd
// g++ model.cpp -O3 -march=native -o model.so
"""
KERNEL_TEXT = 'extern "C"  void  cpp_fused_relu_0(float* in_out_ptr0)\n{\n}\n'


def elf(
    machine: int = X86_64,
    *,
    flags: int = 0,
    abi: int = 0,
    needed: tuple[str, ...] = (),
    versions: tuple[str, ...] = (),
    sections: Mapping[str, bytes] | None = None,
    order: str = "<",
) -> bytes:
    """A 64-bit ELF file with the sections that a reader looks at, and none of what would make it
    run."""
    strings = b"\0" + b"".join(word.encode() + b"\0" for word in (*needed, *versions))
    at = {word: strings.index(b"\0" + word.encode() + b"\0") + 1 for word in (*needed, *versions)}
    dynamic = b"".join(struct.pack(f"{order}2Q", 1, at[name]) for name in needed) + bytes(16)
    wanted = struct.pack(f"{order}2H3L", 1, len(versions), 0, 16, 0)
    for number, version in enumerate(versions, 1):
        step = 0 if number == len(versions) else 16
        wanted += struct.pack(f"{order}L2H2L", 0, 0, number, at[version], step)
    parts = [("", 0, b"", 0), (".dynstr", 3, strings, 0), (".dynamic", 6, dynamic, 1)]
    parts += [(".gnu.version_r", 0x6FFFFFFE, wanted, 1)] if versions else []
    parts += [(name, 1, content, 0) for name, content in (sections or {}).items()]
    names = b"".join(name.encode() + b"\0" for name, *_ in parts) + b".shstrtab\0"
    parts.append((".shstrtab", 3, names, 0))
    body, table = b"", b""
    for name, kind, content, link in parts:
        place = names.index(name.encode() + b"\0") if name else 0
        table += struct.pack(
            f"{order}2L4Q2L2Q", place, kind, 0, 0, 64 + len(body), len(content), link, 0, 1, 0
        )
        body += content
    ident = b"\x7fELF" + bytes([2, 1 if order == "<" else 2, 1, 0, abi]) + bytes(7)
    header = struct.pack(
        f"{order}2HL3QL6H", 3, machine, 1, 0, 0, 64 + len(body), flags, 64, 0, 0, 64, len(parts), 0
    )
    header = header[:-2] + struct.pack(f"{order}H", len(parts) - 1)
    return ident + header + body + table


def cubin(flags: int, abi: int, note: str = "", kernel: str = "triton_poi_fused_0") -> bytes:
    sections = {f".text.{kernel}": b"code", ".note.nv.tkinfo": note.encode()}
    return elf(CUDA, flags=flags, abi=abi, sections=sections)


def fatbin(*entries: tuple[int, int], flags: int = 0x11) -> bytes:
    """A fat binary of (kind, architecture); kind 1 is PTX, 2 a cubin. `flags` hold the mark."""
    body = b"".join(
        struct.pack("<HHLQLLHHLQQ", kind, 0x101, 64, 8, 0, 0, 0, 0, arch, 0, flags)
        + bytes(16)
        + b"the code"
        for kind, arch in entries
    )
    return struct.pack("<LHHQ", 0xBA55ED50, 1, 16, len(body)) + body


def metadata(**changes: str) -> dict[str, str]:
    told = {
        "AOTI_DEVICE_KEY": "cpu",
        "AOTI_PLATFORM": "linux",
        "AOTI_MACHINE": "x86_64",
        "AOTI_CPU_ISA": "AVX2",
        "AOTI_COMPUTE_CAPABILITY": "",
    }
    return {**told, **changes}


def members(machine: int = X86_64, **changes: str) -> dict[str, bytes]:
    """A whole package: name -> content. `changes` are of its metadata."""
    words = metadata(**({"AOTI_MACHINE": "aarch64"} if machine == AARCH64 else {}), **changes)
    library = elf(
        machine,
        needed=("libtorch.so", "libc.so.6"),
        versions=("GLIBC_2.14", "GLIBC_2.34", "GLIBC_PRIVATE"),
        sections={".comment": b"GCC: (Some) 12.2.0\0"},
    )
    return {
        WRAPPER: WRAPPER_TEXT.encode(),
        KERNEL: KERNEL_TEXT.encode(),
        METADATA: json.dumps(words).encode(),
        BLOB: bytes(384),
        LIBRARY: library,
        f"{ROOT}/archive_format": b"pt2",
        f"{ROOT}/archive_version": b"0",
        f"{ROOT}/.data/version": b"6\n",
    }


def write(
    path: Path, files: Mapping[str, bytes] | None = None, *, method: int = zipfile.ZIP_STORED
) -> Path:
    """A zip of `files`, by default of a whole package for this host's machine."""
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in (members(here()) if files is None else files).items():
            archive.writestr(name, content)
    return path


def here() -> int:
    """e_machine of this host."""
    return AARCH64 if os.uname().machine == "aarch64" else X86_64


def publish_zip(
    project: Project, files: Mapping[str, bytes], target: Target | None = None, **changes: Any
) -> tuple[Path, Manifest]:
    """An artifact whose model.pt2 is a zip of `files`: its directory, and a manifest that tells the
    truth but for `changes`."""
    target = target or project.targets[0]
    package = write(project.root / "package.tmp", files)
    reference_data = b"reference data of " + target.name.encode()
    recorded = {
        MODEL: FileRecord(digest_file(package), package.stat().st_size),
        REFERENCE_DATA: FileRecord(digest_bytes(reference_data), len(reference_data)),
    }
    manifest = publish_fake(project, target, **{"files": recorded, **changes})
    directory = artifact_directory(project, target)
    package.replace(directory / MODEL)
    return directory, manifest


def publish_package(
    project: Project, target: Target | None = None, files: Mapping[str, bytes] | None = None
) -> Path:
    """As `publish_zip`, of a whole package by default, with all that a manifest says. Returns the
    directory."""
    case = {
        "name": "example",
        "sizes": {},
        "seed": 0,
        "outputs": [{"name": "output", "ok": True, "max_abs": 1e-7}],
    }
    directory, _ = publish_zip(
        project,
        members(here()) if files is None else files,
        target,
        signature={
            "inputs": [
                {"name": "x", "dtype": "float32", "shape": ["batch", 8]},
                {"name": "scale", "constant": "2.0"},
            ],
            "outputs": [{"name": "output", "dtype": "float32", "shape": ["batch", 4]}],
            "dims": {"batch": {"min": 2, "max": 16, "multiple_of": 2}},
            "mutates": {"inputs": [], "buffers": []},
        },
        check={
            "passed": True,
            "tolerance": {"atol": None, "rtol": None, "outputs": {}},
            "cases": [case],
            "vacuous": [],
            "no_fp64": None,
            "seconds": 0.1,
        },
        provenance={
            "aoti_build": "0.1.0",
            "created": "2024-01-01T00:00:00+00:00",
            "git_commit": "c" * 40,
            "git_dirty": False,
        },
    )
    return directory
