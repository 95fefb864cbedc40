"""What generated C++ says of a model."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packages import KERNEL_TEXT, WRAPPER_TEXT

from aoti_build.archive.generated import Constant, Tensor, read_generated


def test_the_facts_in_a_wrapper() -> None:
    found = read_generated(WRAPPER_TEXT, KERNEL_TEXT)
    assert found.inputs == (Tensor("args[0]", "float32", ("s31", 8)), Tensor("mask", "bool", ("s31",)))
    assert found.outputs == (Tensor("output"),)
    assert found.dims == {"s31": {"min": 2, "max": 16}}
    assert found.constants == (
        Constant("a.weight", "float32", (12, 8), 384, folded=False),
        Constant("_FOLDED_CONST_1", "int64", (), 8, folded=True),
    )
    assert found.kernels == ("cpp_fused_relu_0",)
    assert found.operators == ("addmm_out",)
    assert found.march == ("native",)


def test_functions_loaded_from_gpu_binaries() -> None:
    text = 'kernels_.triton_poi_fused_0 = loadKernel("a.cubin", "triton_poi_fused_0", 0, this->cubin_dir_);\n'
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
    spec = f'[1, {{"type": "builtins.tuple", "context": "null", "children_spec": [{calls}, {words}]}}]'
    text = f'inputs_info_[0].name = "arg0_1";\nin_spec_ = R"({spec})";\n'
    assert read_generated(text).inputs == (Tensor("arg0_1"),)


PIECES = st.sampled_from(
    [*WRAPPER_TEXT.splitlines(keepends=True), "constants_info_[", "9" * 30, ' R"(', "static void "]
)


@given(st.lists(st.one_of(PIECES, st.text(max_size=20)), max_size=60))
def test_any_text_is_read(pieces: list[str]) -> None:
    read_generated("".join(pieces))
