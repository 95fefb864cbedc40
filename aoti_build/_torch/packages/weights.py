"""Packages with the weights apart from the code: what can be taken out of a compiled `.pt2`, and a
new one made from it.

With `package_constants_in_so` off and the on-disk format "binary_blob", inductor writes the bytes
of all constants into one ``*_weights.blob``, in the order of the table in ``*.wrapper.cpp``, each
aligned; the shared library only has the table. Whether a compiled package can take other weights is
not believed but shown: `separate` builds the blob from the exported program's own tensors and
compares it with the compiler's, byte for byte. Anything folded, packed, inlined or renamed by the
compiler fails that, and then the weights count as part of the code.
"""

from __future__ import annotations

import contextlib
import json
import re
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any
from unittest import mock

import torch
from torch.export import ExportedProgram

from aoti_build.artifact.manifest import KEY_METADATA
from aoti_build.common.extents import SHAREABLE

# Asked of inductor unless the user's preset says otherwise. The third stops it from writing small
# constants (0-d, and 1-d up to 8 elements) into the code as literals, the fourth from folding
# arithmetic on one-element weights into them, which leaves the weight itself in the blob and so
# would go unseen.
EXTERNAL_OPTIONS: Mapping[str, Any] = {
    "aot_inductor.package_constants_in_so": False,
    "aot_inductor.package_constants_on_disk_format": "binary_blob",
    "always_keep_tensor_constants": True,
    "joint_graph_constant_folding": False,
}
_ALIGNMENTS = (64, 1)  # on the CPU; where all constants are on a GPU (torch/_inductor/codecache.py)
_BLOB = "_weights.blob"
_PIECE = 8 << 20  # bytes
_Writer = torch._C.PyTorchFileWriter
_ROW = re.compile(r"constants_info_\[(\d+)\]\.(original_fqn|from_folded) = (.*);")


def separate(
    package: Path, state: Mapping[str, torch.Tensor], constants: Mapping[str, Any], used: set[str]
) -> dict[str, Any]:
    """{"apart": True, "alignment": bytes} if the package's weights can be exchanged, else {"apart":
    False, "why": text}.

    `state`, `constants` and `used` (see `used_state`) are of the exported program before the
    compile.
    """
    with zipfile.ZipFile(package) as archive:
        blobs = [name for name in archive.namelist() if name.endswith(_BLOB)]
        if len(blobs) != 1:
            return {"external": False, "why": "the weights are inside the shared library"}
        table = _constants(archive)
        values = {**state, **constants}
        if any(folded for _, folded in table) or any(name not in values for name, _ in table):
            return {"external": False, "why": "the compiler folded or renamed constants"}
        if unseen := used - {name for name, _ in table} - _tied_to(table, state):
            return {
                "external": False,
                "why": f"the compiler put {', '.join(sorted(unseen)[:3])} into the code",
            }
        if any(type(values[name]) not in (torch.Tensor, torch.nn.Parameter) for name, _ in table):
            return {"external": False, "why": "a weight is a tensor subclass"}
        for alignment in _ALIGNMENTS:
            with archive.open(blobs[0]) as blob:
                if _holds(blob, packed([name for name, _ in table], values, alignment)):
                    return {"external": True, "alignment": alignment}
    return {"external": False, "why": "the compiler transformed weights"}


def repack(
    template: Path, destination: Path, program: ExportedProgram, alignment: int, key: str
) -> None:
    """Write `destination`: the code of `template`, the weights of `program`, stamped with `key`.

    Only for a program with the template's graph key, and a template for which `separate` said
    `apart`. The blob is written beside the template first, since torch's writer wants it in one
    piece, and mapped: pages of a file give way where memory is short.
    """
    state = {**program.state_dict, **program.constants}
    with (
        zipfile.ZipFile(template) as archive,
        tempfile.TemporaryDirectory(dir=template.parent) as directory,
    ):
        names = [name for name, _ in _constants(archive)]
        writer = package_writer(str(destination))
        # As torch.export.pt2_archive does: the zip layout with .data/version.
        writer.set_min_version(6)
        for entry in archive.infolist():
            record = entry.filename.partition("/")[2]
            if record in (".data/version", ".data/serialization_id", "byteorder") or not record:
                continue  # the writer adds its own
            if record.endswith(_BLOB):
                blob = _mapped(Path(directory, "blob"), packed(names, state, alignment))
                writer.write_record(record, blob.untyped_storage(), blob.nbytes)
                continue
            content = archive.read(entry)
            if record.endswith("_metadata.json"):
                content = _stamped(content, key)
            writer.write_record(record, content, len(content))
        writer.write_end_of_file()


def package_writer(path: str) -> Any:
    """The writer of packages that torch has, with every member at the beginning of a block of the
    file system, which two files can then share. Its own default is 64 bytes."""
    return _Writer(path, storage_alignment=SHAREABLE)


