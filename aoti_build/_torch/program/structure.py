"""The structures of arguments and outputs: names of their leaves, the types that pytree must be
able to handle, and the same structures without those types.

Names come from pytree's specs and not from `tree_flatten_with_path`. That function refuses types
that were registered without a function for keys, as those of diffusers are.
"""

from __future__ import annotations

import dataclasses
from collections import namedtuple
from collections.abc import Callable, Iterator, Mapping
from functools import wraps
from types import MethodType
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.utils import _pytree as pytree

from aoti_build.errors import BuildError
from aoti_build.runtime.imports import register_named_tuple

# pytree's functions that take a value of a type apart: into children and a context, and the same
# with a key for each child.
Flatten: TypeAlias = Callable[[Any], tuple[list[Any], Any]]
FlattenWithKeys: TypeAlias = Callable[[Any], tuple[list[tuple[Any, Any]], Any]]


def children_of(spec: Any) -> list[Any]:
    if hasattr(spec, "children"):
        return list(spec.children())
    return list(spec.children_specs)  # before torch 2.10


def leaf_names(spec: Any, prefix: str = "") -> Iterator[str]:
    """A path such as ``['logits']`` or ``[0].scores`` for each leaf; empty for a lone one."""
    if spec.is_leaf():
        yield prefix
        return
    for key, child in zip(_keys(spec), children_of(spec), strict=True):
        yield from leaf_names(child, prefix + key)


def _keys(spec: Any) -> list[str]:
    """How each child is reached.

    It is an entry if the type is a mapping, an attribute if the context has the names of fields,
    and a position otherwise.
    """
    if spec.type is namedtuple:
        return [f".{name}" for name in spec.context._fields]
    count = len(children_of(spec))
    names = _context_names(spec.context, count)
    if names is None:
        return [f"[{index}]" for index in range(count)]
    if issubclass(spec.type, Mapping):
        return [f"[{name!r}]" for name in names]
    return [f".{name}" for name in names]


def _context_names(context: Any, count: int) -> list[Any] | None:
    """The keys of `count` children, if the context has them.

    In torch/utils/_pytree.py the context of a dict is a list of keys. That of a defaultdict and
    that of a dataclass is a list with that list inside.
    """
    if not isinstance(context, list | tuple):
        return None
    for candidate in (context, *context):
        if isinstance(candidate, list | tuple) and _are_keys(candidate, count):
            return list(candidate)
    return None


def _are_keys(candidate: list[Any] | tuple[Any, ...], count: int) -> bool:
    """Whether these can be the keys of `count` children: texts or numbers, all different."""
    if count == 0 or len(candidate) != count:
        return False
    if not all(isinstance(key, str | int) for key in candidate):
        return False
    return len(set(candidate)) == count


def shapes_like(spec: Any, leaves: Iterator[Any]) -> Any:
    """`leaves` in the form that torch.export wants for dynamic shapes.

    That is the structure itself for Python's own types. For any other type it is a list of the
    children, because the type need not be able to hold shapes.
    """
    if spec.is_leaf():
        return next(leaves)
    children = [shapes_like(child, leaves) for child in children_of(spec)]
    if spec.type not in pytree.BUILTIN_TYPES:
        return children
    return pytree.SUPPORTED_NODES[spec.type].unflatten_fn(children, spec.context)


def add_missing_keys(spec: Any) -> None:
    """Number the children of types that were registered without a function for keys.

    torch.export and inductor call `tree_flatten_with_path` on the inputs. It raises for such types
    (torch/utils/_pytree.py, `flatten_with_keys_fn`).
    """
    for node in _nodes(spec):
        definition = pytree.SUPPORTED_NODES.get(node.type)
        if definition is not None and definition.flatten_with_keys_fn is None:
            numbered = _with_numbers(definition.flatten_fn)
            definition = definition._replace(flatten_with_keys_fn=numbered)
            pytree.SUPPORTED_NODES[node.type] = definition


