"""The nested structures of a call's arguments and result, from the specs in a package.

A call flattens its arguments and restores its result each time. torch's pytree walks a spec for
that and takes 10 to 50 microseconds. So each spec is turned into functions once, when the model is
loaded. Structures that they do not know are left to pytree.
"""

from __future__ import annotations

import ast
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch.utils import _pytree as pytree

from aoti_build.runtime.leaves import Parameter, Signature, parameter_names

Restore: TypeAlias = Callable[[list[Any]], Any]
# Entries of the outputs in a manifest's signature.
Entries: TypeAlias = Sequence[Mapping[str, Any]]
# Adds the leaves of a value to a list. False if the value has another structure.
Fill: TypeAlias = Callable[[Any, list[Any]], bool]


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
    only_tensors = not any("constant" in entry or "number" in entry for entry in outputs)
    if out_spec.type in (tuple, list) and all(child.is_leaf() for child in _children(out_spec)):
        restore: Restore = out_spec.type  # the most common ones
    else:
        restore = _restorer(out_spec, 0, only_tensors=only_tensors)
    return _with_plain_values(restore, outputs)


def _parameter(name: str, spec: Any, *, keyword: bool) -> Parameter:
    return Parameter(
        name=name,
        keyword=keyword,
        leaves=spec.num_leaves,
        flatten=None if spec.is_leaf() else _flattener(spec),
    )


def _children(spec: Any) -> list[Any]:
    if hasattr(spec, "children"):
        return list(spec.children())
    return list(spec.children_specs)  # before torch 2.10


def _flattener(spec: Any) -> Callable[[Any], list[Any]]:
    """A function from a value to its leaves. It raises ValueError for another structure."""
    fill = _filler(spec)

    def flatten(value: Any) -> list[Any]:
        leaves: list[Any] = []
        if fill(value, leaves):
            return leaves
        # pytree also accepts an OrderedDict for a dict, or it says what differs.
        return list(spec.flatten_up_to(value))

    return flatten


def _filler(spec: Any) -> Fill:
    if spec.is_leaf():
        return _add_leaf
    fills = [_filler(child) for child in _children(spec)]
    if spec.type is tuple or spec.type is list:
        return _sequence_filler(spec.type, fills)
    if spec.type is dict:
        return _dict_filler(dict(zip(spec.context, fills, strict=True)))

    def fill_other(value: Any, leaves: list[Any]) -> bool:
        leaves += spec.flatten_up_to(value)
        return True

    return fill_other


def _add_leaf(value: Any, leaves: list[Any]) -> bool:
    leaves.append(value)
    return True


def _sequence_filler(kind: Any, fills: Sequence[Fill]) -> Fill:
    def fill_sequence(value: Any, leaves: list[Any]) -> bool:
        if type(value) is not kind or len(value) != len(fills):
            return False
        return all(fill(element, leaves) for fill, element in zip(fills, value, strict=True))

    return fill_sequence


def _dict_filler(fills: Mapping[str, Fill]) -> Fill:
    def fill_dict(value: Any, leaves: list[Any]) -> bool:
        if type(value) is not dict or value.keys() != fills.keys():
            return False
        return all(fill(value[key], leaves) for key, fill in fills.items())

    return fill_dict


def _restorer(spec: Any, start: int, *, only_tensors: bool) -> Restore:
    """A function that restores a structure from its leaves, which begin at `start`."""
    if spec.is_leaf():
        return lambda outputs: outputs[start]
    restorers = []
    end = start
    for child in _children(spec):
        restorers.append(_restorer(child, end, only_tensors=only_tensors))
        end += child.num_leaves
    context = spec.context
    if spec.type is tuple:
        return lambda outputs: tuple([restore(outputs) for restore in restorers])
    if spec.type is list:
        return lambda outputs: [restore(outputs) for restore in restorers]
    if spec.type is dict:
        by_key = list(zip(context, restorers, strict=True))
        return lambda outputs: {key: restore(outputs) for key, restore in by_key}
    unflatten = pytree.SUPPORTED_NODES[spec.type].unflatten_fn
    # The type of a named tuple is a function.
    is_dict = isinstance(spec.type, type) and issubclass(spec.type, OrderedDict)
    if only_tensors and is_dict:
        example = [torch.empty(0) for _ in range(end)]
        children = [restore(example) for restore in restorers]
        copy = _like_example(unflatten(children, context), children)
        if copy is not None:
            return lambda outputs: copy([restore(outputs) for restore in restorers])
    return lambda outputs: unflatten([restore(outputs) for restore in restorers], context)


def _like_example(example: Any, children: list[Any]) -> Restore | None:
    """A function from other children to a value like `example`, which was made from `children`.

    An output of transformers is a dict whose values are attributes as well. Its constructor takes
    20 microseconds or more, and this function about one. None if the example has anything but the
    children and None, or if a copy of it would differ.
    """
    items = _places(dict(example), children)
    attributes = _places(vars(example), children)
    if items is None or attributes is None:
        return None
    make: Any = type(example).__new__
    kind = type(example)

    def copy(values: list[Any]) -> Any:
        # The constructor would look at every field. Such types also forbid `value[key] = ...`.
        result = make(kind)
        for key, place in items:
            OrderedDict.__setitem__(result, key, _at(values, place))
        state = vars(result)
        for name, place in attributes:
            state[name] = _at(values, place)
        return result

    return copy if _is_same(copy(children), example) else None


def _places(
    values: Mapping[str, Any], children: Sequence[Any]
) -> list[tuple[str, int | None]] | None:
    """Which child each value is, or None for None. None if a value is neither."""
    places: list[tuple[str, int | None]] = []
    for name, value in values.items():
        place = None
        if value is not None:
            found = [number for number, child in enumerate(children) if child is value]
            if not found:
                return None
            place = found[0]
        places.append((name, place))
    return places


def _at(values: Sequence[Any], place: int | None) -> Any:
    return None if place is None else values[place]


def _is_same(copy: Any, example: Any) -> bool:
    """Whether two values have the same objects as items and attributes, in the same order."""
    for one, other in ((dict(copy), dict(example)), (vars(copy), vars(example))):
        if list(one) != list(other):
            return False
        if any(one[name] is not other[name] for name in one):
            return False
    return True


def _with_plain_values(restore: Restore, entries: Entries) -> Restore:
    """`restore`, with the outputs that are no tensors replaced by the model's own values first.

    A package returns a tensor for a number, and no value for a text.
    """
    constants = []
    numbers = []
    for index, entry in enumerate(entries):
        if "constant" in entry:
            constants.append((index, constant_value(entry["constant"])))
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


def constant_value(text: str) -> Any:
    """The value whose repr is `text`; `text` itself if it is no literal."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):  # the last two for deep nesting
        pass
    try:
        return float(text)  # nan, inf
    except ValueError:
        return text
