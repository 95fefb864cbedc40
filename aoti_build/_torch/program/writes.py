"""What a model writes into when it is called: inputs that the caller gave, and buffers, which are
its state.

No single source knows all of it:

- torch.export keeps in-place operators as they are and lists no writes. Its functional form does,
  in the signature (``user_inputs_to_mutate``, ``buffers_to_mutate``), because there every write is
  an output. Making it takes about as long as the export, so it is made only for graphs that hold an
  operator which writes.
- torch cannot make that form of a graph that writes inside torch.cond, or into buffers that share
  memory. Then what such operators are given counts as written.
- Some operators write without saying so (batch norm with running statistics, operators of the
  user's own). What a call in eager mode changes counts as well
  (`aoti_build._torch.checking.first_calls`).

What is taken for written and is not costs a comparison of equal values; what is missed is never
compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, TensorArgument
from torch.fx import GraphModule, Node

from aoti_build.artifact.manifest import tensor_inputs
from aoti_build.common.json_object import JsonObject

# Calls of a model with state: the second sees what the first left, the third what the second made
# of that.
STATE_CALLS = 3


@dataclass(frozen=True)
class Writes:
    """What a call writes into: `inputs` by name, with their positions among the input tensors in
    the order of the call; `buffers` by their names in the model."""

    inputs: tuple[str, ...] = ()
    positions: tuple[int, ...] = ()
    buffers: tuple[str, ...] = ()

    @classmethod
    def of_signature(cls, signature: Mapping[str, Any]) -> Writes:
        """As the manifest's `signature` has it."""
        written = signature["mutates"]["inputs"]
        names = [entry["name"] for entry in tensor_inputs(signature)]
        positions = tuple(at for at, name in enumerate(names) if name in written)
        return cls(
            tuple(names[at] for at in positions), positions, tuple(signature["mutates"]["buffers"])
        )

    def as_json(self) -> JsonObject:
        return {"inputs": list(self.inputs), "buffers": list(self.buffers)}

    @property
    def calls(self) -> int:
        """How many calls show what the model does."""
        return STATE_CALLS if self.buffers else 1


@dataclass(frozen=True)
class Seen:
    """What one call in eager mode was seen to change: positions of input tensors, and buffers."""

    positions: frozenset[int] = frozenset()
    buffers: frozenset[str] = frozenset()


def observed_names(signature: Mapping[str, Any]) -> list[str]:
    """Names of all that is compared after a call: the outputs, then the inputs and the buffers
    written into."""
    writes = Writes.of_signature(signature)
    outputs = [output["name"] for output in signature["outputs"]]
    inputs = [f"input {name}" for name in writes.inputs]
    return [*outputs, *inputs, *(f"buffer {name}" for name in writes.buffers)]


def computed_of(signature: Mapping[str, Any]) -> list[str | None]:
    """In the order of `observed_names`: the type that each is computed in, where that is narrower
    than its own."""
    narrower = signature.get("computed_in", {})
    return [narrower.get(name) for name in observed_names(signature)]


def functional_form(program: ExportedProgram) -> ExportedProgram:
    """The program with every write as an output; itself where it has none, or torch cannot make
    that form."""
    if not any(True for _ in _writing(program.graph_module)):
        return program
    try:
        functional: ExportedProgram = program.run_decompositions({})
    except Exception:  # a verifier's, a tracer's, plain assertions
        return program
    return functional


def writes_of(
    functional: ExportedProgram, names: Sequence[str], seen: Seen | None = None
) -> Writes:
    """What a program in `functional_form` writes into, and what was `seen` to be written; `names`
    are those of its input tensors in order."""
    seen, signature = seen or Seen(), functional.graph_signature
    direct = _operands(functional)
    written = set(signature.user_inputs_to_mutate.values()) | direct
    positions = {at for at, name in enumerate(input_tensors(functional)) if name in written}
    positions |= seen.positions
    buffers = set(signature.buffers_to_mutate.values()) | seen.buffers
    buffers |= {name for node, name in signature.inputs_to_buffers.items() if node in direct}
    ordered = tuple(sorted(positions))
    return Writes(tuple(names[at] for at in ordered), ordered, tuple(sorted(buffers)))


def input_tensors(program: ExportedProgram) -> list[str]:
    """The names in the graph of the input tensors, in the order of a call."""
    values = traced_values(program)
    arguments = input_arguments(program)
    names = [argument.name for argument in arguments if isinstance(argument, TensorArgument)]
    return [name for name in names if isinstance(values.get(name), torch.Tensor)]


def input_arguments(program: ExportedProgram) -> list[Any]:
    """What the signature says of every user input, in flattened order."""
    specs = program.graph_signature.input_specs
    return [spec.arg for spec in specs if spec.kind == InputKind.USER_INPUT]


def traced_values(program: ExportedProgram) -> dict[str, Any]:
    """The value with which each node of the graph was traced, by the node's name."""
    return {node.name: node.meta.get("val") for node in program.graph.nodes}


def observed_nodes(functional: ExportedProgram, writes: Writes) -> list[str | None]:
    """The names in the graph of all that is compared after a call, in the order of
    `observed_names`; None for what the graph does not have as an output."""
    signature = functional.graph_signature
    by_input = {name: output for output, name in signature.user_inputs_to_mutate.items()}
    by_buffer = {name: output for output, name in signature.buffers_to_mutate.items()}
    tensors = input_tensors(functional)
    outputs = [name if isinstance(name, str) else None for name in signature.user_outputs]
    inputs = [by_input.get(tensors[position]) for position in writes.positions]
    return [*outputs, *inputs, *(by_buffer.get(name) for name in writes.buffers)]


def root_of(node: Any) -> Any:
    """What a chain of views is a view of."""
    while isinstance(node, Node) and node.op == "call_function" and _is_view(node):
        node = node.args[0]
    return node


def _operands(program: ExportedProgram) -> set[str]:
    """Names of what the writing operators that are left in a graph are given, through views."""
    return {
        root_of(source).name for node in _writing(program.graph_module) for source in _targets(node)
    }


def _writing(module: GraphModule) -> Iterator[Node]:
    """Nodes that write into what they are given; one that calls graphs inside this one, if these
    do."""
    for node in module.graph.nodes:
        schema = getattr(node.target, "_schema", None)
        text = str(node.target)
        inner = [
            part
            for name in _graphs(node)
            if isinstance(part := getattr(module, name, None), GraphModule)
        ]
        if (
            (schema is not None and schema.is_mutable)
            or "mutation" in text  # a kernel of the user's own, which has no schema
            or "auto_functionalized" in text
            or any(True for part in inner for _ in _writing(part))
        ):
            yield node


def _graphs(node: Node) -> list[str]:
    """The attributes that an operator's arguments name, such as the branches of torch.cond."""
    return [str(source.target) for source in node.all_input_nodes if source.op == "get_attr"]


def _targets(node: Node) -> list[Node]:
    """The operands that a writing operator may write into."""
    schema = getattr(node.target, "_schema", None)
    if schema is None or not schema.is_mutable:
        return [source for source in node.all_input_nodes if source.op != "get_attr"]
    given = dict(
        zip((argument.name for argument in schema.arguments), node.args, strict=False)
    ) | dict(node.kwargs)
    written = [
        argument.name
        for argument in schema.arguments
        if argument.alias_info and argument.alias_info.is_write
    ]
    return [given[name] for name in written if isinstance(given.get(name), Node)]


def _is_view(node: Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    if schema is None or not node.args or schema.is_mutable:
        return False
    return any(value.alias_info is not None for value in schema.returns)
