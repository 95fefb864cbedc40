"""The structures that arguments and outputs come in: names of their leaves, types that pytree must
know, and the same without those types.

Names come from pytree's specs and not from `tree_flatten_with_path`, which refuses types that were
registered without a keys function, as those of diffusers are.
"""

from __future__ import annotations

import dataclasses
from collections import namedtuple
from collections.abc import Callable, Iterator, Mapping
from functools import wraps
from types import MethodType
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from aoti_build.errors import BuildError
from aoti_build.runtime.imports import register_named_tuple


def children_of(spec: Any) -> list[Any]:
    # The second before torch 2.10.
    return list(spec.children() if hasattr(spec, "children") else spec.children_specs)


def leaf_names(spec: Any, prefix: str = "") -> Iterator[str]:
    """A path such as ``['logits']`` or ``[0].scores`` for each leaf; empty for a lone one."""
    if spec.is_leaf():
        yield prefix
        return
    for key, child in zip(_keys(spec), children_of(spec), strict=True):
        yield from leaf_names(child, prefix + key)


def _keys(spec: Any) -> list[str]:
    """How each child is reached: as an entry where the type is a mapping, as an attribute where its
    context has the names of fields, else by its number."""
    count = len(children_of(spec))
    names = _context_names(spec.context, count)
    if spec.type is namedtuple:
        return [f".{name}" for name in spec.context._fields]
    if names is None:
        return [f"[{index}]" for index in range(count)]
    if issubclass(spec.type, Mapping):
        return [f"[{name!r}]" for name in names]
    return [f".{name}" for name in names]


def _context_names(context: Any, count: int) -> list[Any] | None:
    """The children's keys, where a context is a list of them, or a list with that list (pytree's
    for mappings with a default, and for dataclasses)."""
    if not isinstance(context, list | tuple):
        return None
    for candidate in (context, *context):
        is_list = isinstance(candidate, list | tuple) and len(candidate) == count > 0
        if (
            is_list
            and all(isinstance(key, str | int) for key in candidate)
            and len(set(candidate)) == count
        ):
            return list(candidate)
    return None


def shapes_like(spec: Any, leaves: Iterator[Any]) -> Any:
    """`leaves` in the form that torch.export wants for dynamic shapes: the structure itself for
    Python's own types, and a list of the children for any other, which need not be able to hold
    them."""
    if spec.is_leaf():
        return next(leaves)
    inner = [shapes_like(child, leaves) for child in children_of(spec)]
    if spec.type not in pytree.BUILTIN_TYPES:
        return inner
    return pytree.SUPPORTED_NODES[spec.type].unflatten_fn(inner, spec.context)


def give_keys(spec: Any) -> None:
    """Let torch name the parts of types that were registered without a function for keys, by
    number: of inputs it wants names, in the export as in the compile."""
    for node in _nodes(spec):
        known = pytree.SUPPORTED_NODES.get(node.type)
        if known is not None and known.flatten_with_keys_fn is None:
            pytree.SUPPORTED_NODES[node.type] = known._replace(
                flatten_with_keys_fn=_numbered(known.flatten_fn)
            )


def _numbered(flatten: Callable[[Any], tuple[list[Any], Any]]) -> Callable[[Any], Any]:
    def flatten_with_keys(value: Any) -> Any:
        children, context = flatten(value)
        return [(pytree.SequenceKey(index), child) for index, child in enumerate(children)], context

    return flatten_with_keys


def register_named_tuples(*specs: Any) -> None:
    """Give named tuples the name that a package needs; torch gives them none by itself."""
    for spec in specs:
        for node in _nodes(spec):
            if node.type is namedtuple:
                register_named_tuple(node.context)


def foreign_types(spec: Any) -> dict[str, type]:
    """Types in a structure that are neither Python's nor torch's, by the names that a package has
    for them."""
    found = {}
    for node in _nodes(spec):
        kind = node.context if node.type is namedtuple else node.type
        if kind.__module__.partition(".")[0] not in ("builtins", "collections", "torch"):
            found[_serialized_name(kind)] = kind
    return found


def _nodes(spec: Any) -> Iterator[Any]:
    if not spec.is_leaf():
        yield spec
        for child in children_of(spec):
            yield from _nodes(child)


def _serialized_name(kind: type) -> str:
    known = getattr(pytree, "SUPPORTED_SERIALIZED_TYPES", {}).get(kind)
    name = getattr(known, "serialized_type_name", None)
    return name if isinstance(name, str) else f"{kind.__module__}.{kind.__qualname__}"


def check_can_be_stored(spec: Any, what: str, where: str) -> None:
    """Raise `BuildError` for a structure that a package cannot hold, before anything is
    compiled."""
    try:
        pytree.treespec_dumps(spec)
    except (NotImplementedError, TypeError) as error:
        names = ", ".join(foreign_types(spec)) or "its types"
        raise BuildError(
            f"the structure of the {what} cannot be stored in a package",
            where=where,
            cause=f"{names}: {str(error).splitlines()[0]}",
            hint=(
                "register the type with a serialized_type_name (torch.export.register_dataclass"
                " does it by itself)"
            )
            + (", or set `outputs: dict` for the model" if what == "outputs" else ""),
        ) from error


def with_plain_outputs(module: nn.Module) -> nn.Module:
    """The module itself, whose calls from now on give dicts and lists in place of types of other
    libraries.

    By a class of its own, which a copy of the module has too; attributes and names of weights stay.
    A forward of this object alone, such as a method in its place, stays bound to what it is bound
    to.
    """
    own = vars(module).get("forward")
    if isinstance(own, MethodType):
        module.forward = MethodType(_plainly(own.__func__), own.__self__)
    elif own is not None:
        module.forward = _plainly(own)
    else:
        kind = type(module)
        module.__class__ = type(
            kind.__name__,
            (kind,),
            {"forward": _plainly(kind.forward), "__module__": kind.__module__},
        )
    return module


def _plainly(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def with_plain(*args: Any, **kwargs: Any) -> Any:
        return plain(function(*args, **kwargs))

    return with_plain


def plain(value: Any) -> Any:
    """Mappings, named tuples and dataclasses as dicts by key or field, other containers as tuples
    and lists."""
    if isinstance(value, Mapping):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return {name: plain(inner) for name, inner in zip(value._fields, value, strict=True)}
    if isinstance(value, tuple) and not isinstance(value, torch.Size):
        return tuple(map(plain, value))
    if isinstance(value, list):
        return list(map(plain, value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {part.name: plain(getattr(value, part.name)) for part in dataclasses.fields(value)}
    return _plain_node(value)


def _plain_node(value: Any) -> Any:
    """A value of a type that only pytree knows the parts of; any other as it is."""
    node = pytree.SUPPORTED_NODES.get(type(value))
    if node is None:
        return value
    children, context = node.flatten_fn(value)
    names = _context_names(context, len(children))
    parts = list(map(plain, children))
    return parts if names is None else dict(zip(names, parts, strict=True))
