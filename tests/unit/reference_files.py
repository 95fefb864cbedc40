"""Files of reference data, written without torch, for tests."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping, Sequence
from typing import Any

from aoti_build.artifact.reference_file import FORMAT, FORMAT_VERSION, HEADER
from aoti_build.common.digests import digest_json

CODES = {"F64": "d", "F32": "f", "F16": "e", "I64": "q", "U8": "B", "BOOL": "?", "C64": "f"}
# A tensor: its dtype, its shape and its values. Those of another dtype than `CODES` are bytes.
Tensor = tuple[str, Sequence[int], Any]


def tensor(*values: float, dtype: str = "F32") -> Tensor:
    """A tensor with one dimension."""
    return dtype, [len(values)], values


def case(*, inputs: object = 0, outputs: int = 1, call: int = 0, **changes: Any) -> dict[str, Any]:
    """The entry of a case. Equal `inputs` have equal digests."""
    entry = {
        "sizes": {},
        "seed": 0,
        "call": call,
        "inputs": 1,
        "outputs": outputs,
        "has_inputs": True,
        "has_outputs": True,
        "plain": {},
        "inputs_digest": digest_json(inputs),
        "digest": digest_json([inputs, outputs]),
    }
    return {**entry, **changes}


def document(cases: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    """The JSON document of a file."""
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "cases": cases,
        "no_exact": None,
        "others": [],
        "baseline": None,
        "state": {},
        "sketches": {},
        **changes,
    }


def reference_file(
    tensors: Mapping[str, Tensor], cases: Mapping[str, Any] | None = None, **changes: Any
) -> bytes:
    """The bytes of a file with these tensors. `changes` are fields of its document."""
    described = document(cases or {"example": case()}, **changes)
    header: dict[str, Any] = {"__metadata__": {HEADER: json.dumps(described)}}
    content = b""
    for name, (dtype, shape, values) in tensors.items():
        packed = values
        if dtype in CODES:
            packed = struct.pack(f"<{len(values)}{CODES[dtype]}", *values)
        header[name] = {
            "dtype": dtype,
            "shape": list(shape),
            "data_offsets": [len(content), len(content) + len(packed)],
        }
        content += packed
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + content


def sketched(*values: float, rms: float, digest: str, nonfinite: str = "0") -> dict[str, Any]:
    """Fields of a file whose only output is large and has a sketch with these buckets."""
    name = "example/output/0"
    sketch = {
        "dtype": "float32",
        "shape": [1000],
        "rms": rms,
        "digest": digest * 64,
        "nonfinite": nonfinite * 64,
    }
    tensors = {
        f"{name}/buckets": tensor(*values, dtype="F64"),
        f"{name}/energy": tensor(*[math.fabs(value) for value in values], dtype="F64"),
        f"{name}/sample": tensor(*values),
    }
    return {"tensors": tensors, "sketches": {name: sketch}}
