"""Key parts: every change changes the key and is named, nothing else does and is."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from aoti_build.artifact.fingerprint import Fingerprint, spec_parts
from aoti_build.artifact.reasons import REASON_OF_GROUP, Reason
from aoti_build.models_file import Dim, Model, Source, Target, TensorInput
from aoti_build.models_file.project import Weights

VALUES = st.text(max_size=6) | st.integers(-9, 9) | st.lists(st.integers(2, 9), max_size=3)
ALIKE = st.sampled_from(
    [
        None,
        0,
        0.0,
        -0.0,
        False,
        "",
        [],
        1,
        1.0,
        True,
        "1",
        [1],
        [1.0],
        [True],
        {"a": 1},
        {"a": True},
    ]
)
TEXTS = st.text(min_size=1, max_size=6)
NAMES = st.sampled_from(["model.py", "helper.py", "torch", "seed", "a.b", "ä"])
PARTS = st.fixed_dictionaries(
    {group: st.dictionaries(NAMES, VALUES, max_size=3) for group in REASON_OF_GROUP}
)


@given(PARTS, st.sampled_from(sorted(REASON_OF_GROUP)), NAMES, TEXTS)
def test_any_single_change_changes_the_key_and_is_named(
    parts: dict[str, dict[str, Any]], group: str, name: str, value: str
) -> None:
    old = parts[group].get(name)
    assume(old != value)
    changed = {**parts, group: {**parts[group], name: value}}
    before, after = Fingerprint(parts), Fingerprint(changed)
    assert before.key != after.key
    assert list(after.differences(parts)) == [Reason(REASON_OF_GROUP[group], name, old, value)]
    assert list(before.differences(changed)) == [Reason(REASON_OF_GROUP[group], name, value, old)]


@given(PARTS)
def test_order_is_irrelevant(parts: dict[str, dict[str, Any]]) -> None:
    turned = {group: dict(reversed(table.items())) for group, table in reversed(parts.items())}
    assert Fingerprint(turned).key == Fingerprint(parts).key
    assert list(Fingerprint(turned).differences(parts)) == []


@given(PARTS)
def test_parts_that_went_through_json_are_the_same(parts: dict[str, dict[str, Any]]) -> None:
    read = json.loads(json.dumps(parts))
    assert Fingerprint(read).key == Fingerprint(parts).key
    assert list(Fingerprint(parts).differences(read)) == []


@given(PARTS, PARTS)
def test_differences_name_exactly_what_differs(
    one: dict[str, dict[str, Any]], other: dict[str, dict[str, Any]]
) -> None:
    found = {(reason.reason, reason.what) for reason in Fingerprint(one).differences(other)}
    expected = {
        (REASON_OF_GROUP[group], name)
        for group in REASON_OF_GROUP
        for name in {*one[group], *other[group]}
        if one[group].get(name) != other[group].get(name)
    }
    assert found == expected
    assert found == {(reason.reason, reason.what) for reason in Fingerprint(other).differences(one)}


@given(st.dictionaries(NAMES, ALIKE, max_size=2), st.dictionaries(NAMES, ALIKE, max_size=2))
def test_what_gives_another_key_is_named_and_nothing_else(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    """Also where Python takes two values for equal."""
    before, after = Fingerprint({"spec": one}), Fingerprint({"spec": other})
    assert (list(after.differences(before.parts)) == []) is (before.key == after.key)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (1, True),
        (1, 1.0),
        (1.0, True),
        (0, False),
        (0.0, -0.0),
        ([1], [1.0]),
        ({"a": 1}, {"a": True}),
        (None, 0),
    ],
    ids=repr,
)
def test_values_that_python_takes_for_equal_are_different(old: object, new: object) -> None:
    (reason,) = Fingerprint({"spec": {"kwargs.x": new}}).differences({"spec": {"kwargs.x": old}})
    assert (reason.reason, reason.what, repr(reason.old), repr(reason.new)) == (
        "spec-changed", "kwargs.x", repr(old), repr(new),
    )  # fmt: skip


def test_null_is_not_absent() -> None:
    given_null, absent = Fingerprint({"spec": {"kwargs.x": None}}), Fingerprint({"spec": {}})
    assert [reason.what for reason in given_null.differences(absent.parts)] == ["kwargs.x"]
    assert [reason.what for reason in absent.differences(given_null.parts)] == ["kwargs.x"]


def test_the_same_name_in_another_group_is_another_part() -> None:
    assert Fingerprint({"spec": {"a": 1}}).key != Fingerprint({"config": {"a": 1}}).key


def test_an_absent_group_of_an_older_record_is_a_difference_of_all_its_parts() -> None:
    reasons = list(Fingerprint({"toolchain": {"torch": "2"}}).differences({}))
    assert reasons == [Reason("toolchain-changed", "torch", None, "2")]


MODEL = Model(
    "m",
    Source("build", path="model.py"),
    (TensorInput((2, "batch"), "float32"),),
    {"width": 4},
    dims=(Dim("batch", 1, 8, 4),),
)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"seed": 1}, "seed"),
        ({"kwargs": {"width": 5}}, "kwargs.width"),
        ({"kwargs": {"width": [4]}}, "kwargs.width"),
        ({"kwargs": {"width": 4, "depth": 1}}, "kwargs.depth"),
        ({"source": Source("other", path="model.py")}, "source"),
        ({"source": Source("build", path="other.py")}, "source"),
        ({"weights": Weights("w.safetensors")}, "weights"),
        ({"weights": Weights("w.pt", key="model")}, "weights.key"),
        ({"weights": Weights("w.pt", prefix="net.")}, "weights.prefix"),
        ({"weights": Weights("w.pt", rename=(("a.", "b."),))}, "weights.rename"),
        ({"weights": Weights("w.pt", ignore=("a.*",))}, "weights.ignore"),
        ({"method": "encode"}, "method"),
        ({"strict": True}, "strict"),
        ({"dims": (Dim("batch", 1, 9, 4),)}, "dims.batch.max"),
        ({"dims": (Dim("batch", 2, 8, 4),)}, "dims.batch.min"),
        ({"dims": (Dim("batch", 1, 8, 2),)}, "dims.batch.example"),
        ({"dims": (Dim("batch", 1, 8, 4, 2),)}, "dims.batch.multiple_of"),
        ({"inputs": (TensorInput((2, "batch"), "float64"),)}, "inputs.0.dtype"),
        ({"inputs": (TensorInput((3, "batch"), "float32"),)}, "inputs.0.shape"),
        ({"inputs": (TensorInput((2, "batch"), "float32", low=1.5),)}, "inputs.0.low"),
        ({"inputs": Source("inputs", path="model.py")}, "inputs"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_field_of_a_model_is_a_part(change: dict[str, Any], name: str) -> None:
    before = spec_parts(Target(MODEL, "cpu"))
    after = spec_parts(Target(replace(MODEL, **change), "cpu"))
    assert name in {
        reason.what for reason in Fingerprint({"spec": after}).differences({"spec": before})
    }


def test_an_architecture_is_a_part_of_its_own_device_alone() -> None:
    assert spec_parts(Target(MODEL, "cpu"))["cpu.isa"] == "native"
    assert spec_parts(Target(MODEL, "cpu", architecture="avx2", listed=True))["cpu.isa"] == "avx2"
    native, named = (
        spec_parts(Target(MODEL, "cuda")),
        spec_parts(Target(MODEL, "cuda", architecture="sm_80")),
    )
    assert native["cuda.arch"] == "native"
    assert named == {**native, "cuda.arch": "sm_80"}
    assert not any(name.startswith("cpu.") for name in named)


def test_whether_an_architecture_is_listed_is_a_matter_of_names() -> None:
    assert spec_parts(Target(MODEL, "cpu", architecture="avx2", listed=True)) == spec_parts(
        Target(MODEL, "cpu", architecture="avx2")
    )


def test_an_input_by_position_is_not_the_same_by_keyword() -> None:
    named = replace(MODEL, inputs=(replace(MODEL.inputs[0], name="x"),))  # type: ignore[index, type-var]
    assert spec_parts(Target(named, "cpu")) != spec_parts(Target(MODEL, "cpu"))


def test_reasons_read_well() -> None:
    digest = "0123456789ab" + "0" * 52
    assert str(Reason("no-artifact")) == "no-artifact"
    assert (
        str(Reason("artifact-damaged", "no manifest.json")) == "artifact-damaged: no manifest.json"
    )
    assert (
        str(Reason("source-changed", "model.py", digest, None))
        == "source-changed: model.py 0123456789ab -> (none)"
    )
    assert str(Reason("spec-changed", "seed", 0, 1)) == "spec-changed: seed 0 -> 1"


def test_the_tolerance_is_no_part_of_what_an_artifact_is() -> None:
    assert not any("tol" in name for name in spec_parts(Target(MODEL, "cpu")))
