"""The nested structures of a call's arguments and result, from the specs in a package."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from torch.utils import _pytree as pytree

from aoti_build.runtime.leaves import Parameter, Signature, parameter_names

Restore: TypeAlias = Callable[[list[Any]], Any]
# Entries of the outputs in a manifest's signature.
Entries: TypeAlias = Sequence[Mapping[str, Any]]


def exported_parameters(in_spec: Any, signature: Signature) -> list[Parameter]:
    """The parameters of the exported call, from the spec of (args, kwargs) and the signature."""
    args_spec, kwargs_spec = _children(in_spec)
    specs = _children(args_spec)
    names = parameter_names(signature, [spec.num_leaves for spec in specs])
    parameters = []
    for name, spec in zip(names, specs, strict=True):
        parameters.append(_parameter(name, spec, keyword=False))
    # The context of a dict's spec is the list of its keys.
    keywords = kwargs_spec.context or ()
    for name, spec in zip(keywords, _children(kwargs_spec), strict=True):
        parameters.append(_parameter(name, spec, keyword=True))
    return parameters


def output_restorer(out_spec: Any, outputs: Entries) -> Restore:
    """A function from the flat outputs of a package to the result that the model returned.

    `outputs` are those of the signature.
    """
    return _with_plain_values(_unflattener(out_spec), outputs)


def _parameter(name: str, spec: Any, *, keyword: bool) -> Parameter:
    return Parameter(
        name=name,
        keyword=keyword,
        leaves=spec.num_leaves,
        spec=None if spec.is_leaf() else spec,
    )


def _children(spec: Any) -> list[Any]:
    if hasattr(spec, "children"):
        return list(spec.children())
    return list(spec.children_specs)  # before torch 2.10


def _unflattener(out_spec: Any) -> Restore:
    """A function that restores the structure. The common ones do without pytree, which is slow."""
    if out_spec.is_leaf():
        return lambda outputs: outputs[0]
    if all(child.is_leaf() for child in _children(out_spec)):
        if out_spec.type is tuple:
            return tuple
        if out_spec.type is list:
            return list
        if out_spec.type is dict:
            return lambda outputs: dict(zip(out_spec.context, outputs, strict=True))
    return lambda outputs: pytree.tree_unflatten(outputs, out_spec)


def _with_plain_values(restore: Restore, entries: Entries) -> Restore:
    """`restore`, with the outputs that are no tensors replaced by the model's own values first.

    A package returns a tensor for a number, and no value for a text.
    """
    constants = []
    numbers = []
    for index, entry in enumerate(entries):
        if "constant" in entry:
            constants.append((index, _constant_value(entry["constant"])))
        if "number" in entry:
            numbers.append(index)
    if not constants and not numbers:
        return restore

    def restore_with_values(outputs: Sequence[Any]) -> Any:
        values = list(outputs)
        for index in numbers:
            values[index] = values[index].item()
        for index, constant in constants:
            values[index] = constant
        return restore(values)

    return restore_with_values


def _constant_value(text: str) -> Any:
    """The value whose repr is `text`; `text` itself if it is no literal."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):  # the last two for deep nesting
        pass
    try:
        return float(text)  # nan, inf
    except ValueError:
        return text
