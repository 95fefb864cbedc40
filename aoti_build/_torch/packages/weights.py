"""Weights that are apart from the code of a package, and new packages made by replacing them.

With `package_constants_in_so` off and the on-disk format "binary_blob", inductor writes all
constants into one ``*_weights.blob``. They are aligned, in the order of the table in
``*.wrapper.cpp``; the shared library only has the table.

A compiled package can take other weights only if the compiler left them as they were. `separate`
tests that: it builds the blob from the tensors of the exported program and compares it with the
compiler's, byte for byte. Weights that the compiler folded, packed, inlined or renamed fail the
test, and then count as part of the code.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeAlias
from unittest import mock

import torch
from torch.export import ExportedProgram

from aoti_build.artifact.manifest import KEY_METADATA
from aoti_build.artifact.pt2.constant_table import constant_rows
from aoti_build.common.extents import SHAREABLE

# Settings of inductor, unless the user's preset has others.
EXTERNAL_OPTIONS: Mapping[str, Any] = {
    "aot_inductor.package_constants_in_so": False,
    "aot_inductor.package_constants_on_disk_format": "binary_blob",
    # Without this, small constants (0-d, and 1-d up to 8 elements) become literals in the code.
    "always_keep_tensor_constants": True,
    # Otherwise arithmetic on one-element weights is folded. The weight itself stays in the blob, so
    # `separate` would not notice.
    "joint_graph_constant_folding": False,
}
_ALIGNMENTS = (64, 1)  # on the CPU; if all constants are on a GPU (torch/_inductor/codecache.py)
_BLOB = "_weights.blob"
_PIECE = 8 << 20  # bytes
_ARCHIVE_VERSION = 6  # as torch.export.pt2_archive: the zip layout with .data/version
# Records that torch's writer adds by itself.
_OWN_RECORDS = (".data/version", ".data/serialization_id", "byteorder")
_PLAIN_TENSORS = (torch.Tensor, torch.nn.Parameter)
_Writer = torch._C.PyTorchFileWriter


State: TypeAlias = Mapping[str, torch.Tensor]


class _Constant(NamedTuple):
    """A row in the table of constants: its name in the exported program."""

    name: str
    folded: bool


def separate(
    package: Path,
    state: State,
    constants: Mapping[str, Any],
    used: set[str],
) -> dict[str, Any]:
    """Whether the weights of a package can be replaced, as the manifest's `weights` has it.

    That is {"external": True, "alignment": bytes} or {"external": False, "why": text}. `state`,
    `constants` and `used` (see `used_state`) are those of the exported program before the compile.
    """
    values = {**state, **constants}
    with zipfile.ZipFile(package) as archive:
        blobs = [name for name in archive.namelist() if name.endswith(_BLOB)]
        if len(blobs) != 1:
            return _embedded("the weights are inside the shared library")
        table = _constants(archive)
        names = [constant.name for constant in table]
        is_folded = any(constant.folded for constant in table)
        if is_folded or any(name not in values for name in names):
            return _embedded("the compiler folded or renamed constants")
        # A weight that the graph reads and the table lacks was inlined. An empty one has no values.
        unseen = used - set(names) - _tied_to(names, state)
        unseen -= {name for name, value in values.items() if _is_empty(value)}
        if unseen:
            examples = ", ".join(sorted(unseen)[:3])
            return _embedded(f"the compiler put {examples} into the code")
        if not all(type(values[name]) in _PLAIN_TENSORS for name in names):
            return _embedded("a weight is a tensor subclass")
        # The package does not say which alignment it has, so both are tried.
        for alignment in _ALIGNMENTS:
            with archive.open(blobs[0]) as blob:
                if _is_content(blob, blob_pieces(names, values, alignment)):
                    return {"external": True, "alignment": alignment}
    return _embedded("the compiler transformed weights")


def _is_empty(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and not value.numel()


def _embedded(reason: str) -> dict[str, Any]:
    return {"external": False, "why": reason}


def repack(
    template: Path,
    destination: Path,
    program: ExportedProgram,
    alignment: int,
    key: str,
) -> None:
    """Write a package with the code of `template`, the weights of `program` and the artifact key.

    The program must have the graph key of the template, and `separate` must have found the
    template's weights external, with this `alignment` in bytes.
    """
    state = {**program.state_dict, **program.constants}
    with (
        zipfile.ZipFile(template) as archive,
        tempfile.TemporaryDirectory(dir=template.parent) as directory,
    ):
        names = [constant.name for constant in _constants(archive)]
        writer = package_writer(str(destination))
        writer.set_min_version(_ARCHIVE_VERSION)
        for entry in archive.infolist():
            record = entry.filename.partition("/")[2]
            if not record or record in _OWN_RECORDS:
                continue
            if record.endswith(_BLOB):
                # The writer takes a record in one piece. A mapped file does not need to fit into
                # memory.
                path = Path(directory, "blob")
                _write_pieces(path, blob_pieces(names, state, alignment))
                _write_mapped(writer, record, path)
                continue
            content = archive.read(entry)
            if record.endswith("_metadata.json"):
                content = _with_key(content, key)
            writer.write_record(record, content, len(content))
        writer.write_end_of_file()


def package_writer(path: str) -> Any:
    """The writer of torch, with each member at the start of a block of the file system.

    Two files can then share the blocks of a member. torch's own alignment is 64 bytes.
    """
    return _Writer(path, storage_alignment=SHAREABLE)


@contextlib.contextmanager
def shareable_members() -> Iterator[None]:
    """Make torch write packages as `package_writer` does, with files from a mapping.

    Without that, torch reads each file whole, and its binding copies the content once more.
    """
    from torch.export.pt2_archive._package import PT2ArchiveWriter

    with (
        mock.patch.object(torch._C, "PyTorchFileWriter", package_writer),
        mock.patch.object(PT2ArchiveWriter, "write_file", _write_file),
    ):
        yield


def _write_file(writer: Any, name: str, path: str) -> None:
    """Replaces `PT2ArchiveWriter.write_file`."""
    if Path(path).stat().st_size:
        _write_mapped(writer.archive_file, name, Path(path))
    else:  # an empty file cannot be mapped
        writer.write_bytes(name, b"")


def read_weights(
    archive: zipfile.ZipFile,
    values: State,
    alignment: int,
) -> Iterator[tuple[str, torch.Tensor]]:
    """Each weight in a package with external weights: its name and its values in the order of
    memory, as `in_memory_order` gives them.

    `values` has a tensor with the dtype and layout of each weight. One that is empty, or that has
    gaps in its memory, is left out.
    """
    with archive.open(_only_member(archive, _BLOB)) as blob:
        for name, _ in _constants(archive):
            value = values[name]
            size = value.untyped_storage().nbytes()
            padding = -size % alignment
            stored = bytearray(blob.read(size + padding))
            count = value.numel() * value.element_size()
            start = int(value.storage_offset()) * value.element_size()
            if count and in_memory_order(value) is not None:
                content = torch.frombuffer(
                    stored,
                    dtype=torch.uint8,
                    count=count,
                    offset=start,
                )
                yield name, content.view(value.dtype)


def in_memory_order(value: torch.Tensor) -> torch.Tensor | None:
    """The values of a tensor as a flat one, in the order in which they lie in memory. None if there
    are gaps between them, or several values in one place."""
    order = sorted(range(value.dim()), key=lambda axis: (value.stride(axis), value.shape[axis]))
    sorted_axes = value.permute(order[::-1])
    return sorted_axes.view(-1) if sorted_axes.is_contiguous() else None


def blob_pieces(
    names: Sequence[str],
    state: State,
    alignment: int,
) -> Iterator[memoryview]:
    """The content of the blob: the storage of each constant, padded to `alignment` bytes."""
    for name in names:
        storage = state[name].untyped_storage().cpu()
        content = torch.empty(0, dtype=torch.uint8).set_(storage)
        yield content.numpy().data
        padding = -storage.nbytes() % alignment
        yield memoryview(bytes(padding))


def _is_content(file: IO[bytes], pieces: Iterable[memoryview]) -> bool:
    """Whether a file consists of these pieces, one after another."""
    for piece in pieces:
        for start in range(0, len(piece), _PIECE):
            part = piece[start : start + _PIECE]
            if file.read(len(part)) != part:
                return False
    return not file.read(1)


def _write_pieces(path: Path, pieces: Iterable[memoryview]) -> None:
    with path.open("wb") as file:
        for piece in pieces:
            file.write(piece)


def _write_mapped(writer: Any, record: str, path: Path) -> None:
    """Write a file into a package from a mapping, without a copy in memory."""
    size = path.stat().st_size
    content = torch.from_file(
        str(path),
        shared=False,
        size=size,
        dtype=torch.uint8,
    )
    writer.write_record(record, content.untyped_storage(), size)


def _constants(archive: zipfile.ZipFile) -> list[_Constant]:
    """The constants in the order of the blob, from the source that inductor generated."""
    source = archive.read(_only_member(archive, ".wrapper.cpp")).decode()
    constants = []
    for row in constant_rows(source).values():
        name = json.loads(row["original_fqn"])
        constants.append(_Constant(name, folded=row["from_folded"] != "false"))
    return constants


def _only_member(archive: zipfile.ZipFile, suffix: str) -> str:
    (name,) = (name for name in archive.namelist() if name.endswith(suffix))
    return name


def used_state(program: ExportedProgram) -> set[str]:
    """The names of the parameters and buffers that the graph reads."""
    signature = program.graph_signature
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    return _used_names(program, names)


def has_weights(program: ExportedProgram) -> bool:
    """Whether the graph reads any bytes of parameters, buffers or constants.

    Without them the blob would be empty, and torch fails to map an empty file (seen in 2.14).
    """
    constants = program.graph_signature.inputs_to_lifted_tensor_constants
    names = used_state(program) | _used_names(program, constants)
    values = {**program.state_dict, **program.constants}
    return any(values[name].numel() for name in names if name in values)


def _used_names(program: ExportedProgram, names: Mapping[str, str]) -> set[str]:
    """The names of the graph's placeholders that it reads; `names` has those of interest."""
    used = set()
    for node in program.graph.nodes:
        is_read = node.op == "placeholder" and node.users
        if is_read and node.name in names:
            used.add(names[node.name])
    return used


def _tied_to(names: Iterable[str], state: State) -> set[str]:
    """The names in `state` that share memory with one of `names`: the compiler keeps only one."""
    addresses = set()
    for name in names:
        if name in state:
            addresses.add(_address(state[name]))
    tied = set()
    for name, value in state.items():
        if value.numel() and _address(value) in addresses:
            tied.add(name)
    return tied


def _address(value: torch.Tensor) -> int:
    return value.untyped_storage().data_ptr()


def _with_key(metadata: bytes, key: str) -> bytes:
    document = json.loads(metadata)
    document[KEY_METADATA] = key
    return json.dumps(document).encode()
