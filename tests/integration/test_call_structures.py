"""Structures of calls: what the prepared functions do is what torch's pytree does."""

from __future__ import annotations

import collections
import dataclasses
import threading
import typing
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils import _pytree as pytree

from aoti_build.runtime.gate import Gate
from aoti_build.runtime.structures import exported_parameters, output_restorer


@dataclasses.dataclass
class Both(collections.OrderedDict):  # type: ignore[type-arg]
    """As an output of transformers: its values are items and attributes."""

    first: Any = None
    second: Any = None
    third: Any = None

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is not None:
                super().__setitem__(field.name, value)

    def __setitem__(self, key: Any, value: Any) -> None:
        raise TypeError("not by item")


class Counted(collections.OrderedDict):  # type: ignore[type-arg]
    """Its attribute is neither an item nor None, so it cannot be copied from an example."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.made = object()


class Pair(typing.NamedTuple):
    left: Any
    right: Any


@dataclasses.dataclass
class Plain:
    value: Any


def _register(kind: type) -> None:
    def flatten(value: Any) -> tuple[list[Any], Any]:
        return list(value.values()), list(value.keys())

    def unflatten(values: Any, names: Any) -> Any:
        return kind(**dict(zip(names, values, strict=True)))

    pytree.register_pytree_node(kind, flatten, unflatten, serialized_type_name=kind.__name__)


_register(Both)
_register(Counted)
pytree.register_dataclass(Plain)


def _named(children: Any) -> Any:
    return st.dictionaries(st.sampled_from(["first", "second", "third"]), children, min_size=1)


STRUCTURES = st.recursive(
    st.builds(lambda: torch.zeros(1)),
    lambda children: st.one_of(
        st.lists(children, max_size=3),
        st.lists(children, max_size=3).map(tuple),
        st.dictionaries(st.sampled_from(["a", "b", "c"]), children, max_size=3),
        st.lists(children, min_size=1, max_size=2).map(collections.deque),
        _named(children).map(collections.OrderedDict),
        _named(children).map(lambda values: Both(**values)),
        _named(children).map(lambda values: Counted(**values)),
        st.builds(Pair, children, children),
        st.builds(Plain, children),
    ),
    max_leaves=8,
)


def same(one: Any, other: Any) -> bool:
    """Whether two values have the same types and the same tensors, in the same order."""
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        return one is other
    if isinstance(one, Both):
        attributes = [getattr(one, name) for name in ("first", "second", "third")]
        others = [getattr(other, name) for name in ("first", "second", "third")]
        if not all(same(a, b) for a, b in zip(attributes, others, strict=True)):
            return False
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if dataclasses.is_dataclass(one):
        return same(vars(one), vars(other))
    if isinstance(one, list | tuple | collections.deque):
        return len(one) == len(other) and all(map(same, one, other))
    return one is other


@given(STRUCTURES)
@settings(deadline=None)
def test_results_are_restored_as_pytree_does(value: Any) -> None:
    leaves, spec = pytree.tree_flatten(value)
    entries = [{"name": str(index)} for index in range(len(leaves))]
    outputs = [torch.zeros(1) for _ in leaves]
    if not leaves:
        return
    restored = output_restorer(spec, entries)(outputs)
    assert same(restored, pytree.tree_unflatten(outputs, spec))
    again = [torch.zeros(1) for _ in leaves]
    assert same(output_restorer(spec, entries)(again), pytree.tree_unflatten(again, spec))


def test_a_restored_output_of_transformers_is_a_real_one() -> None:
    leaves, spec = pytree.tree_flatten(Both(first=torch.zeros(1), third=torch.ones(1)))
    restored = output_restorer(spec, [{"name": "first"}, {"name": "third"}])(leaves)
    assert isinstance(restored, Both)
    assert list(restored) == ["first", "third"]
    assert restored.second is None
    assert restored.third is restored["third"]
    with pytest.raises(TypeError, match="not by item"):
        restored["first"] = 1


def test_numbers_and_constants_are_put_in() -> None:
    leaves, spec = pytree.tree_flatten(Both(first=torch.zeros(1), second=3, third="text"))
    entries = [{"name": "first"}, {"name": "second", "number": True}, {"name": "third"}]
    entries[2]["constant"] = "'text'"
    restored = output_restorer(spec, entries)([leaves[0], torch.tensor(3), None])
    assert (restored.second, restored["third"]) == (3, "text")


@given(STRUCTURES, STRUCTURES)
@settings(deadline=None)
def test_arguments_are_flattened_as_pytree_does(value: Any, other: Any) -> None:
    leaves, spec = pytree.tree_flatten(((value,), {}))
    entries = [{"name": f"value[{index}]"} for index in range(len(leaves))]
    (parameter,) = exported_parameters(spec, {"inputs": entries})
    if parameter.flatten is None:
        return
    assert all(map(same, parameter.flatten(value), leaves))
    argument_spec = pytree.tree_structure(value)
    ours, theirs = (
        outcome(flatten, other) for flatten in (parameter.flatten, argument_spec.flatten_up_to)
    )
    if isinstance(ours, str) or isinstance(theirs, str):
        assert ours == theirs
    else:
        assert all(map(same, ours, theirs))


def outcome(flatten: Any, value: Any) -> Any:
    """The leaves, or the text of the error."""
    try:
        return flatten(value)
    except ValueError as error:
        return str(error)


def test_a_dict_of_another_kind_is_accepted() -> None:
    _, spec = pytree.tree_flatten((({"a": 1, "b": [2]},), {}))
    entries = [{"name": "value[a]"}, {"name": "value[b][0]"}]
    (parameter,) = exported_parameters(spec, {"inputs": entries})
    assert parameter.flatten is not None
    other = collections.OrderedDict([("b", [4]), ("a", 3)])
    assert parameter.flatten(other) == parameter.flatten({"b": [4], "a": 3}) == [3, 4]


def test_an_exclusive_operation_runs_alone() -> None:
    """Calls of many threads, and operations that must not see one: neither meets the other, and
    nobody waits for ever."""
    gate = Gate()
    state = {"calls": 0, "alone": 0}
    lock = threading.Lock()
    wrong: list[str] = []

    def call() -> None:
        for _ in range(2000):
            gate.enter(threading.get_ident())
            with lock:
                state["calls"] += 1
                if state["alone"]:
                    wrong.append("a call during an exclusive operation")
            with lock:
                state["calls"] -= 1
            gate.leave(threading.get_ident())

    def operate() -> None:
        for _ in range(200):
            with gate.alone():
                state["alone"] += 1
                if state["calls"] or state["alone"] > 1:
                    wrong.append("not alone")
                state["alone"] -= 1

    threads = [threading.Thread(target=call) for _ in range(4)]
    threads += [threading.Thread(target=operate) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert not wrong