@contextlib.contextmanager
def shareable_members() -> Iterator[None]:
    """Let torch write packages as `package_writer` does, and each file from where it is mapped:
    torch reads it whole, and its binding copies what was read."""
    from torch.export.pt2_archive._package import PT2ArchiveWriter

    with (
        mock.patch.object(torch._C, "PyTorchFileWriter", package_writer),
        mock.patch.object(PT2ArchiveWriter, "write_file", _write_file),
    ):
        yield


def _write_file(writer: Any, name: str, path: str) -> None:
    if size := Path(path).stat().st_size:
        writer.archive_file.write_record(name, _map(Path(path)).untyped_storage(), size)
    else:
        writer.write_bytes(name, b"")


def read_weights(
    archive: zipfile.ZipFile, values: Mapping[str, torch.Tensor], alignment: int
) -> Iterator[tuple[str, torch.Tensor]]:
    """The weights in a package, by name, flat, in the dtypes of `values`, one at a time. Only of
    one whose weights are `apart`."""
    (entry,) = (name for name in archive.namelist() if name.endswith(_BLOB))
    with archive.open(entry) as blob:
        for name, _ in _constants(archive):
            value = values[name]
            size = value.untyped_storage().nbytes()
            stored = bytearray(blob.read(size + -size % alignment))
            count = value.numel() * value.element_size()
            start = int(value.storage_offset()) * value.element_size()
            if value.is_contiguous() and count:
                yield (
                    name,
                    torch.frombuffer(stored, dtype=torch.uint8, count=count, offset=start).view(
                        value.dtype
                    ),
                )


def packed(
    names: Sequence[str], state: Mapping[str, torch.Tensor], alignment: int
) -> Iterator[memoryview]:
    """The blob, in pieces: the bytes of each constant's whole storage, each padded to
    `alignment`."""
    for name in names:
        storage = state[name].untyped_storage().cpu()
        yield torch.empty(0, dtype=torch.uint8).set_(storage).numpy().data
        yield memoryview(bytes(-storage.nbytes() % alignment))


def _holds(file: IO[bytes], pieces: Iterable[memoryview]) -> bool:
    """Whether the file is these pieces, one after another."""
    for piece in pieces:
        for start in range(0, len(piece), _PIECE):
            part = piece[start : start + _PIECE]
            if file.read(len(part)) != part:
                return False
    return not file.read(1)


def _mapped(path: Path, pieces: Iterable[memoryview]) -> torch.Tensor:
    """The pieces, one after another, as a file that is mapped into memory."""
    with path.open("wb") as file:
        for piece in pieces:
            file.write(piece)
    return _map(path)


def _map(path: Path) -> torch.Tensor:
    return torch.from_file(str(path), shared=False, size=path.stat().st_size, dtype=torch.uint8)


def _constants(archive: zipfile.ZipFile) -> list[tuple[str, bool]]:
    """(name in the exported program, folded?) of each constant, in the order of the blob, from the
    generated source."""
    (source,) = (name for name in archive.namelist() if name.endswith(".wrapper.cpp"))
    rows: dict[int, dict[str, str]] = {}
    for index, field, value in _ROW.findall(archive.read(source).decode()):
        rows.setdefault(int(index), {})[field] = value
    return [
        (json.loads(row["original_fqn"]), row["from_folded"] != "false")
        for _, row in sorted(rows.items())
    ]


def used_state(program: ExportedProgram) -> set[str]:
    """Parameters and buffers that the graph reads."""
    signature = program.graph_signature
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    placeholders = [node for node in program.graph.nodes if node.op == "placeholder" and node.users]
    return {names[node.name] for node in placeholders if node.name in names}


def has_weights(program: ExportedProgram) -> bool:
    """Whether the graph reads any bytes of parameters, buffers or constants. Without them the blob
    is empty, and a package with an empty blob fails to load (mmap of nothing; seen in 2.14)."""
    signature = program.graph_signature
    lifted = {node.name for node in program.graph.nodes if node.op == "placeholder" and node.users}
    constants = {
        name for node, name in signature.inputs_to_lifted_tensor_constants.items() if node in lifted
    }
    values = {**program.state_dict, **program.constants}
    return any(values[name].numel() for name in used_state(program) | constants if name in values)


def _tied_to(table: list[tuple[str, bool]], state: Mapping[str, torch.Tensor]) -> set[str]:
    """Names that share memory with one in the table: the compiler keeps one of them."""
    kept = {state[name].untyped_storage().data_ptr() for name, _ in table if name in state}
    return {
        name
        for name, value in state.items()
        if value.numel() and value.untyped_storage().data_ptr() in kept
    }


def _stamped(metadata: bytes, key: str) -> bytes:
    return json.dumps({**json.loads(metadata), KEY_METADATA: key}).encode()
