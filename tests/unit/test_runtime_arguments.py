"""What a model may be called with, without a model: tensors that have a shape, dtype and device and
nothing else."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from aoti_build.errors import InputError, UsageError
from aoti_build.runtime.arguments import Arguments
from aoti_build.runtime.leaves import Kinds, Parameter, parameter_names


@dataclass
class Fake:
    shape: tuple[int, ...]
    dtype: str = "float32"
    device: str = "cpu"
    contiguous_now: bool = True
    negated: bool = False
    address: int = 64
    is_nested: bool = False
    layout: str = "strided"

    def data_ptr(self) -> int:
        if self.address < 0:
            raise RuntimeError("Cannot access data pointer of Tensor that doesn't have storage")
        return self.address

    def numel(self) -> int:
        return math.prod(self.shape)

    def is_conj(self) -> bool:
        return False

    def is_neg(self) -> bool:
        return self.negated

    def resolve_conj(self) -> Fake:
        return self

    def resolve_neg(self) -> Fake:
        return Fake(self.shape, self.dtype, self.device)

    def is_contiguous(self) -> bool:
        return self.contiguous_now

    def contiguous(self) -> Fake:
        return Fake(self.shape, self.dtype, self.device)


def flatten_pair(value: Any) -> list[Any]:
    """Flattens a tuple of two leaves, as pytree does."""
    if not isinstance(value, tuple) or len(value) != 2:
        raise ValueError(f"expected a tuple of 2, got {value!r}")
    return list(value)


DIMS = {
    "batch": {"min": 1, "max": 8, "multiple_of": 1},
    "seq": {"min": 8, "max": 64, "multiple_of": 8},
}
NOTHING: dict[str, list[str]] = {"inputs": [], "buffers": []}
KINDS = Kinds(Fake, "cpu", lambda name: name)


def entry(name: str, shape: list[int | str], dtype: str = "float32") -> dict[str, Any]:
    return {"name": name, "dtype": dtype, "shape": shape}


def arguments(
    inputs: list[Mapping[str, Any]], parameters: list[Parameter], *, check: bool = True
) -> Arguments:
    return Arguments(
        "m/cpu",
        {"inputs": inputs, "outputs": [], "dims": DIMS, "mutates": NOTHING},
        parameters,
        KINDS,
        check,
    )


BY_POSITION = arguments(
    [entry("x", ["batch", 3]), entry("mask", ["batch", "seq"], "bool")],
    [Parameter("x", False), Parameter("mask", False)],
)
BY_KEYWORD = arguments(
    [entry("x", [2, 3]), entry("y", [2])],
    [Parameter("x", True), Parameter("y", True)],
)
NESTED = arguments(
    [
        entry("pair[0]", [2]),
        entry("pair[1]", ["batch"]),
        {"name": "scale", "constant": "2.0"},
        entry("z", ["batch"]),
    ],
    [Parameter("pair", False, 2, flatten_pair), Parameter("scale", False), Parameter("z", True)],
)
X, MASK = Fake((4, 3)), Fake((4, 16), "bool")


def test_by_position_by_keyword_and_mixed() -> None:
    assert BY_POSITION.flatten((X, MASK), {}) == [X, MASK]
    assert BY_POSITION.flatten((X,), {"mask": MASK}) == [X, MASK]
    assert BY_POSITION.flatten((), {"mask": MASK, "x": X}) == [X, MASK]
    one, other = Fake((2, 3)), Fake((2,))
    assert BY_KEYWORD.flatten((), {"y": other, "x": one}) == [one, other]


def test_structures_are_flattened_and_constants_may_be_left_out() -> None:
    pair, z = (Fake((2,)), Fake((5,))), Fake((5,))
    assert NESTED.flatten((pair,), {"z": z}) == [*pair, z]
    assert NESTED.flatten((pair, 2.0), {"z": z}) == [*pair, z]


@pytest.mark.parametrize("seen", [False, True], ids=["first", "later"])
@pytest.mark.parametrize("address", [0, -1], ids=["null", "none"])
def test_a_tensor_without_memory_is_refused(address: int, seen: bool) -> None:
    """Also at shapes that were right before, where less is compared."""
    fresh = arguments([entry("x", ["batch", 3])], [Parameter("x", False)])
    if seen:
        fresh.flatten((X,), {})
    with pytest.raises(InputError, match="input x: expected a tensor with memory of its own"):
        fresh.flatten((Fake((4, 3), address=address),), {})


def test_an_empty_tensor_needs_no_memory() -> None:
    empty = Fake((0, 3), address=0)
    assert arguments([entry("x", [0, 3])], [Parameter("x", False)]).flatten((empty,), {}) == [empty]


@pytest.mark.parametrize("sizes", [(1, 8), (8, 64), (3, 24)])
def test_every_size_in_the_range_is_taken(sizes: tuple[int, int]) -> None:
    batch, seq = sizes
    assert BY_POSITION.flatten((Fake((batch, 3)), Fake((batch, seq), "bool")), {})


@pytest.mark.parametrize(
    ("args", "kwargs", "said"),
    [
        (
            (Fake((9, 3)), MASK),
            {},
            ["input x: expected shape [batch, 3] with batch 1..8, given [9, 3]", "batch is 9"],
        ),
        ((Fake((0, 3)), MASK), {}, ["input x", "given [0, 3]"]),
        (
            (X, Fake((4, 12), "bool")),
            {},
            ["input mask", "seq 8..64 in steps of 8", "given [4, 12]", "seq is 12"],
        ),
        ((X, Fake((3, 16), "bool")), {}, ["input mask", "batch is 4 in x and 3 here"]),
        ((Fake((4, 5)), MASK), {}, ["input x: expected shape [batch, 3]", "given [4, 5]"]),
        ((Fake((4, 3, 1)), MASK), {}, ["input x", "given [4, 3, 1]"]),
        ((Fake((4, 3), "float64"), MASK), {}, ["input x: expected dtype float32, given float64"]),
        (
            (Fake((4, 3), device="cuda:0"), MASK),
            {},
            ["input x: expected a tensor on cpu, given one on cuda:0"],
        ),
        (([1.0], MASK), {}, ["input x: expected a tensor, float32 [batch, 3], given list"]),
        ((X,), {}, ["mask is missing", "model(x, mask)"]),
        ((X, MASK, X), {}, ["3 positional arguments"]),
        ((X,), {"x": X, "mask": MASK}, ["x was given twice"]),
        ((X,), {"maks": MASK}, ["there is no argument maks", "did you mean mask?"]),
    ],
)
def test_a_refusal_names_the_input_what_was_expected_and_what_was_given(
    args: tuple[Any, ...], kwargs: dict[str, Any], said: list[str]
) -> None:
    with pytest.raises(InputError) as caught:
        BY_POSITION.flatten(args, kwargs)
    assert all(words in str(caught.value) for words in said), str(caught.value)
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, UsageError)


@pytest.mark.parametrize(
    ("args", "kwargs", "said"),
    [
        (
            ((Fake((2,)), Fake((5,))), 3.0),
            {"z": Fake((5,))},
            "input scale: expected 2.0, which is compiled in, given 3",
        ),
        ((Fake((2,)),), {"z": Fake((5,))}, "pair has another structure"),
        (((Fake((2,)), Fake((5,))),), {"z": Fake((4,))}, "batch is 5 in pair[1] and 4 here"),
        (((Fake((2,)), Fake((5,))), 2.0, Fake((5,))), {}, "model(pair, scale, *, z)"),
    ],
)
def test_structures_and_constants_that_are_others(
    args: tuple[Any, ...], kwargs: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError) as caught:
        NESTED.flatten(args, kwargs)
    assert said in str(caught.value)


def test_strided_tensors_are_made_contiguous() -> None:
    x, _ = BY_POSITION.flatten((Fake((4, 3), contiguous_now=False), MASK), {})
    assert x.is_contiguous()


def test_marks_that_compiled_code_does_not_know_are_resolved() -> None:
    x, _ = BY_KEYWORD.flatten((), {"x": Fake((2, 3), negated=True), "y": Fake((2,))})
    assert not x.is_neg()


def test_what_the_model_writes_into_is_handed_on_as_it_is() -> None:
    """With all beside it, so that memory can be compared before copies are made."""
    signature = {
        "inputs": [{"name": "scale", "constant": "2.0"}, entry("x", [2, 3]), entry("state.h", [2])],
        "outputs": [],
        "dims": {},
    }
    parameters = [Parameter(name, False) for name in ("scale", "x", "state")]
    strided = Fake((2, 3), contiguous_now=False), Fake((2,), contiguous_now=False)
    mutates = {"inputs": ["state.h"], "buffers": ["x"]}
    told = Arguments("m/cpu", {**signature, "mutates": mutates}, parameters, KINDS)
    assert (told.written, told.tensor_names) == ([1], ["x", "state.h"])
    x, state = told.flatten((2.0, *strided), {})
    assert (x, state) == strided
    silent = Arguments("m/cpu", {**signature, "mutates": NOTHING}, parameters, KINDS)
    assert silent.written == []
    assert all(value.is_contiguous() for value in silent.flatten((2.0, *strided), {}))


def test_a_memory_format_is_handed_on_with_tensors_as_they_are() -> None:
    """What has to be copied is decided by `WrittenInputs`, which knows torch."""
    image = {**entry("image", [2, 3, 4, 5]), "memory_format": "channels_last"}
    parameters = [Parameter("scale", False), Parameter("x", False), Parameter("image", False)]
    constant = {"name": "scale", "constant": "2.0"}
    told = arguments([constant, entry("x", [2, 3]), image], parameters)
    assert told.memory_formats == [None, "channels_last"]
    strided = [Fake((2, 3), contiguous_now=False), Fake((2, 3, 4, 5), contiguous_now=False)]
    assert told.flatten((2.0, *strided), {}) == strided


@pytest.mark.parametrize(
    ("shape", "name"),
    [
        (["batch", 1, 4, 5], "contiguous"),
        (["batch", 3, 1, 1], "contiguous"),
        (["batch", "batch", 4, 5], "contiguous"),
        (["batch", "seq", "batch", "2*batch - 1"], "contiguous"),
        (["batch", 3, 4, 5, "batch"], None),
        (["batch", 3, 4, "batch"], None),
        ([1, 3, 4, 5], None),
        ([1, 1, 5], None),
        ([1, 1], None),
    ],
)
def test_what_could_be_in_two_formats_is_looked_at(
    shape: list[int | str], name: str | None
) -> None:
    """Others are called without that."""
    assert arguments([entry("x", shape)], [Parameter("x", False)]).memory_formats == [name]


def test_unverified_inputs_are_bound_and_nothing_more() -> None:
    loose = arguments([entry("x", [2, 3])], [Parameter("x", False)], check=False)
    wrong = Fake((9,), "int8")
    assert loose.flatten((wrong,), {}) == [wrong]
    with pytest.raises(InputError, match="x is missing"):
        loose.flatten((), {})


def test_names_of_positional_parameters_come_from_their_leaves() -> None:
    signature = {
        "inputs": [entry("pair[0]", []), entry("pair[1]", []), entry("state.h", []), entry("x", [])]
    }
    assert parameter_names(signature, [2, 0, 1, 1]) == ["pair", "argument_1", "state", "x"]


FOLLOWING = Arguments(
    "m/cpu",
    {
        "inputs": [
            entry("mask", ["batch", "past + seq"]),
            entry("x", ["batch", "seq", 3]),
            entry("wide", ["3*past + 1"]),
            entry("half", ["seq//8"]),
        ],
        "outputs": [],
        "dims": {**DIMS, "past": {"min": 2, "max": 9, "multiple_of": 1}},
        "mutates": NOTHING,
    },
    [Parameter(name, True) for name in ("mask", "x", "wide", "half")],
    KINDS,
)


def following(**changed: tuple[int, ...]) -> dict[str, Fake]:
    """A call with batch 4, seq 16 and past 5, but for some shapes."""
    shapes = {"mask": (4, 21), "x": (4, 16, 3), "wide": (16,), "half": (2,), **changed}
    return {name: Fake(shape) for name, shape in shapes.items()}


def test_sizes_that_follow_dims_are_taken_whichever_input_tells_the_dim() -> None:
    assert len(FOLLOWING.flatten((), following())) == 4
    assert FOLLOWING.flatten((), following(mask=(4, 66), x=(4, 64, 3), wide=(7,), half=(8,)))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (
            {"mask": (4, 22)},
            [
                (
                    "input mask: expected shape [batch, past + seq] with batch 1..8, past 2..9, seq"
                    " 8..64 in"
                )
            ],
        ),
        (
            {"mask": (4, 22)},
            ["past is 5 in wide and seq is 16 in x, so that past + seq is 21 and not 22"],
        ),
        ({"half": (3,)}, ["input half", "seq is 16 in x, so that seq//8 is 2 and not 3"]),
        ({"wide": (17,)}, ["input wide", "there is no past for which 3*past + 1 is 17"]),
        ({"wide": (31,), "mask": (4, 26)}, ["input wide", "past is 10, since 3*past + 1 is 31"]),
        ({"wide": (4,), "mask": (4, 17)}, ["input wide", "past is 1, since 3*past + 1 is 4"]),
        ({"mask": (4, 21, 1)}, ["input mask", "given [4, 21, 1]"]),
        ({"x": (4, 17, 3)}, ["input x", "seq is 17"]),
    ],
)
def test_a_size_that_does_not_follow_its_dims_is_refused(
    changed: dict[str, Any], said: list[str]
) -> None:
    with pytest.raises(InputError) as caught:
        FOLLOWING.flatten((), following(**changed))
    assert all(words in str(caught.value) for words in said), str(caught.value)


def test_a_dim_that_one_size_tells_alone_has_its_range_and_step() -> None:
    alone = arguments([entry("x", ["seq + 1"])], [Parameter("x", False)])
    assert alone.flatten((Fake((17,)),), {})
    for size in (1, 8, 16, 18, 73):
        with pytest.raises(InputError, match=f"seq is {size - 1}, since"):
            alone.flatten((Fake((size,)),), {})
