"""JSON is read as every reader would read it, and by type; or not at all."""

from __future__ import annotations

import gc
import json
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aoti_build.common import fields


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        '{"a": 1, "a": 2}',
        '[{"b": {"a": 1, "a": 1}}]',
        "NaN",
        "[Infinity]",
        "[-Infinity]",
        "1e999",
        '"\\ud800"',
        '{"\\ud83d": 1}',
        "[" * 300 + "]" * 300,
        '{"a":' * 300 + "1" + "}" * 300,
        "[" * 100_000,
        "9" * 5000,
    ],
    ids=[
        "empty",
        "cut short",
        "a key twice",
        "a key twice deep inside",
        "not a number",
        "infinity",
        "minus infinity",
        "too large",
        "half of a surrogate pair",
        "half of a surrogate pair as a key",
        "deep lists",
        "deep objects",
        "very deep lists",
        "many digits",
    ],
)
def test_what_readers_disagree_on_or_few_expect_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        fields.loads(text)


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=9,
    )
)
def test_all_else_is_read_as_it_is(value: Any) -> None:
    assert repr(fields.loads(json.dumps(value))) == repr(json.loads(json.dumps(value)))


def test_a_name_of_a_file_that_is_no_utf8_is_kept() -> None:
    assert fields.loads('"\\udcff.txt"') == "\udcff.txt"


def point() -> fields.Reader:
    return fields.table({"x": fields.integer()}, {"label": fields.text})


# Readers are made when a test runs: mutmut changes nothing that was made on import.
@pytest.mark.parametrize(
    ("make", "right", "wrong"),
    [
        (
            lambda: fields.text,
            ["", "a", "a\nb"],
            ["a\0b", 1, None, b"a", ["a"], "x" * (fields.MAX_TEXT + 1)],
        ),
        (
            lambda: fields.digest,
            ["0" * 64],
            ["0" * 63, "A" * 64, "0" * 64 + "\n", "../" * 21 + "x", 0, None],
        ),
        (lambda: fields.flag, [True, False], [1, 0, None, "true"]),
        (
            lambda: fields.number,
            [0, -1, 0.5, 1e308],
            [True, None, "1", 10**400, float("nan"), float("inf")],
        ),
        (lambda: fields.integer(1, 3), [1, 3], [0, 4, True, 1.0, "1", None, 10**400]),
        (lambda: fields.one_of(True, None), [True, None], [1, False, "x", [], {}]),
        (lambda: fields.matching("[a-c]+", 4), ["abc"], ["", "abd", "abc\n", "aaaaa", 1, None]),
        (lambda: fields.or_none(fields.digest), [None, "0" * 64], ["", 0]),
        (lambda: fields.either(fields.integer(), fields.text), [1, "a"], [None, 1.5, True, []]),
        (
            lambda: fields.list_of(fields.flag, 1, 2),
            [[True], [True, False]],
            [[], [True] * 3, [1], {}, None, "ab"],
        ),
        (
            lambda: fields.table_of(fields.digest, fields.flag),
            [{}, {"0" * 64: True}],
            [{"x": True}, {"0" * 64: 1}, []],
        ),
        (
            point,
            [{"x": 1}, {"x": 1, "label": "a", "more": []}],
            [{}, {"x": "1"}, {"x": 1, "label": 2}, [], None],
        ),
    ],
)
def test_a_reader_takes_its_type_and_nothing_else(
    make: Callable[[], fields.Reader], right: list[Any], wrong: list[Any]
) -> None:
    reader = make()
    for value in right:
        reader(value)
    for value in wrong:
        with pytest.raises(ValueError, match=r"."):
            reader(value)


def test_the_place_is_said() -> None:
    reader = fields.table({"points": fields.list_of(point())})
    with pytest.raises(ValueError, match=r"points \[1\] x is not an integer"):
        reader({"points": [{"x": 1}, {"x": None}]})


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({}, "lacks x"),
        ({"x": 1, "label": 2}, "label is not a text"),
        ({"x": True}, "x is not an integer from 0"),
    ],
)
def test_the_field_is_said(value: object, said: str) -> None:
    with pytest.raises(ValueError, match=f"^{said}"):
        point()(value)


def test_the_entry_of_a_table_is_said_and_a_long_name_is_cut() -> None:
    with pytest.raises(ValueError, match=f"^'{'x' * 40}' is neither true nor false$"):
        fields.table_of(fields.anything, fields.flag)({"a": True, "x" * 50: 1})


def test_of_several_readers_the_last_says_the_problem() -> None:
    with pytest.raises(ValueError, match=r"^is not a digest$"):
        fields.either(fields.text, fields.digest)(3)


@pytest.mark.parametrize("name", ["os", "torch.nn.functional", "größe"])
def test_names_of_modules(name: str) -> None:
    fields.module_name(name)


@pytest.mark.parametrize(
    "name", ["", ".os", "os.", "a b", "a.class", "1a", "a-b", "a." * 150 + "a", None, 3]
)
def test_what_no_module_is_called(name: object) -> None:
    with pytest.raises(ValueError, match="is not a"):
        fields.module_name(name)


@pytest.mark.parametrize("name", ["a", "resnet18", "a.b-c_d", "A-", "cpu-avx2-max"])
def test_names_of_directories(name: str) -> None:
    assert fields.is_name(name)


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../a", "a/b", "/a", "a.", ".a", "-a", "a\0", "a\n", "ä", "x" * 300, None],
)
def test_what_no_directory_of_ours_is_called(name: Any) -> None:
    assert not fields.is_name(name)


def test_a_value_of_another_kind_leaves_no_cycle() -> None:
    """A kept error would keep the caller's frame, and what it has loaded, until the next
    collection."""

    class Held:
        pass

    def reads() -> weakref.ref[Held]:
        held = Held()
        fields.either(fields.text, fields.integer())(3)
        return weakref.ref(held)

    gc.disable()
    try:
        assert reads()() is None
    finally:
        gc.enable()
