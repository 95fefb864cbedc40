"""Reads reference data without torch: a safetensors file with a JSON document in its header.

`_torch/checking/reference_data.py` describes what the tensors are, and
https://huggingface.co/docs/safetensors the container: 8 bytes with the length of the header as a
little-endian number, the header as JSON, then the bytes of the tensors.

Files come from others, so every number of the header is checked before it is used.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from math import prod
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from aoti_build.artifact.manifest import tensor_inputs
from aoti_build.common import fields
from aoti_build.common.reading import open_regular

if TYPE_CHECKING:
    from aoti_build.artifact.manifest_types import SignatureRecord

FORMAT = "aoti-build/reference-data"
FORMAT_VERSION = 4
HEADER = "aoti_build"  # the entry of the metadata with our JSON document

_LENGTH_BYTES = 8
_LONGEST_HEADER = 100_000_000  # bytes, as in the safetensors library
_PIECE = 1 << 16  # values that are decoded at a time
# dtype of safetensors -> the code of `struct` for one real value. A complex value is two of them.
_CODES: Mapping[str, str] = {
    "F64": "d",
    "F32": "f",
    "F16": "e",
    "I64": "q",
    "I32": "i",
    "I16": "h",
    "I8": "b",
    "U64": "Q",
    "U32": "I",
    "U16": "H",
    "U8": "B",
    "BOOL": "?",
    "C64": "f",
}
_COMPLEX = "C64"
_BFLOAT16 = "BF16"

_CASE = fields.table(
    {
        "call": fields.integer(),
        "outputs": fields.integer(),
        "has_outputs": fields.flag,
        "inputs_digest": fields.digest,
        "plain": fields.table_of(fields.matching("[0-9]+"), fields.text),
    }
)
_SKETCH = fields.table(
    {
        "dtype": fields.text,
        "shape": fields.list_of(fields.integer()),
        "rms": fields.number,
        "digest": fields.digest,
        "nonfinite": fields.digest,
    }
)
_DOCUMENT = fields.table(
    {
        "cases": fields.table_of(fields.text, _CASE),
        "sketches": fields.table_of(fields.text, _SKETCH),
    }
)
_TENSOR = fields.table(
    {
        "dtype": fields.text,
        "shape": fields.list_of(fields.integer()),
        "data_offsets": fields.list_of(fields.integer(), least=2, most=2),
    }
)


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file: its `dtype` as safetensors spells it, and the range of its bytes."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def count(self) -> int:
        """The number of real values. A complex value is two."""
        return prod(self.shape) * (2 if self.dtype == _COMPLEX else 1)


class ReferenceFile:
    """An open file of reference data. Use it in a `with` statement.

    Attributes:
        cases: the entries of the cases by their names, as formats.md describes them.
        sketches: the descriptions of sketches by the name of the tensor that each stands for.
        tensors: all tensors by their names.
    """

    def __init__(self, path: Path) -> None:
        """Open the file and read its header.

        Raises:
            OSError: it cannot be read.
            ValueError: it is not reference data of this version.
        """
        self._descriptor = open_regular(path)
        try:
            header = self._header()
            document = _document(header.pop("__metadata__", None))
            self.cases: Mapping[str, Mapping[str, Any]] = document["cases"]
            self.sketches: Mapping[str, Mapping[str, Any]] = document["sketches"]
            self.tensors = self._tensors(header)
        except (OSError, ValueError):
            os.close(self._descriptor)
            raise

    def __enter__(self) -> ReferenceFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._descriptor)

    def pieces(self, tensor: StoredTensor) -> Iterator[bytes]:
        """The bytes of a tensor, in pieces of at most `_PIECE` values. Raises OSError, ValueError
        if the file became shorter."""
        width = (tensor.end - tensor.start) // max(1, tensor.count)
        step = max(1, width) * _PIECE
        for start in range(tensor.start, tensor.end, step):
            yield self._read(start, min(step, tensor.end - start))

    def values(self, name: str) -> list[float]:
        """All values of a small tensor. Raises ValueError if there is none, or its dtype is not
        known here, and OSError."""
        tensor = self.tensors.get(name)
        if tensor is None:
            raise ValueError(f"{name} is missing")
        pieces = self.pieces(tensor)
        return list(chain.from_iterable(decoded(piece, tensor.dtype) for piece in pieces))

    def _header(self) -> dict[str, Any]:
        length = int.from_bytes(self._read(0, _LENGTH_BYTES), "little")
        if length > _LONGEST_HEADER:
            raise ValueError("its header is too long")
        header = fields.loads(self._read(_LENGTH_BYTES, length))
        if not isinstance(header, dict):
            raise ValueError("its header is not a table")
        self._first_byte = _LENGTH_BYTES + length
        return header

    def _tensors(self, header: Mapping[str, Any]) -> dict[str, StoredTensor]:
        size = os.fstat(self._descriptor).st_size - self._first_byte
        tensors = {}
        for name, entry in header.items():
            _TENSOR(entry)
            start, end = entry["data_offsets"]
            tensor = StoredTensor(
                dtype=entry["dtype"],
                shape=tuple(entry["shape"]),
                start=self._first_byte + start,
                end=self._first_byte + end,
            )
            if not start <= end <= size:
                raise ValueError(f"{name} lies outside of the file")
            width = _width(tensor.dtype)
            if width is not None and end - start != tensor.count * width:
                raise ValueError(f"{name} does not have the size of its shape")
            tensors[name] = tensor
        return tensors

    def _read(self, start: int, size: int) -> bytes:
        content = os.pread(self._descriptor, size, start)
        if len(content) != size:
            raise ValueError("it is shorter than its header says")
        return content


def observed_names(signature: SignatureRecord | Mapping[str, Any]) -> list[str]:
    """Names of all that is compared after a call: the outputs, then the inputs and the buffers
    written into."""
    mutates = signature["mutates"]
    outputs = [output["name"] for output in signature["outputs"]]
    inputs = []
    for entry in tensor_inputs(signature):
        if entry["name"] in mutates["inputs"]:
            inputs.append(f"input {entry['name']}")
    buffers = [f"buffer {name}" for name in mutates["buffers"]]
    return outputs + inputs + buffers


def is_known(dtype: str) -> bool:
    """Whether values of this dtype can be decoded. Those of 8-bit floats cannot."""
    return _width(dtype) is not None


def decoded(content: bytes, dtype: str) -> tuple[float, ...]:
    """The real values in the bytes of a tensor. Raises ValueError for a dtype that is not known."""
    if dtype == _BFLOAT16:
        # A bfloat16 is the upper half of a float32.
        widened = bytearray(2 * len(content))
        widened[2::4] = content[0::2]
        widened[3::4] = content[1::2]
        content, code = bytes(widened), "f"
    elif dtype in _CODES:
        code = _CODES[dtype]
    else:
        raise ValueError(f"values of the dtype {dtype[:20]} cannot be read here")
    count = len(content) // struct.calcsize(f"<{code}")
    return struct.unpack(f"<{count}{code}", content)


def _width(dtype: str) -> int | None:
    """The bytes of a real value; None if the dtype is not known."""
    if dtype == _BFLOAT16:
        return 2
    code = _CODES.get(dtype)
    return None if code is None else struct.calcsize(f"<{code}")


def _document(metadata: Any) -> dict[str, Any]:
    """Our document in the metadata of a safetensors file. Raises ValueError."""
    text = metadata.get(HEADER) if isinstance(metadata, dict) else None
    document = fields.loads(text) if isinstance(text, str) else None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ValueError("it is not reference data")
    version = document.get("format_version")
    if type(version) is not int or version != FORMAT_VERSION:
        raise ValueError(f"it has format version {str(version)[:20]}, not {FORMAT_VERSION}")
    _DOCUMENT(document)
    return document