def _with_numbers(flatten: Flatten) -> FlattenWithKeys:
    def flatten_with_keys(value: Any) -> tuple[list[tuple[Any, Any]], Any]:
        children, context = flatten(value)
        keyed: list[tuple[Any, Any]] = []
        for index, child in enumerate(children):
            keyed.append((pytree.SequenceKey(index), child))
        return keyed, context

    return flatten_with_keys


def register_named_tuples(*specs: Any) -> None:
    """Give named tuples the name that a package needs.

    torch/utils/_pytree.py takes named tuples apart without any registration, but cannot store their
    type without one.
    """
    for spec in specs:
        for node in _nodes(spec):
            if node.type is namedtuple:
                register_named_tuple(node.context)


def foreign_types(spec: Any) -> dict[str, type]:
    """Types in a structure that are neither Python's nor torch's, by the names that a package has
    for them."""
    types = {}
    for node in _nodes(spec):
        kind = node.context if node.type is namedtuple else node.type
        package = kind.__module__.partition(".")[0]
        if package not in ("builtins", "collections", "torch"):
            types[_serialized_name(kind)] = kind
    return types


def _nodes(spec: Any) -> Iterator[Any]:
    """The containers of a structure, outer ones first."""
    if not spec.is_leaf():
        yield spec
        for child in children_of(spec):
            yield from _nodes(child)


def _serialized_name(kind: type) -> str:
    definition = getattr(pytree, "SUPPORTED_SERIALIZED_TYPES", {}).get(kind)
    name = getattr(definition, "serialized_type_name", None)
    return name if isinstance(name, str) else f"{kind.__module__}.{kind.__qualname__}"


def check_can_be_stored(spec: Any, subject: str, where: str) -> None:
    """Raise `BuildError` for a structure that a package cannot hold, before anything is compiled.

    `subject` is ``inputs`` or ``outputs``.
    """
    try:
        pytree.treespec_dumps(spec)
    except (NotImplementedError, TypeError) as error:
        names = ", ".join(foreign_types(spec)) or "its types"
        hint = (
            "register the type with a serialized_type_name (torch.export.register_dataclass does it"
            " by itself)"
        )
        if subject == "outputs":
            hint += ", or set `outputs: dict` for the model"
        raise BuildError(
            f"the structure of the {subject} cannot be stored in a package",
            where=where,
            cause=f"{names}: {str(error).splitlines()[0]}",
            hint=hint,
        ) from error


def with_plain_outputs(module: nn.Module) -> nn.Module:
    """Let calls of `module` return dicts and lists in place of types of other libraries.

    Returns the module itself. It gets a class of its own, which a copy of the module has too, so
    attributes and names of weights stay. If this object alone has another forward, such as a method
    in its place, that one is replaced and stays bound to its object.
    """
    own_forward = vars(module).get("forward")
    if own_forward is None:
        kind = type(module)
        members = {"forward": _plainly(kind.forward), "__module__": kind.__module__}
        module.__class__ = type(kind.__name__, (kind,), members)
    elif isinstance(own_forward, MethodType):
        module.forward = MethodType(_plainly(own_forward.__func__), own_forward.__self__)
    else:
        module.forward = _plainly(own_forward)
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
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return {name: plain(entry) for name, entry in zip(value._fields, value, strict=True)}
    # To pytree torch.Size is a type of its own (`_plain_node`).
    if isinstance(value, tuple) and not isinstance(value, torch.Size):
        return tuple(plain(entry) for entry in value)
    if isinstance(value, list):
        return [plain(entry) for entry in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)
        }
    return _plain_node(value)


def _plain_node(value: Any) -> Any:
    """A value of a type of which only pytree has the parts; any other value unchanged."""
    node = pytree.SUPPORTED_NODES.get(type(value))
    if node is None:
        return value
    children, context = node.flatten_fn(value)
    parts = [plain(child) for child in children]
    names = _context_names(context, len(parts))
    if names is None:
        return parts
    return dict(zip(names, parts, strict=True))
