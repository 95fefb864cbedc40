"""The values with which an exported program was traced: fake tensors, symbols and constants."""

from __future__ import annotations

from typing import Any

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind, TensorArgument


def traced_values(program: ExportedProgram) -> dict[str, Any]:
    """The value with which each node of the graph was traced, by the node's name."""
    return {node.name: node.meta.get("val") for node in program.graph.nodes}


def input_values(program: ExportedProgram) -> list[Any]:
    """The traced value of every user input, in flattened order; constants as themselves."""
    return _values_of(_input_arguments(program), program)


def output_values(program: ExportedProgram) -> list[Any]:
    """The traced value of every user output, in flattened order; constants as themselves."""
    arguments = []
    for spec in program.graph_signature.output_specs:
        if spec.kind == OutputKind.USER_OUTPUT:
            arguments.append(spec.arg)
    return _values_of(arguments, program)


def input_tensors(program: ExportedProgram) -> list[str]:
    """The names in the graph of the input tensors, in the order of a call."""
    values = traced_values(program)
    names = []
    for argument in _input_arguments(program):
        if not isinstance(argument, TensorArgument):
            continue
        if isinstance(values.get(argument.name), torch.Tensor):
            names.append(argument.name)
    return names


def _input_arguments(program: ExportedProgram) -> list[Any]:
    """The signature's entry for every user input, in flattened order."""
    arguments = []
    for spec in program.graph_signature.input_specs:
        if spec.kind == InputKind.USER_INPUT:
            arguments.append(spec.arg)
    return arguments


def _values_of(arguments: list[Any], program: ExportedProgram) -> list[Any]:
    traced = traced_values(program)
    values = []
    for argument in arguments:
        # A constant does not go by its name: a text may be the name of another input.
        if isinstance(argument, ConstantArgument):
            values.append(argument.value)
        else:
            values.append(traced.get(argument.name))
    return values
