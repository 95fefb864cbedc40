"""The inputs and buffers that a model writes into when it is called. Its buffers are its state.

No single source has all of these writes:

- torch.export keeps in-place operators and lists no writes. The functional form of the program
  does, in its signature (``user_inputs_to_mutate``, ``buffers_to_mutate``), because every write is
  an output there. Making it takes about as long as the export, so it is made only for graphs with
  an operator that writes.
- torch cannot make that form of a graph that writes inside torch.cond, or into buffers that share
  memory. Then the operands of such operators count as written.
- Some operators write and do not say so: batch norm with running statistics, and operators of the
  user's own. So the changes that a call in eager mode makes count as well
  (`aoti_build._torch.checking.first_calls`).

An entry that is not written costs a comparison of equal values. A write that is missed is never
compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch.export import ExportedProgram
from torch.fx import GraphModule, Node

from aoti_build._torch.program.values import input_tensors
from aoti_build.artifact.manifest import tensor_inputs
from aoti_build.artifact.reference_file import observed_names
from aoti_build.common.json_object import JsonObject

# Calls of a model with state: the second uses the state that the first made, and the third that of
# the second.
STATE_CALLS = 3


@dataclass(frozen=True)
class Writes:
    """The inputs that a call writes into, by name and by their positions among the input tensors of
    the call, and the buffers by their names in the model."""

    inputs: tuple[str, ...] = ()
    positions: tuple[int, ...] = ()
    buffers: tuple[str, ...] = ()

    @classmethod
    def of_signature(cls, signature: Mapping[str, Any]) -> Writes:
        """The writes that a manifest's `signature` records."""
        mutates = signature["mutates"]
        inputs, positions = [], []
        for position, entry in enumerate(tensor_inputs(signature)):
            if entry["name"] in mutates["inputs"]:
                inputs.append(entry["name"])
                positions.append(position)
        return cls(tuple(inputs), tuple(positions), tuple(mutates["buffers"]))

    def as_json(self) -> JsonObject:
        return {"inputs": list(self.inputs), "buffers": list(self.buffers)}

    @property
    def calls(self) -> int:
        """The number of calls that shows what the model does."""
        return STATE_CALLS if self.buffers else 1


@dataclass(frozen=True)
class EagerWrites:
    """The inputs and buffers that one call in eager mode changed: the positions among the input
    tensors, and the names."""

    positions: frozenset[int] = frozenset()
    buffers: frozenset[str] = frozenset()


def computed_of(signature: Mapping[str, Any]) -> list[str | None]:
    """In the order of `observed_names`: the dtype in which each value is computed, where that is
    narrower than its own; None for the others."""
    narrower = signature.get("computed_in", {})
    return [narrower.get(name) for name in observed_names(signature)]


def observed_nodes(functional: ExportedProgram, writes: Writes) -> list[str | None]:
    """In the order of `observed_names`: the name in the graph of each value; None for one that is
    not an output of the graph."""
    signature = functional.graph_signature
    # In these two maps of torch the keys are outputs.
    by_input = {name: output for output, name in signature.user_inputs_to_mutate.items()}
    by_buffer = {name: output for output, name in signature.buffers_to_mutate.items()}
    nodes: list[str | None] = []
    for output in signature.user_outputs:
        nodes.append(output if isinstance(output, str) else None)
    tensors = input_tensors(functional)
    for position in writes.positions:
        nodes.append(by_input.get(tensors[position]))
    for name in writes.buffers:
        nodes.append(by_buffer.get(name))
    return nodes


def functional_form(program: ExportedProgram) -> ExportedProgram:
    """The program with every write as an output; the program itself if it has no writes, or if
    torch cannot make that form."""
    if not _has_writes(program.graph_module):
        return program
    try:
        functional: ExportedProgram = program.run_decompositions({})
    except Exception:  # a verifier's or a tracer's error, or a plain assertion
        return program
    return functional


def writes_of(
    functional: ExportedProgram,
    names: Sequence[str],
    eager_writes: EagerWrites | None = None,
) -> Writes:
    """The writes of a program in `functional_form`, with those that a call in eager mode showed.

    `names` are the names of its input tensors, in order.
    """
    eager_writes = eager_writes or EagerWrites()
    signature = functional.graph_signature
    operands = _written_operands(functional)

    written_inputs = operands | set(signature.user_inputs_to_mutate.values())
    positions = set(eager_writes.positions)
    for position, node_name in enumerate(input_tensors(functional)):
        if node_name in written_inputs:
            positions.add(position)

    buffers = eager_writes.buffers | set(signature.buffers_to_mutate.values())
    for node_name, buffer in signature.inputs_to_buffers.items():
        if node_name in operands:
            buffers |= {buffer}

    ordered = tuple(sorted(positions))
    inputs = tuple(names[position] for position in ordered)
    return Writes(inputs, ordered, tuple(sorted(buffers)))


def root_of(node: Any) -> Any:
    """The base of a chain of views; any other argument of an operator unchanged."""
    while isinstance(node, Node) and node.op == "call_function" and _is_view(node):
        node = node.args[0]
    return node


def _written_operands(program: ExportedProgram) -> set[str]:
    """Names of the nodes that the writing operators left in a graph may write into, also through
    views."""
    names = set()
    for node in program.graph_module.graph.nodes:
        if _writes(node, program.graph_module):
            for operand in _operands(node):
                names.add(root_of(operand).name)
    return names


def _has_writes(module: GraphModule) -> bool:
    return any(_writes(node, module) for node in module.graph.nodes)


def _writes(node: Node, module: GraphModule) -> bool:
    """Whether a node of `module` writes into its operands, by itself or in a graph that it
    calls."""
    schema = _schema_of(node)
    if schema is not None and schema.is_mutable:
        return True
    # Kernels of the user's own have no schema. torch wraps them in operators of these names
    # (triton_kernel_wrapper_mutation, auto_functionalized_v2; torch/_higher_order_ops).
    target = str(node.target)
    if "mutation" in target or "auto_functionalized" in target:
        return True
    return any(_has_writes(graph) for graph in called_graphs(node, module))


def called_graphs(node: Node, module: GraphModule) -> Iterator[GraphModule]:
    """The graphs that an operator's arguments name, such as the branches of torch.cond."""
    for source in node.all_input_nodes:
        if source.op == "get_attr":
            graph = getattr(module, str(source.target), None)
            if isinstance(graph, GraphModule):
                yield graph


def _operands(node: Node) -> list[Node]:
    """The operands that a writing operator may write into."""
    schema = _schema_of(node)
    if schema is None or not schema.is_mutable:
        return [source for source in node.all_input_nodes if source.op != "get_attr"]
    arguments: dict[str, Any] = dict(node.kwargs)
    for parameter, value in zip(schema.arguments, node.args, strict=False):
        arguments[parameter.name] = value
    operands = []
    for parameter in schema.arguments:
        if parameter.alias_info and parameter.alias_info.is_write:
            operand = arguments.get(parameter.name)
            if isinstance(operand, Node):
                operands.append(operand)
    return operands


def _is_view(node: Node) -> bool:
    schema = _schema_of(node)
    if schema is None or not node.args or schema.is_mutable:
        return False
    return any(result.alias_info is not None for result in schema.returns)


def _schema_of(node: Node) -> Any:
    return getattr(node.target, "_schema", None)
