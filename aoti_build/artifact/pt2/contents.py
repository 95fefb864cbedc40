"""The contents of a package as a JSON value, for people and programs that did not build it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from aoti_build.artifact.manifest import KEY_METADATA
from aoti_build.artifact.pt2.directory import Member
from aoti_build.artifact.pt2.generated import Generated, Tensor, read_generated
from aoti_build.artifact.pt2.gpu_code import architectures
from aoti_build.artifact.pt2.package import Archive, Model
from aoti_build.common.elf import GpuBinary, NotElf, read_elf, read_gpu_binary
from aoti_build.common.json_object import JsonObject

# Bytes of generated C++ that are read. A model with ten thousand kernels has about 20 MiB.
_LARGEST_SOURCE = 64 << 20
_KERNEL_SOURCE = ".kernel.cpp"


def contents(archive: Archive) -> JsonObject:
    """The table that docs/reference/formats.md describes as `package`.

    Raises ArtifactError if a member that it reads is damaged.
    """
    keys = [model.metadata.get(KEY_METADATA) for model in archive.models]
    is_ours = all(keys)
    return {
        "format_version": archive.format_version,
        "bytes": archive.size,
        "made_by": {
            "aoti_build": is_ours,
            "key": keys[0] if is_ours else None,
        },
        "members": [_member(member) for member in archive.members.values()],
        "models": [_model(archive, model) for model in archive.models],
    }


def _member(member: Member) -> JsonObject:
    return {
        "name": member.name,
        "bytes": member.size,
        "compressed": member.compressed,
        "crc32": f"{member.crc:08x}",
    }


def _model(archive: Archive, model: Model) -> JsonObject:
    generated = _generated(archive, model)
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
        "constants": _constants(generated),
        "weights": _weights(archive, model, generated),
    }


def _generated(archive: Archive, model: Model) -> Generated:
    wrappers: list[str] = []
    kernels: list[str] = []
    for name in model.sources:
        names = kernels if name.endswith(_KERNEL_SOURCE) else wrappers
        names.append(name)
    return read_generated(_text(archive, wrappers), _text(archive, kernels))


def _text(archive: Archive, names: Sequence[str]) -> str:
    """The text of generated sources, one after the other, without those that are too large.

    The text is not compared with CRC-32s: of a damaged source the rest is shown.
    """
    texts = []
    for name in names:
        size = archive.members[name].size
        if size <= _LARGEST_SOURCE:
            data = archive.reader(name)(0, size)
            texts.append(data.decode("utf-8", "replace"))
    return "\n".join(texts)


def _library(archive: Archive, name: str) -> JsonObject:
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


def _kernels(archive: Archive, model: Model, generated: Generated) -> list[JsonObject]:
    """An entry for each C++ loop and each file of GPU code.

    A package without such files may have GPU code inside the shared library
    (`aot_inductor.embed_kernel_binary`). Its functions are then listed by name.
    """
    kernels = [_kernel("cpp", name) for name in generated.kernels]
    kernels += [_gpu_file(archive, file) for file in model.kernels]
    if not model.kernels:
        kernels += [_kernel("embedded", name) for name in generated.gpu_kernels]
    return kernels


def _gpu_file(archive: Archive, file: str) -> JsonObject:
    """The entry of a file of GPU code. It has fewer facts if the file cannot be read."""
    kind = file.rpartition(".")[2]
    arch = ", ".join(architectures(archive, file)) or None
    binary = _cubin(archive, file) if kind == "cubin" else None
    if binary is None:
        return _kernel(kind, None, file, arch)
    names = ", ".join(binary.kernels)
    return _kernel(
        kind,
        names or None,
        file,
        arch,
        tool=binary.tool,
    )


def _cubin(archive: Archive, file: str) -> GpuBinary | None:
    try:
        return read_gpu_binary(archive.reader(file))
    except NotElf:
        return None


def _kernel(
    kind: str,
    name: str | None,
    file: str | None = None,
    arch: str | None = None,
    tool: str | None = None,
) -> JsonObject:
    return {
        "name": name,
        "kind": kind,
        "file": file,
        "arch": arch,
        "tool": tool,
    }


def _tensor(tensor: Tensor) -> JsonObject:
    shape = None if tensor.shape is None else list(tensor.shape)
    return {"name": tensor.name, "dtype": tensor.dtype, "shape": shape}


def _constants(generated: Generated) -> list[JsonObject]:
    entries = []
    for constant in generated.constants:
        entry = asdict(constant)
        entry["shape"] = list(constant.shape)
        entries.append(entry)
    return entries


def _weights(archive: Archive, model: Model, generated: Generated) -> JsonObject:
    """Where the values of the constants are: in files, in the shared library, or nowhere."""
    files = []
    for name in model.weights:
        files.append({"name": name, "bytes": archive.members[name].size})
    size = 0
    for constant in generated.constants:
        # The compiled code computes folded constants from the others.
        if not constant.folded:
            size += constant.size
    if files:
        location = "files"
    elif size:
        location = "library"
    else:
        location = "none"
    return {"where": location, "bytes": size, "files": files}
