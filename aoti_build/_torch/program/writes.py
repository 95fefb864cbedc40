"""What a model writes into when it is called: inputs that the caller gave, and buffers, which are its state.

torch.export keeps in-place operators as they are and lists no writes. Its functional form does, in the signature
(``user_inputs_to_mutate``, ``buffers_to_mutate``), because there every write is an output. Making that form takes about
as long as the export, so it is made only for graphs that hold an operator which writes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.export import ExportedProgram

from aoti_build.errors import BuildError


@dataclass(frozen=True)
class Writes:
    """What a call writes into: `inputs` by name, with their positions among the input tensors in the order of the
    call; `buffers` by their names in the model."""

    inputs: tuple[str, ...] = ()
    positions: tuple[int, ...] = ()
    buffers: tuple[str, ...] = ()

    @classmethod
    def of_signature(cls, signature: Mapping[str, Any]) -> Writes:
        """As the manifest's `signature` has it."""
        table = signature["mutates"]
        names = [entry["name"] for entry in signature["inputs"] if "dtype" in entry]
        inputs = tuple(table["inputs"])
        return cls(inputs, tuple(names.index(name) for name in inputs), tuple(table["buffers"]))

    def as_json(self) -> dict[str, Any]:
        return {"inputs": list(self.inputs), "buffers": list(self.buffers)}


def observed_names(signature: Mapping[str, Any]) -> list[str]:
    """Names of all that is compared after a call: the outputs, then the inputs and the buffers written into."""
    writes = Writes.of_signature(signature)
    outputs = [output["name"] for output in signature["outputs"]]
    inputs = [f"input {name}" for name in writes.inputs]
    return [*outputs, *inputs, *(f"buffer {name}" for name in writes.buffers)]


def functional_form(program: ExportedProgram) -> ExportedProgram:
    """The program with every write as an output; itself where it has none. Raises `BuildError` if torch cannot make
    one."""
    if not any(_writing(program)):
        return program
    try:
        functional: ExportedProgram = program.run_decompositions({})
    except Exception as error:  # a verifier's, a tracer's, plain assertions
        raise BuildError(
            "torch cannot tell what a call of the model writes into",
            cause=f"{type(error).__name__}: {str(error).strip()[:2000]}",
            hint="buffers or inputs that share memory cannot be written into, and neither can any inside torch.cond",
        ) from error
    return functional


def writes_of(functional: ExportedProgram, names: list[str]) -> Writes:
    """What a program in `functional_form` writes into; `names` are those of its input tensors in order."""
    signature = functional.graph_signature
    written = set(signature.user_inputs_to_mutate.values())
    positions = tuple(at for at, name in enumerate(input_tensors(functional)) if name in written)
    buffers = tuple(sorted(set(signature.buffers_to_mutate.values())))
    return Writes(tuple(names[at] for at in positions), positions, buffers)


def input_tensors(program: ExportedProgram) -> list[str]:
    """The names in the graph of the input tensors, in the order of a call. Constants stand in the signature as
    themselves, text among them."""
    values = {node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"}
    names = [name for name in program.graph_signature.user_inputs if isinstance(name, str)]
    return [name for name in names if isinstance(values.get(name), torch.Tensor)]


def _writing(program: ExportedProgram) -> Iterator[Any]:
    """Operators of the graph, and of the graphs inside it, that write into what they are given."""
    for module in program.graph_module.modules():
        if not isinstance(module, torch.fx.GraphModule):
            continue
        for node in module.graph.nodes:
            schema = getattr(node.target, "_schema", None)
            if schema is not None and schema.is_mutable:
                yield node.target
            elif "mutation" in str(node.target) or "auto_functionalized" in str(node.target):
                yield node.target  # a kernel of the user's own, which has no schema
