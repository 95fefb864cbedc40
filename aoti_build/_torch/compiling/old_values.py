"""Keeps a compile from giving a buffer or an input the new value of another one in place of the
old.

A functional graph ends with a copy into everything that the call writes into. torch 2.14 emits
these copies one after another and lets each read its source where it lies, so that after
``older.copy_(last); last.copy_(x)`` the buffer `older` has what `last` became (pytorch#198131; a
``.clone()`` of the source is taken for a no-op and removed, since a buffer is no placeholder
there). An output that is such a source is wrong likewise. The pass here copies the old value before
the first copy into its place.
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
    """Compiles inside have the pass, after no-ops are removed and before operators are made to work
    in place."""
    from torch._inductor.fx_passes import post_grad

    original = post_grad.reinplace_inplaceable_ops

    def with_pass(*args: Any) -> Any:
        keep_old_values(args[-1])
        return original(*args)

    with mock.patch.object(post_grad, "reinplace_inplaceable_ops", with_pass):
        yield


def keep_old_values(graph: Graph) -> None:
    """Let copies and outputs read what their sources held before the graph's own copies into
    these."""
    written: dict[Node, Node] = {}  # what is written into, and the first copy that does
    for node in list(graph.nodes):
        if node.op == "output":
            _read_before(graph, node, _leaves(node.args), written)
        elif node.target is _COPY:
            _read_before(graph, node, [node.args[1]], written)
            written.setdefault(root_of(node.args[0]), node)


def _read_before(graph: Graph, reader: Node, sources: list[Any], written: dict[Node, Node]) -> None:
    for source in sources:
        overwriting = written.get(root_of(source)) if isinstance(source, Node) else None
        if overwriting is None or source.target is _COPY:
            continue
        with graph.inserting_before(overwriting):
            kept = graph.call_function(torch.ops.aten.clone.default, (source,))
        value = source.meta["val"]
        with value.fake_mode:
            kept.meta["val"] = value.clone()
        reader.replace_input_with(source, kept)


def _leaves(args: Any) -> list[Any]:
    found: list[Any] = []
    for value in args:
        found += _leaves(value) if isinstance(value, list | tuple) else [value]
    return found
