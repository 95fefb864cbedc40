"""Where each weight of a package lies in its blob, by the table of constants in the package.

inductor writes that table into the C++ source of the shared library and compiles it in
(torch/_inductor/codegen/cpp_wrapper_cpu.py). torch's own loader places the weights by the compiled
table. The source in a package is digested with the library, so both are what one build wrote. This
module does not import torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import NamedTuple

from aoti_build.artifact.pt2.constant_table import constant_rows

_DTYPE = "cached_torch_dtype_"
_STRIDED = "static_cast<int32_t>(cached_torch_layout_strided)"


class Constant(NamedTuple):
    """A weight in the blob.

    `compiled` is its name in the compiled code, and `name` that in the model. Its memory is `size`
    bytes of the blob from byte `start`, padding included. Its values begin `offset` elements after
    that, with `shape` and `stride` in elements.
    """

    compiled: str
    name: str
    dtype: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    start: int
    size: int


def read_constants(source: str, blob_size: int) -> list[Constant]:
    """The constants that the generated `source` lists, for a blob of `blob_size` bytes.

    Raises ValueError if the blob does not consist of exactly these, or if one of them is no plain
    tensor.
    """
    rows = constant_rows(source)
    constants = []
    start = 0
    for index in range(len(rows)):
        try:
            constant = _constant(rows[index], start)
        except KeyError as error:
            raise ValueError(f"constant {index} has no {error}") from error
        constants.append(constant)
        start += constant.size
    if start != blob_size:
        raise ValueError(f"the constants take {start} bytes, and the blob has {blob_size}")
    return constants


def _constant(row: Mapping[str, str], start: int) -> Constant:
    if row["layout"] != _STRIDED or row["from_folded"] != "false":
        raise ValueError(f"{row['name']} is no plain tensor")
    return Constant(
        compiled=json.loads(row["name"]),
        name=json.loads(row["original_fqn"]),
        dtype=row["dtype"].removeprefix(_DTYPE),
        shape=_integers(row["shape"]),
        stride=_integers(row["stride"]),
        offset=int(row["offset"]),
        start=start,
        size=int(row["data_size"]),
    )


def _integers(text: str) -> tuple[int, ...]:
    """The numbers in a braced list such as ``{4, 2}``."""
    inside = text.removeprefix("{").removesuffix("}")
    if not inside:
        return ()
    return tuple(int(number) for number in inside.split(","))
