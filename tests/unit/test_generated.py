"""What generated C++ says of a model."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packages import KERNEL_TEXT, WRAPPER_TEXT

from aoti_build.artifact.pt2.call_names import argument_names, result_names
from aoti_build.artifact.pt2.generated import Constant, Tensor, read_generated


def test_the_facts_in_a_wrapper() -> None:
    found = read_generated(WRAPPER_TEXT, KERNEL_TEXT)
    assert found.inputs == (
        Tensor("args[0]", "float32", ("s31", 8)),
        Tensor("mask", "bool", ("s31",)),
    )
    assert found.outputs == (Tensor("output"),)
    assert found.dims == {"s31": {"min": 2, "max": 16}}
    assert found.constants == (
        Constant("a.weight", "float32", (12, 8), 384, folded=False),
        Constant("_FOLDED_CONST_1", "int64", (), 8, folded=True),
    )
    assert found.kernels == ("cpp_fused_relu_0",)
    assert found.operators == ("addmm_out",)
    assert found.march == ("native",)


def test_an_alias_of_a_symbol_to_itself_is_none() -> None:
    alias = "int64_t s31 = s0;\nint64_t s31 = s31;\n"
    assert read_generated(WRAPPER_TEXT + alias, KERNEL_TEXT).inputs[0].shape == ("s0", 8)


def test_functions_loaded_from_gpu_binaries() -> None:
    text = (
        'kernels_.triton_poi_fused_0 = loadKernel("a.cubin", "triton_poi_fused_0", 0,'
        " this->cubin_dir_);\n"
    )
    assert read_generated(text * 2).gpu_kernels == ("triton_poi_fused_0",)


@pytest.mark.parametrize(
    "spec",
    [
        "not json",
        "[" * 100_000,
        "[2, {}]",
        '[1, {"type": "builtins.tuple", "context": "null", "children_spec": []}]',
        '[1, {"type": "builtins.tuple", "children_spec": [{"type": null}, {"context": "{"}]}]',
    ],
)
def test_inputs_keep_the_compilers_names_where_the_callers_are_not_understood(spec: str) -> None:
    text = f'inputs_info_[0].name = "arg0_1";\nin_spec_ = R"({spec})";\n'
    assert read_generated(text).inputs == (Tensor("arg0_1"),)


def test_inputs_that_are_no_tensors_do_not_shift_names() -> None:
    leaf = '{"type": null, "context": null, "children_spec": []}'
    calls = f'{{"type": "builtins.tuple", "context": "null", "children_spec": [{leaf}, {leaf}]}}'
    words = '{"type": "builtins.dict", "context": "[]", "children_spec": []}'
    spec = (
        f'[1, {{"type": "builtins.tuple", "context": "null", "children_spec": [{calls}, {words}]}}]'
    )
    text = f'inputs_info_[0].name = "arg0_1";\nin_spec_ = R"({spec})";\n'
    assert read_generated(text).inputs == (Tensor("arg0_1"),)


PIECES = st.sampled_from(
    [*WRAPPER_TEXT.splitlines(keepends=True), "constants_info_[", "9" * 30, ' R"(', "static void "]
)


@given(st.lists(st.one_of(PIECES, st.text(max_size=20)), max_size=60))
def test_any_text_is_read(pieces: list[str]) -> None:
    read_generated("".join(pieces))


def test_long_keys_in_deep_structures_are_given_up_at_once() -> None:
    leaf: dict[str, Any] = {"type": None, "context": None, "children_spec": []}
    tree = {"type": "builtins.tuple", "context": "null", "children_spec": [leaf] * 4_000}
    for _ in range(100):
        tree = {
            "type": "builtins.dict",
            "context": json.dumps(["k" * 20_000]),
            "children_spec": [tree],
        }
    spec = json.dumps([1, tree])
    started = time.process_time()
    assert read_generated(f'outputs_info_[0].name = "o";\nout_spec_ = R"({spec})";\n').outputs == (
        Tensor("o"),
    )
    assert time.process_time() - started < 2


@pytest.mark.parametrize(
    "line", ["    aoti_torch_cpu_mm(a);\n", "(" * 80 + "\n", " " * 80 + "\n", WRAPPER_TEXT]
)
def test_a_large_source_takes_a_time_that_grows_with_it(line: str) -> None:
    text = line * (4_000_000 // len(line))
    started = time.process_time()
    read_generated(text, text)
    assert time.process_time() - started < 4


def tree(kind: str | None, *children: Any, context: Any = None) -> dict[str, Any]:
    """A node of a serialised pytree; a leaf without a kind."""
    return {"type": kind, "context": json.dumps(context), "children_spec": list(children)}


LEAF = tree(None)


@pytest.mark.parametrize(
    ("result", "names"),
    [
        (LEAF, ["output"]),
        (tree("builtins.tuple", LEAF, tree("builtins.list", LEAF)), ["[0]", "[1][0]"]),
        (tree("builtins.dict", LEAF, LEAF, context=["b", 1]), ["['b']", "[1]"]),
        (
            tree(
                "collections.OrderedDict",
                tree("builtins.dict", LEAF, context=["mean"]),
                LEAF,
                context=["pooled", "last"],
            ),
            ["['pooled']['mean']", "['last']"],
        ),
    ],
)
def test_results_have_the_names_by_which_a_caller_finds_them(
    result: dict[str, Any], names: list[str]
) -> None:
    assert result_names(json.dumps([1, result])) == names


def test_arguments_have_the_names_by_which_a_caller_passes_them() -> None:
    positional = tree("builtins.tuple", LEAF, tree("collections.OrderedDict", LEAF, context=["a"]))
    keyword = tree("builtins.dict", tree("builtins.list", LEAF, LEAF), LEAF, context=["past", "m"])
    call = tree("builtins.tuple", positional, keyword)
    assert argument_names(json.dumps([1, call])) == [
        "args[0]",
        "args[1]['a']",
        "past[0]",
        "past[1]",
        "m",
    ]


@pytest.mark.parametrize(
    "spec",
    [
        None,
        json.dumps([2, LEAF]),
        json.dumps([1, tree("builtins.dict", LEAF, context=["a", "b"])]),
        json.dumps([1, tree("builtins.dict", LEAF, context=["k" * 1021])]),
        json.dumps([1, LEAF]) + " " * (4 << 20),
    ],
    ids=["none", "another version", "a name too many", "a long path", "large"],
)
def test_a_result_that_is_not_understood_has_no_names(spec: str | None) -> None:
    assert result_names(spec) is None


def test_the_longest_path_is_kept() -> None:
    (name,) = result_names(json.dumps([1, tree("builtins.dict", LEAF, context=["k" * 1020])])) or ()
    assert len(name) == 1024
