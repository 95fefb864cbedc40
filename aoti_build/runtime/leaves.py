"""The parameters that an artifact was exported with and their leaves, from its signature.

A call is flattened into leaves: tensors and compiled-in constants. A `Leaf` has what the signature
says about one of them, prepared for the comparison that runs at every call. No torch is imported
here; `Kinds` passes in its types.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from aoti_build.common.memory_formats import CONTIGUOUS, may_have_two_formats
from aoti_build.common.sizes import Size, parse, solution_order

# The `signature` of a manifest.
Signature: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True)
class Parameter:
    """One parameter of the exported call, which has `leaves` leaves.

    `flatten` turns its argument into leaves, and raises ValueError for another structure. None if
    the argument is a leaf itself.
    """

    name: str
    keyword: bool
    leaves: int = 1
    flatten: Callable[[Any], list[Any]] | None = None


@dataclass(frozen=True)
class Kinds:
    """The type of tensors, the device that all must be on, and a dtype by its name."""

    tensor: type
    device: Any
    dtype: Callable[[str], Any]


@dataclass(frozen=True)
class Leaf:
    """One leaf of a call: a constant, by its repr, or a tensor.

    `exact` is the shape of a tensor without dims. With dims it is None, and each axis is in one of
    `fixed` (its size), `dynamic` (the name of a dim) and `following` (an expression of dims).
    `memory_format` is None for a contiguous tensor that can have no other format.
    """

    name: str
    constant: str | None = None
    dtype: Any = None
    shape: tuple[Any, ...] = ()
    exact: tuple[int, ...] | None = None
    fixed: tuple[tuple[int, int], ...] = ()
    dynamic: tuple[tuple[int, str], ...] = ()
    following: tuple[tuple[int, Size], ...] = ()
    written: bool = False
    memory_format: str | None = None


@dataclass(frozen=True)
class FollowingSize:
    """Axis `axis` of the tensor at `position` has the size `size`, an expression of dims.

    `solves` is the dim that is computed from it, or None if all its dims are known before.
    """

    position: int
    leaf: Leaf
    axis: int
    size: Size
    solves: str | None


class _Axis(NamedTuple):
    position: int
    axis: int
    size: Size


def has_memory(value: Any) -> bool:
    """Whether the values of a tensor lie in memory that compiled code can read.

    False for sparse, nested and mkldnn tensors, for those that stand for others (fake ones,
    wrappers, those inside of torch.func), and for those whose memory was freed.
    """
    try:
        has_address = bool(value.data_ptr()) or not value.numel()
    except (RuntimeError, ValueError):  # torch's way to say that there is no address
        return False
    return has_address and not value.is_nested


def leaf_of(
    entry: Mapping[str, Any],
    dims: Mapping[str, Any],
    kinds: Kinds,
    written: frozenset[str],
) -> Leaf:
    """The leaf of an entry in the signature's inputs; `written` names the inputs written into."""
    name = entry["name"]
    if "constant" in entry:
        return Leaf(name, constant=entry["constant"])
    shape = tuple(entry["shape"])
    fixed = []
    dynamic = []
    following = []
    for axis, size in enumerate(shape):
        if isinstance(size, int):
            fixed.append((axis, size))
        elif size in dims:
            dynamic.append((axis, size))
        else:
            following.append((axis, parse(size)))
    is_exact = len(fixed) == len(shape)
    return Leaf(
        name,
        dtype=kinds.dtype(entry["dtype"]),
        shape=shape,
        exact=shape if is_exact else None,
        fixed=tuple(fixed),
        dynamic=tuple(dynamic),
        following=tuple(following),
        written=name in written,
        memory_format=_memory_format(entry, dims),
    )


def _memory_format(entry: Mapping[str, Any], dims: Mapping[str, Any]) -> str | None:
    if "memory_format" in entry:
        return str(entry["memory_format"])
    ranges = {name: (dim["min"], dim["max"]) for name, dim in dims.items()}
    smallest = []
    for size in entry["shape"]:
        low = size
        if isinstance(size, str):
            low, _ = parse(size).bounds(ranges)
        smallest.append(low)
    # torch also looks at the strides of a contiguous tensor if it could have another format.
    return CONTIGUOUS if may_have_two_formats(smallest) else None


def following_sizes(tensors: Sequence[Leaf]) -> Iterator[FollowingSize]:
    """The sizes that are expressions of dims, each after the sizes that give it its dims."""
    axes = []
    # Plain dims are included, because the expressions are solved with their values.
    for position, leaf in enumerate(tensors):
        for axis, name in leaf.dynamic:
            axes.append(_Axis(position, axis, parse(name)))
        for axis, size in leaf.following:
            axes.append(_Axis(position, axis, size))
    for index, solves in solution_order([entry.size for entry in axes]):
        position, axis, size = axes[index]
        if size.plain is None:
            yield FollowingSize(
                position=position,
                leaf=tensors[position],
                axis=axis,
                size=size,
                solves=solves,
            )


def dims_of(leaf: Leaf) -> list[str]:
    """The names of the dims in a leaf's shape, in their order and each once."""
    names: list[str] = []
    for size in leaf.shape:
        if isinstance(size, str):
            names += parse(size).names
    return list(dict.fromkeys(names))


def parameter_names(signature: Signature, leaves: Sequence[int]) -> list[str]:
    """The name of each positional parameter, from that of its first leaf (``pair[0]`` -> ``pair``).

    `leaves` counts the leaves of each. A parameter without any, such as an empty list, is not in
    the signature, so it gets a number.
    """
    names = []
    start = 0
    for index, count in enumerate(leaves):
        leaf_name = f"argument_{index}"
        if count:
            leaf_name = signature["inputs"][start]["name"]
        # `pair[0]` and `config.size` are leaves of `pair` and `config`.
        names.append(re.split(r"[\[.]", leaf_name, maxsplit=1)[0])
        start += count
    return names


def written_weights(signature: Signature) -> frozenset[str]:
    """The weights that a call may write into: none without state.

    With state all buffers and constants count, and parameters that are tied to the state.
    """
    state = state_names(signature)
    if not state:
        return frozenset()
    owners = {entry["name"]: entry.get("tied_to", entry["name"]) for entry in signature["weights"]}
    owners_of_state = {owners.get(name, name) for name in state}
    written = set(state)
    for entry in signature["weights"]:
        is_tied = owners[entry["name"]] in owners_of_state
        if entry["kind"] != "parameter" or entry.get("view") or is_tied:
            written.add(entry["name"])
    return frozenset(written)


def state_names(signature: Signature) -> tuple[str, ...]:
    """The buffers that a call writes into, so that it changes the results of later calls."""
    return tuple(signature["mutates"]["buffers"])
