"""A correction: a buffer or an input must not get the new value of another one in place of the old.

A functional graph ends with a copy into everything that the call writes into. torch 2.14 emits
these copies one after another, and each reads its source in place (pytorch#198131). After
``older.copy_(last); last.copy_(x)`` the buffer `older` has the new value of `last`. An output that
is such a source is wrong likewise. A ``.clone()`` of the source does not help: inductor removes it
as a no-op, because a buffer is not a placeholder there.

The pass here copies the old value before the first copy into its memory.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
from torch.fx import Graph, Node

from aoti_build._torch.program.writes import root_of

_COPY = torch.ops.aten.copy_.default


@contextlib.contextmanager
def keeping_old_values() -> Iterator[None]:
    """Compiles inside have the pass.

    It runs where torch/_inductor/fx_passes/post_grad.py calls `reinplace_inplaceable_ops`: after
    no-ops are removed, which would remove its copies, and before operators are made to work in
    place.
    """
    from torch._inductor.fx_passes import post_grad

    original = post_grad.reinplace_inplaceable_ops

    def with_pass(*args: Any) -> Any:
        graph = args[-1]  # the last argument in every release of torch
        keep_old_values(graph)
        return original(*args)

    with mock.patch.object(post_grad, "reinplace_inplaceable_ops", with_pass):
        yield


def keep_old_values(graph: Graph) -> None:
    """Let copies and outputs read the values that their sources had before the graph's own copies
    into these."""
    first_copies: dict[Node, Node] = {}  # by the node whose memory they write into
    for node in list(graph.nodes):
        if node.op == "output":
            _read_before(graph, node, _leaves(node.args), first_copies)
        elif node.target is _COPY:
            target, source = node.args[0], node.args[1]
            _read_before(graph, node, [source], first_copies)
            first_copies.setdefault(root_of(target), node)


def _read_before(
    graph: Graph,
    reader: Node,
    sources: list[Any],
    first_copies: dict[Node, Node],
) -> None:
    """Let `reader` read copies of those sources that were written into before it."""
    for source in sources:
        # The result of a copy is its new value, which is meant.
        if not isinstance(source, Node) or source.target is _COPY:
            continue
        overwriting = first_copies.get(root_of(source))
        if overwriting is None:
            continue
        with graph.inserting_before(overwriting):
            old_value = graph.call_function(torch.ops.aten.clone.default, (source,))
        traced = source.meta["val"]
        with traced.fake_mode:
            old_value.meta["val"] = traced.clone()
        reader.replace_input_with(source, old_value)


def _leaves(values: Any) -> list[Any]:
    leaves: list[Any] = []
    for value in values:
        if isinstance(value, list | tuple):
            leaves += _leaves(value)
        else:
            leaves.append(value)
    return leaves
