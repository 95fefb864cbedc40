"""The narrowest type that an output is computed in, which decides how near two right answers are to
each other.

A model in bfloat16 that returns `head(h).float()` puts out float32, of which only the first 8 bits
mean anything. So of everything that an output depends on, the operators count that round to a
narrower type: those that compute in it, and conversions to it. A table that is kept in bfloat16 and
converted to float32 before anything is computed has rounded nothing. Rounding to 8-bit integers
with a scale, as quantised models do with activations, counts as narrower than any floating point
type of 16 bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node
from torch.utils import _pytree as pytree

from aoti_build._torch.program.quantised import is_quantiser
from aoti_build._torch.program.writes import Writes, observed_nodes

# From wide to narrow.
_RANKS = {
    name: rank
    for rank, names in enumerate(
        [
            ["float64", "complex128"],
            ["float32", "complex64"],
            ["float16"],
            ["bfloat16"],
            ["float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz"],
            ["int8", "uint8"],
        ]
    )
    for name in names
}
_INTEGERS = (torch.int8, torch.uint8)
# Operators that hand on values of their operands as they are.
_MOVES = frozenset(
    {
        "alias", "cat", "clone", "constant_pad_nd", "contiguous", "detach", "embedding", "expand",
        "flatten", "flip", "gather", "getitem", "index", "index_select", "narrow", "permute",
        "repeat", "reshape", "roll", "select", "slice", "split", "split_with_sizes", "squeeze",
        "stack", "t", "to", "_to_copy", "transpose", "unbind", "unsqueeze", "view", "where",
    }
)  # fmt: skip


def computed_in(functional: ExportedProgram, writes: Writes, names: list[str]) -> dict[str, str]:
    """By the names of what is compared after a call: the narrowest type that it is computed in,
    where that is narrower than its own. `functional` is the program in its functional form."""
    narrowest: dict[str, str] = {}
    own: dict[str, str] = {}
    for node in functional.graph.nodes:
        own[node.name] = _narrowest(_dtypes(node.meta.get("val")))
        above = [
            narrowest[source.name] for source in node.all_input_nodes if source.name in narrowest
        ]
        narrowest[node.name] = _narrowest([*above, *_rounds(functional.graph_module, node)])
    found = {}
    for name, node_name in zip(names, observed_nodes(functional, writes), strict=True):
        dtype = narrowest.get(node_name or "", "")
        if dtype and _rank(dtype) > _rank(own[node_name or ""]) >= 0:
            found[name] = dtype
    return found


def _rounds(module: GraphModule, node: Node) -> list[str]:
    """The types that an operator rounds its result to; of one that calls graphs inside this one,
    those of theirs."""
    if node.op != "call_function":
        return []
    inner = [
        dtype
        for part in _called(module, node)
        for each in part.graph.nodes
        for dtype in _rounds(part, each)
    ]
    given = _narrowest(
        [dtype for source in node.all_input_nodes for dtype in _dtypes(source.meta.get("val"))]
    )
    made = _narrowest(_dtypes(node.meta.get("val")))
    integers = _integers(node.meta.get("val"))
    if given and integers and (is_quantiser(node) or _is_move(node)):
        return [*inner, *integers]
    if not made or (_is_move(node) and _rank(made) <= _rank(given)):
        return inner
    return [*inner, made]


def _is_move(node: Node) -> bool:
    return str(getattr(node.target, "__name__", "")).partition(".")[0] in _MOVES


def _called(module: GraphModule, node: Node) -> Iterator[GraphModule]:
    for source in node.all_input_nodes:
        if source.op == "get_attr" and isinstance(
            part := getattr(module, str(source.target), None), GraphModule
        ):
            yield part


def _dtypes(value: Any) -> list[str]:
    """The floating point and complex types among the tensors of a traced value."""
    tensors = [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, torch.Tensor)]
    return [_spelt(leaf) for leaf in tensors if leaf.is_floating_point() or leaf.is_complex()]


def _integers(value: Any) -> list[str]:
    tensors = [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, torch.Tensor)]
    return [_spelt(leaf) for leaf in tensors if leaf.dtype in _INTEGERS]


def _spelt(value: torch.Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


def _narrowest(dtypes: list[str]) -> str:
    return max(dtypes, key=_rank, default="")


def _rank(dtype: str) -> int:
    """Higher is narrower; -1 for what is no floating point."""
    return _RANKS.get(dtype, -1)
