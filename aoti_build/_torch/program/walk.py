"""A graph as plain data, by walking it: for programs that torch's serialiser refuses.

torch 2.14 refuses FlexAttention's score_mod, and a number that while_loop carries. Everything that
compiled code depends on is either in this description, or of a kind that this module does not know.
Then it raises `UnknownPart`, and the graph has no digest.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node
from torch.utils import _pytree as pytree

from aoti_build.common.json_object import JsonObject

Digest: TypeAlias = Callable[[torch.Tensor], str]

# Operators that call graphs, and are described by their arguments and those graphs. An operator
# that names a kernel of the user's own is not among them, because the kernel's code is elsewhere.
_GRAPH_OPERATORS = frozenset({
    "associative_scan", "cond", "flex_attention", "map_impl", "out_dtype", "scan", "while_loop",
    "wrap_with_set_grad_enabled",
})  # fmt: skip
_BY_NAME = (torch.dtype, torch.device, torch.layout, torch.memory_format)
# Python's own functions on sizes, and torch's, whose version is in the key as well.
_PACKAGES = frozenset({"_operator", "builtins", "math", "torch"})


class UnknownPart(Exception):
    """A part of a graph that cannot be described completely."""


def program_as_json(program: ExportedProgram, digest: Digest) -> JsonObject:
    """The program's graphs, signature, ranges and structure of a call, as JSON.

    Tensors inside graphs are described by their `digest`. The values of the program's state and
    constants are not in it.

    Raises:
        UnknownPart: A part of the program is of a kind that this module does not know.
    """
    graphs = {}
    for name, module in program.graph_module.named_modules():
        if isinstance(module, GraphModule):
            graphs[name] = [_node(node, module, digest) for node in module.graph.nodes]
    spec = program.call_spec
    return {
        "graphs": graphs,
        "signature": _text(program.graph_signature),
        "ranges": _ranges(program),
        "call": [_structure(spec.in_spec), _structure(spec.out_spec)],
    }


def _ranges(program: ExportedProgram) -> dict[str, list[str]]:
    """The program's ranges of its symbols, and those that the tracer assumed."""
    ranges = {str(symbol): _ends(limits) for symbol, limits in program.range_constraints.items()}
    tracer = _tracer(program)
    assumed = {} if tracer is None else tracer.var_to_range
    for symbol, limits in assumed.items():
        ranges[f"assumed {symbol}"] = _ends(limits)
    return ranges


def _ends(limits: Any) -> list[str]:
    return [str(limits.lower), str(limits.upper)]


def _tracer(program: ExportedProgram) -> Any:
    """The tracer that made the symbols; None for a program without symbolic sizes."""
    for node in program.graph.nodes:
        for size in getattr(node.meta.get("val"), "shape", ()):
            if isinstance(size, torch.SymInt) and size.node.shape_env is not None:
                return size.node.shape_env
    return None


def _node(node: Node, module: GraphModule, digest: Digest) -> list[Any]:
    return [
        node.op,
        node.name,
        _target(node, module, digest),
        _value(node.args),
        _value(node.kwargs),
        _value(node.meta.get("val")),
    ]


def _target(node: Node, module: GraphModule, digest: Digest) -> Any:
    if node.op in ("placeholder", "output"):
        return str(node.target)
    if node.op == "get_attr":
        return _attribute(str(node.target), module, digest)
    if node.op == "call_function":
        return _function(node.target)
    raise UnknownPart(f"a node of the kind {node.op}")


def _function(target: Any) -> Any:
    if isinstance(target, torch._ops.OpOverload):
        return [str(target), str(target._schema)]
    if isinstance(target, torch._ops.HigherOrderOperator) and target.name() in _GRAPH_OPERATORS:
        return target.name()
    if isinstance(target, types.FunctionType | types.BuiltinFunctionType):
        module_name = str(target.__module__)
        is_in_package = module_name.partition(".")[0] in _PACKAGES
        # The name of a local function does not identify it.
        if is_in_package and "<locals>" not in target.__qualname__:
            return f"{module_name}.{target.__qualname__}"
    raise UnknownPart(f"the operator {target}")


def _attribute(path: str, module: GraphModule, digest: Digest) -> Any:
    attribute: Any = module
    for name in path.split("."):
        attribute = getattr(attribute, name)
    if isinstance(attribute, GraphModule):
        return path  # `program_as_json` describes the graph itself
    if isinstance(attribute, torch.Tensor):
        return [path, digest(attribute)]
    raise UnknownPart(f"an attribute that is a {type(attribute).__name__}")


def _value(value: Any) -> Any:
    """An argument or a result as JSON, in which values of different kinds always differ."""
    # A bool is an int as well, so it comes first.
    if value is None or isinstance(value, bool | str):
        return value
    # By repr: JSON has no NaN, and makes no difference between 1 and 1.0.
    if isinstance(value, int | float | complex):
        return {type(value).__name__: repr(value)}
    if isinstance(value, torch.SymInt | torch.SymFloat | torch.SymBool):
        return {"symbol": str(value.node.expr)}
    if isinstance(value, Node):
        return {"node": value.name}
    if isinstance(value, torch.Tensor):
        return _tensor(value)
    if isinstance(value, list):
        return {"list": [_value(entry) for entry in value]}
    if isinstance(value, tuple):
        return {"tuple": [_value(entry) for entry in value]}
    if isinstance(value, Mapping):
        return {"mapping": [[_value(key), _value(entry)] for key, entry in value.items()]}
    if isinstance(value, slice):
        return {"slice": [_value(value.start), _value(value.stop), _value(value.step)]}
    if isinstance(value, _BY_NAME):
        return {type(value).__name__: str(value)}
    raise UnknownPart(f"a value of the type {type(value).__qualname__}")


def _tensor(value: torch.Tensor) -> Any:
    if hasattr(value, "__tensor_flatten__") or value.layout != torch.strided:
        raise UnknownPart(f"a tensor of the type {type(value).__qualname__}")
    numbers = [*value.shape, *value.stride(), value.storage_offset()]
    sizes = [_value(number) for number in numbers]
    flags = [value.requires_grad, value.is_conj(), value.is_neg()]
    return [str(value.dtype), value.dim(), sizes, str(value.device), flags]


def _structure(spec: Any) -> str:
    """The text that a package holds. It has the full names of types; a repr has only the last
    part."""
    try:
        return str(pytree.treespec_dumps(spec))
    except (NotImplementedError, TypeError) as error:
        raise UnknownPart("a structure that no package can hold") from error


def _text(value: Any) -> str:
    """The repr of torch's plain data. Raises `UnknownPart` if it shows an object by its address."""
    text = repr(value)
    if " at 0x" in text:
        raise UnknownPart(f"a {type(value).__name__} that holds an object")
    return text
