"""All that a package says of itself, as a JSON value: for people and programs that look at one they
did not make."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from aoti_build.artifact.manifest import KEY_METADATA
from aoti_build.artifact.pt2.directory import Member
from aoti_build.artifact.pt2.generated import Generated, read_generated
from aoti_build.artifact.pt2.gpu_code import architectures
from aoti_build.artifact.pt2.package import Archive, Model
from aoti_build.common.elf import NotElf, read_elf, read_gpu_binary

# Bytes of generated C++ that are read; a model of ten thousand kernels has some 20 MiB.
_LARGEST_SOURCE = 64 << 20


def contents(archive: Archive) -> dict[str, Any]:
    """The table that docs/reference/formats.md describes as `package`. Raises ArtifactError if what
    it reads is damaged."""
    keys = [model.metadata.get(KEY_METADATA) for model in archive.models]
    return {
        "format_version": archive.format_version,
        "bytes": archive.size,
        "made_by": {"aoti_build": all(keys), "key": keys[0] if all(keys) else None},
        "members": [_member(member) for member in archive.members.values()],
        "models": [_model(archive, model) for model in archive.models],
    }


def _member(member: Member) -> dict[str, Any]:
    return {
        "name": member.name,
        "bytes": member.size,
        "compressed": member.compressed,
        "crc32": f"{member.crc:08x}",
    }


def _model(archive: Archive, model: Model) -> dict[str, Any]:
    generated = read_generated(
        _text(archive, [name for name in model.sources if not name.endswith(".kernel.cpp")]),
        _text(archive, [name for name in model.sources if name.endswith(".kernel.cpp")]),
    )
    return {
        "name": model.name,
        "device": model.device,
        "platform": model.platform,
        "machine": model.machine,
        "isa": model.isa,
        "compute_capability": model.compute_capability,
        "march": list(generated.march),
        "metadata": dict(model.metadata),
        "libraries": [_library(archive, name) for name in model.libraries],
        "kernels": _kernels(archive, model, generated),
        "operators": list(generated.operators),
        "signature": {
            "inputs": [_tensor(tensor) for tensor in generated.inputs],
            "outputs": [_tensor(tensor) for tensor in generated.outputs],
            "dims": generated.dims,
        },
        "constants": [
            {**asdict(constant), "shape": list(constant.shape)} for constant in generated.constants
        ],
        "weights": _weights(archive, model, generated),
    }


def _text(archive: Archive, names: Sequence[str]) -> str:
    """The generated sources, one after another; without those that are too large to be looked
    through. Unverified: of a damaged one the rest is shown all the same."""
    small = {
        name: size for name in names if (size := archive.members[name].size) <= _LARGEST_SOURCE
    }
    return "\n".join(
        archive.reader(name)(0, size).decode("utf-8", "replace") for name, size in small.items()
    )


def _library(archive: Archive, name: str) -> dict[str, Any]:
    elf = read_elf(archive.reader(name))
    return {
        "name": name,
        "bytes": archive.members[name].size,
        "machine": elf.machine,
        "bits": elf.bits,
        "needed": list(elf.needed),
        "versions": dict(elf.versions or {}),
        "compiler": elf.compiler,
    }


def _kernels(archive: Archive, model: Model, generated: Generated) -> list[dict[str, Any]]:
    """One for each C++ loop and each file of GPU code; the GPU functions themselves where there are
    no files, since they are then inside the shared library (`aot_inductor.embed_kernel_binary`)."""
    kernels = [_kernel("cpp", name) for name in generated.kernels]
    kernels += [_gpu_code(archive, file) for file in model.kernels]
    if not model.kernels:
        kernels += [_kernel("embedded", name) for name in generated.gpu_kernels]
    return kernels


def _gpu_code(archive: Archive, file: str) -> dict[str, Any]:
    """A file that cannot be read is listed all the same: nobody knows the formats of all vendors
    and years."""
    kind, arch = file.rpartition(".")[2], ", ".join(architectures(archive, file)) or None
    if kind == "cubin":
        with contextlib.suppress(NotElf):
            binary = read_gpu_binary(archive.reader(file))
            return _kernel(kind, ", ".join(binary.kernels) or None, file, arch, binary.tool)
    return _kernel(kind, None, file, arch)


def _kernel(
    kind: str,
    name: str | None,
    file: str | None = None,
    arch: str | None = None,
    tool: str | None = None,
) -> dict[str, Any]:
    return {"name": name, "kind": kind, "file": file, "arch": arch, "tool": tool}


def _tensor(tensor: Any) -> dict[str, Any]:
    shape = None if tensor.shape is None else list(tensor.shape)
    return {"name": tensor.name, "dtype": tensor.dtype, "shape": shape}


def _weights(archive: Archive, model: Model, generated: Generated) -> dict[str, Any]:
    """Where the values of the constants are: in files of their own, or inside the shared
    library."""
    files = [{"name": name, "bytes": archive.members[name].size} for name in model.weights]
    values = sum(constant.size for constant in generated.constants if not constant.folded)
    where = "library" if values else "none"
    if files:
        where = "files"
    return {
        "where": where,
        "bytes": values,
        "files": files,
    }
