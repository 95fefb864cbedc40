"""Where the weights of a package lie in its blob: what the table says, and what is refused."""

from __future__ import annotations

import pytest

from aoti_build.runtime.constants import Constant, read_constants

# As inductor of torch 2.14 writes it, and what surrounds it.
TABLE = """
    inputs_info_[0].name = "arg2_1";
    constants_info_[0].name = "a_weight";
    constants_info_[0].dtype = cached_torch_dtype_bfloat16;
    constants_info_[0].device_type = cached_torch_device_type_cpu;
    constants_info_[0].offset = 2;
    constants_info_[0].data_size = 128;
    constants_info_[0].from_folded = false;
    constants_info_[0].type = static_cast<int32_t>(torch::aot_inductor::ConstantType::Parameter);
    constants_info_[0].shape = {4, 8};
    constants_info_[0].stride = {1, 4};
    constants_info_[0].layout = static_cast<int32_t>(cached_torch_layout_strided);
    constants_info_[0].original_fqn = "a.weight";
    constants_info_[1].name = "step";
    constants_info_[1].dtype = cached_torch_dtype_int64;
    constants_info_[1].device_type = cached_torch_device_type_cpu;
    constants_info_[1].offset = 0;
    constants_info_[1].data_size = 64;
    constants_info_[1].from_folded = false;
    constants_info_[1].type = static_cast<int32_t>(torch::aot_inductor::ConstantType::Buffer);
    constants_info_[1].shape = {};
    constants_info_[1].stride = {};
    constants_info_[1].layout = static_cast<int32_t>(cached_torch_layout_strided);
    constants_info_[1].original_fqn = "step";
    outputs_info_[0].name = "output0";
"""


def test_each_constant_follows_the_one_before() -> None:
    assert read_constants(TABLE, 192) == [
        Constant("a_weight", "a.weight", "bfloat16", (4, 8), (1, 4), 2, 0, 128),
        Constant("step", "step", "int64", (), (), 0, 128, 64),
    ]


@pytest.mark.parametrize("size", [0, 191, 193])
def test_a_blob_of_another_size_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="the constants take 192 bytes"):
        read_constants(TABLE, size)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("[1].from_folded = false", "[1].from_folded = true", "no plain tensor"),
        ("_info_[1].layout = static_cast<int32_t>(", "_info_[1].layout = (", "no plain tensor"),
        ("constants_info_[1].dtype", "other_info_[1].dtype", "constant 1 has no 'dtype'"),
        ("constants_info_[1]", "constants_info_[2]", "constant 1 has no 1"),
        ("shape = {4, 8}", "shape = {4, s0}", "s0"),
        ('name = "step"', "name = step", "Expecting value"),
    ],
)
def test_a_table_that_is_not_understood_is_refused(old: str, new: str, said: str) -> None:
    assert old in TABLE
    with pytest.raises(ValueError, match=said):
        read_constants(TABLE.replace(old, new), 192)
