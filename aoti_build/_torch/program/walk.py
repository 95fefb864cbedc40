"""A graph as plain data, by walking it: for programs that torch's serialiser refuses.

Seen to be refused in 2.14: FlexAttention's score_mod, and a number that while_loop carries.
Everything that compiled code depends on is either in what this gives, or of a kind that is not
known here; then it raises, and there is no digest of the graph.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node
from torch.utils import _pytree as pytree

# Operators that call graphs, and say all they do in their arguments and those graphs. Not one that
# names a kernel of the user's own, whose code is elsewhere.
_GRAPH_OPERATORS = frozenset({
    "associative_scan", "cond", "flex_attention", "map_impl", "out_dtype", "scan", "while_loop",
    "wrap_with_set_grad_enabled",
})  # fmt: skip
_BY_NAME = (torch.dtype, torch.device, torch.layout, torch.memory_format)
# Python's own functions, on sizes, and torch's, whose version is in the key beside the graph.
_PACKAGES = frozenset({"_operator", "builtins", "math", "torch"})


class UnknownPart(Exception):
    """A graph has something of which not all is known."""


def walked(program: ExportedProgram, digest: Callable[[torch.Tensor], str]) -> dict[str, Any]:
    """The program's graphs, signature, ranges and structure of a call, as JSON; tensors inside
    graphs by their `digest`. The values of its state and constants are not in it. Raises
    `UnknownPart`."""
    spec = program.call_spec
    return {
        "graphs": {
            name: _graph(module, digest) for name, module in _graph_modules(program.graph_module)
        },
        "signature": _text(program.graph_signature),
        "ranges": {
            str(symbol): [str(found.lower), str(found.upper)] for symbol, found in _ranges(program)
        },
        "call": [_structure(spec.in_spec), _structure(spec.out_spec)],
    }


def _graph_modules(module: GraphModule) -> Iterator[tuple[str, GraphModule]]:
    for name, inner in module.named_modules():
        if isinstance(inner, GraphModule):
            yield name, inner


def _ranges(program: ExportedProgram) -> Iterator[tuple[Any, Any]]:
    """What the program says of its sizes, then what the tracer assumed."""
    yield from program.range_constraints.items()
    for node in program.graph.nodes:
        for size in getattr(node.meta.get("val"), "shape", ()):
            if isinstance(size, torch.SymInt) and size.node.shape_env is not None:
                assumed = size.node.shape_env.var_to_range
                yield from ((f"assumed {symbol}", found) for symbol, found in assumed.items())
                return


def _graph(module: GraphModule, digest: Callable[[torch.Tensor], str]) -> list[Any]:
    return [
        [
            node.op,
            node.name,
            _target(node, module, digest),
            _value(node.args),
            _value(node.kwargs),
            _made(node),
        ]
        for node in module.graph.nodes
    ]


def _target(node: Node, module: GraphModule, digest: Callable[[torch.Tensor], str]) -> Any:
    if node.op in ("placeholder", "output"):
        return str(node.target)
    if node.op == "get_attr":
        return _attribute(str(node.target), module, digest)
    if node.op != "call_function":
        raise UnknownPart(f"a node of the kind {node.op}")
    target: Any = node.target
    if isinstance(target, torch._ops.OpOverload):
        return [str(target), str(target._schema)]
    if isinstance(target, torch._ops.HigherOrderOperator) and target.name() in _GRAPH_OPERATORS:
        return target.name()
    if (
        isinstance(target, types.FunctionType | types.BuiltinFunctionType)
        and "<locals>" not in target.__qualname__
    ):
        module_name = str(target.__module__)
        if module_name.partition(".")[0] in _PACKAGES:
            return f"{module_name}.{target.__qualname__}"
    raise UnknownPart(f"the operator {target}")


def _attribute(path: str, module: GraphModule, digest: Callable[[torch.Tensor], str]) -> Any:
    found: Any = module
    for name in path.split("."):
        found = getattr(found, name)
    if isinstance(found, GraphModule):
        return path  # which `walked` describes
    if isinstance(found, torch.Tensor):
        return [path, digest(found)]
    raise UnknownPart(f"an attribute that is a {type(found).__name__}")


def _made(node: Node) -> Any:
    """What the tracer knows of a node's result."""
    return _value(node.meta.get("val"))


def _value(value: Any) -> Any:
    """An argument or a result, each kind apart from the others."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int | float | complex):
        return {type(value).__name__: repr(value)}
    if isinstance(value, torch.SymInt | torch.SymFloat | torch.SymBool):
        return {"symbol": str(value.node.expr)}
    if isinstance(value, Node):
        return {"node": value.name}
    if isinstance(value, torch.Tensor):
        return _tensor(value)
    if isinstance(value, list | tuple):
        return {"list" if isinstance(value, list) else "tuple": [_value(inner) for inner in value]}
    if isinstance(value, Mapping):
        return {"mapping": [[_value(name), _value(inner)] for name, inner in value.items()]}
    if isinstance(value, slice):
        return {"slice": [_value(value.start), _value(value.stop), _value(value.step)]}
    if isinstance(value, _BY_NAME):
        return {type(value).__name__: str(value)}
    raise UnknownPart(f"a value of the type {type(value).__qualname__}")


def _tensor(value: torch.Tensor) -> Any:
    if hasattr(value, "__tensor_flatten__") or value.layout != torch.strided:
        raise UnknownPart(f"a tensor of the type {type(value).__qualname__}")
    sizes = [_value(size) for size in (*value.shape, *value.stride(), value.storage_offset())]
    lazy = [value.requires_grad, value.is_conj(), value.is_neg()]
    return [str(value.dtype), value.dim(), sizes, str(value.device), lazy]


def _structure(spec: Any) -> str:
    """As a package holds it, with the types' whole names: a repr has only their last part."""
    try:
        return str(pytree.treespec_dumps(spec))
    except (NotImplementedError, TypeError) as error:
        raise UnknownPart("a structure that no package can hold") from error


def _text(value: Any) -> str:
    """The repr of plain data of torch's. Raises `UnknownPart` where an object in it is only shown
    by its address."""
    text = repr(value)
    if " at 0x" in text:
        raise UnknownPart(f"a {type(value).__name__} that holds an object")
    return text
