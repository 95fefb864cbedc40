"""Compares compiled code with the exported program in eager mode, by bisection."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import Node

from aoti_build._torch.checking.compare import Figures, compare
from aoti_build._torch.checking.state import restored_state
from aoti_build._torch.jobs.localize_export import difference_at, module_exits, source_line
from aoti_build._torch.program.inputs import Call
from aoti_build.figures import ModuleDifference


def bisect(
    program: ExportedProgram, call: Call, options: Mapping[str, Any]
) -> ModuleDifference | None:
    """The first module exit at which compiled code differs from the program in eager mode; None if
    the program as a whole agrees."""
    exits: list[tuple[Node, str]] = []
    for node, module_calls in module_exits(program.graph_module).items():
        if isinstance(node.meta.get("val"), Tensor):
            innermost_path, _ = module_calls[0]
            exits.append((node, innermost_path))
    if not exits:
        return None

    def difference(position: int) -> ModuleDifference | None:
        node, path = exits[position]
        figures = compiled_prefix(program, node.name, call, options)
        if figures["ok"]:
            return None
        return difference_at(path, _class_name(node), source_line(node), figures)

    # One compile of the whole comes first: if it agrees, no other is needed.
    first = difference(len(exits) - 1)
    if first is None:
        return None
    low, high = 0, len(exits) - 2
    while low <= high:
        middle = (low + high) // 2
        earlier = difference(middle)
        if earlier is None:
            low = middle + 1
        else:
            first = earlier
            high = middle - 1
    return first


def _class_name(node: Node) -> str:
    """The class of the innermost module around the node; "?" if torch did not record it."""
    stack = node.meta.get("nn_module_stack") or {"": ("", "?")}
    _, qualified_name = next(reversed(stack.values()))
    return str(qualified_name).rpartition(".")[2]


def compiled_prefix(
    program: ExportedProgram, name: str, call: Call, options: Mapping[str, Any]
) -> Figures:
    """Compile the program up to the node `name`, at the sizes of the example. Compare the value of
    the node with eager mode."""
    import torch._inductor

    from aoti_build._torch.packages.loaded import LoadedPackage

    prefix = program.module(check_guards=False)
    node = next(node for node in prefix.graph.nodes if node.name == name)
    output = next(node for node in prefix.graph.nodes if node.op == "output")
    output.args = ((node,),)
    prefix.graph._codegen.pytree_info = prefix.graph._codegen.pytree_info._replace(out_spec=None)
    prefix.graph.eliminate_dead_code()
    prefix.recompile()
    inputs = call.clone()
    with torch.no_grad(), tempfile.TemporaryDirectory(prefix="aoti_build-") as directory:
        with restored_state(prefix):  # the package must begin with the same state
            expected = prefix(*inputs.args, **inputs.kwargs)[0].clone()
        exported = torch.export.export(prefix, call.args, call.kwargs, strict=False)
        path = Path(directory) / "prefix.pt2"
        torch._inductor.aoti_compile_and_package(
            exported,
            package_path=str(path),
            inductor_configs=dict(options),
        )
        package = LoadedPackage(path, expected.device.type)
        (candidate,) = package(call.clone().tensors())
    return compare(name, expected, candidate, {})
