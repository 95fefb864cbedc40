"""The narrowest dtype that an output is computed in. It decides how close two right answers are.

A model in bfloat16 that returns `head(h).float()` has a float32 output of which only the first 8
bits mean anything. So all operators count on which an output depends and that round to a narrower
dtype: those that compute in it, and conversions to it. A table that is stored in bfloat16 and
converted to float32 before anything is computed has rounded nothing.

Rounding to 8-bit integers with a scale, as quantised models do with activations, counts as narrower
than any floating point dtype of 16 bits.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node
from torch.utils import _pytree as pytree

from aoti_build._torch.program.quantised import is_quantiser
from aoti_build._torch.program.writes import Writes, called_graphs, observed_nodes

# A higher rank is narrower.
_RANKS = {
    "float64": 0,
    "complex128": 0,
    "float32": 1,
    "complex64": 1,
    "float16": 2,
    "bfloat16": 3,
    "float8_e4m3fn": 4,
    "float8_e4m3fnuz": 4,
    "float8_e5m2": 4,
    "float8_e5m2fnuz": 4,
    "int8": 5,
    "uint8": 5,
}
_INTEGERS = (torch.int8, torch.uint8)
# Operators that pass on values of their operands unchanged.
_MOVES = frozenset(
    {
        "alias", "cat", "clone", "constant_pad_nd", "contiguous", "detach", "embedding", "expand",
        "flatten", "flip", "gather", "getitem", "index", "index_select", "narrow", "permute",
        "repeat", "reshape", "roll", "select", "slice", "split", "split_with_sizes", "squeeze",
        "stack", "t", "to", "_to_copy", "transpose", "unbind", "unsqueeze", "view", "where",
    }
)  # fmt: skip


def computed_in(functional: ExportedProgram, writes: Writes, names: list[str]) -> dict[str, str]:
    """The narrowest dtype that each compared value is computed in, where that is narrower than its
    own.

    `functional` is the program in its functional form. `names` are those of the values that are
    compared after a call (`observed_names`).
    """
    narrowest_of: dict[str, str] = {}
    dtype_of: dict[str, str] = {}
    for node in functional.graph.nodes:
        dtype_of[node.name] = _narrowest(_float_dtypes(node))
        dtypes = []
        for source in node.all_input_nodes:
            if source.name in narrowest_of:
                dtypes.append(narrowest_of[source.name])
        dtypes += _rounded_to(node, functional.graph_module)
        narrowest_of[node.name] = _narrowest(dtypes)
    computed = {}
    for name, node_name in zip(names, observed_nodes(functional, writes), strict=True):
        if node_name is None or node_name not in narrowest_of:
            continue
        narrowest = narrowest_of[node_name]
        own_rank = _rank(dtype_of[node_name])
        if narrowest and own_rank >= 0 and _rank(narrowest) > own_rank:
            computed[name] = narrowest
    return computed


def _rounded_to(node: Node, module: GraphModule) -> list[str]:
    """The dtypes that an operator rounds its result to, and those of the graphs that it calls."""
    if node.op != "call_function":
        return []
    rounded = []
    for graph in called_graphs(node, module):
        for inner in graph.graph.nodes:
            rounded += _rounded_to(inner, graph)
    operand_dtypes = []
    for source in node.all_input_nodes:
        operand_dtypes += _float_dtypes(source)
    operands = _narrowest(operand_dtypes)
    result = _narrowest(_float_dtypes(node))
    integers = _integer_dtypes(node)
    # From floating point values to 8-bit integers: a quantiser rounds, and so does a conversion.
    if operands and integers and (is_quantiser(node) or _is_move(node)):
        return rounded + integers
    # A move to a narrower dtype, such as `to`, rounds as well.
    is_exact = _is_move(node) and _rank(result) <= _rank(operands)
    if result and not is_exact:
        rounded.append(result)
    return rounded


def _is_move(node: Node) -> bool:
    name = str(getattr(node.target, "__name__", ""))
    # The name of an overload is ``view.default``.
    return name.partition(".")[0] in _MOVES


def _float_dtypes(node: Node) -> list[str]:
    """The floating point and complex dtypes of a node's tensors."""
    dtypes = []
    for tensor in _tensors(node):
        if tensor.is_floating_point() or tensor.is_complex():
            dtypes.append(_dtype_name(tensor))
    return dtypes


def _integer_dtypes(node: Node) -> list[str]:
    """The 8-bit integer dtypes of a node's tensors."""
    return [_dtype_name(tensor) for tensor in _tensors(node) if tensor.dtype in _INTEGERS]


def _tensors(node: Node) -> list[torch.Tensor]:
    leaves: list[Any] = pytree.tree_leaves(node.meta.get("val"))
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]


def _dtype_name(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _narrowest(dtypes: list[str]) -> str:
    """The narrowest of the dtypes, the first one of several; empty if there are none."""
    return max(dtypes, key=_rank, default="")


def _rank(dtype: str) -> int:
    """A higher rank is narrower; -1 if the dtype has none."""
    return _RANKS.get(dtype, -1)
