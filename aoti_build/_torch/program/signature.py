"""The signature of an exported program: its inputs, outputs, dims and writes as JSON."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument
from torch.utils import _pytree as pytree

from aoti_build._torch.program.axes import Axes
from aoti_build._torch.program.dims import SymbolNames, names_of_symbols, spelling_of
from aoti_build._torch.program.inputs import Call
from aoti_build._torch.program.memory_formats import format_of
from aoti_build._torch.program.structure import leaf_names
from aoti_build._torch.program.values import input_values, output_values
from aoti_build._torch.program.writes import EagerWrites, writes_of
from aoti_build.common.json_object import JsonObject
from aoti_build.models_file.project import Dim


def signature(
    program: ExportedProgram,
    functional: ExportedProgram,
    module: torch.nn.Module,
    call: Call,
    dims: tuple[Dim, ...],
    axes: list[Axes],
    eager_writes: EagerWrites,
) -> JsonObject:
    """The signature as manifests hold it.

    `inputs` and `outputs` have name, dtype and shape each, in flattened order, and inputs their
    memory format if they have one. A dynamic size is an
    expression in the names of `dims`. `mutates` lists the inputs and buffers that a call writes
    into, by the `functional` form of the program and by what one call in eager mode changed.
    """
    symbols = names_of_symbols(input_values(program), axes)
    inputs = _describe_inputs(program, module, call, symbols)
    tensor_names = [entry["name"] for entry in inputs if "dtype" in entry]
    writes = writes_of(functional, tensor_names, eager_writes)
    return {
        "inputs": inputs,
        "outputs": _describe_outputs(program, symbols),
        "dims": {dim.name: _describe_dim(dim) for dim in dims},
        "mutates": writes.as_json(),
    }


def input_names(module: torch.nn.Module, call: Call) -> list[str]:
    """A name such as ``mask`` or ``pair[0]`` for each leaf of the call."""
    arguments = [*_parameter_names(module, len(call.args)), *call.kwargs]
    values = [*call.args, *call.kwargs.values()]
    names: list[str] = []
    for argument, value in zip(arguments, values, strict=True):
        names += leaf_names(pytree.tree_structure(value), argument)
    return names


def replace_uncompilable_outputs(program: ExportedProgram) -> None:
    """Put None in the place of outputs that are texts or floats, for which inductor has no code.

    The signature has their values for those who load the package.
    """
    output_node = next(node for node in program.graph.nodes if node.op == "output")
    values = list(output_node.args[0])
    for index, spec in enumerate(program.graph_signature.output_specs):
        if not isinstance(spec.arg, ConstantArgument):
            continue
        if not isinstance(spec.arg.value, int | None):
            values[index] = None
            spec.arg = ConstantArgument(spec.arg.name, None)
    output_node.args = (tuple(values),)
    program.graph_module.recompile()


def _parameter_names(module: torch.nn.Module, count: int) -> list[str]:
    """Names of forward's first `count` positional parameters.

    Those of *args are numbered, as torch.export does.
    """
    names: list[str] = []
    for parameter in inspect.signature(module.forward).parameters.values():
        if parameter.kind is parameter.VAR_POSITIONAL:
            rest = count - len(names)
            for index in range(rest):
                names.append(f"{parameter.name}_{index}")
        elif parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            names.append(parameter.name)
    return names[:count]


def _describe_inputs(
    program: ExportedProgram,
    module: torch.nn.Module,
    call: Call,
    symbols: SymbolNames,
) -> list[JsonObject]:
    names = input_names(module, call)
    leaves = call.leaves()
    entries = []
    for name, leaf, value in zip(names, leaves, input_values(program), strict=True):
        entry = _describe_value(name, value, symbols)
        if "constant" in entry and leaf is not None:
            # As the caller passes it.
            entry["constant"] = repr(leaf)
        if "dtype" in entry:
            memory_format = format_of(leaf)
            if memory_format is not None:
                entry["memory_format"] = memory_format
        entries.append(entry)
    return entries


def _describe_outputs(program: ExportedProgram, symbols: SymbolNames) -> list[JsonObject]:
    """An entry for each output leaf, with a path such as ``['logits']`` or ``[0][1]``; a lone
    tensor is called ``output``."""
    paths = leaf_names(program.call_spec.out_spec)
    entries = []
    for path, value in zip(paths, output_values(program), strict=True):
        entries.append(_describe_value(path or "output", value, symbols))
    return entries


def _describe_value(name: str, value: Any, symbols: SymbolNames) -> JsonObject:
    if isinstance(value, torch.Tensor):
        dtype = str(value.dtype).removeprefix("torch.")
        shape = [_describe_size(size, symbols) for size in value.shape]
        return {"name": name, "dtype": dtype, "shape": shape}
    # A number that follows from sizes, or from data.
    if isinstance(value, torch.SymInt | torch.SymFloat | torch.SymBool):
        symbolic_type = type(value).__name__
        kind = symbolic_type.removeprefix("Sym").lower()
        expression = value.node.expr.subs(symbols)
        return {"name": name, "number": kind, "value": str(expression)}
    return {"name": name, "constant": repr(value)}


def _describe_size(size: int | torch.SymInt, symbols: SymbolNames) -> int | str:
    if isinstance(size, torch.SymInt):
        return spelling_of(size.node.expr.subs(symbols))
    return int(size)


def _describe_dim(dim: Dim) -> JsonObject:
    return {"min": dim.min, "max": dim.max, "multiple_of": dim.multiple_of}
