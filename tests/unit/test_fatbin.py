"""Fat binaries list their architectures, or are refused."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packages import fatbin

from aoti_build.archive.elf import Read
from aoti_build.archive.fatbin import NotFatbin, read_fatbin


def of(data: bytes) -> Read:
    return lambda offset, size: data[offset : offset + size]


def test_the_architectures_of_machine_code_and_of_ptx() -> None:
    assert read_fatbin(of(fatbin((2, 80), (2, 90), (1, 90), (2, 80)))) == ("sm_80", "sm_90", "compute_90")


def test_several_containers_in_one_file() -> None:
    assert read_fatbin(of(fatbin((2, 75)) + fatbin((2, 120)))) == ("sm_75", "sm_120")


@pytest.mark.parametrize(
    "data", [b"", b"\x7fELF" * 20, fatbin((2, 80))[:30], fatbin((2, 80))[:5], fatbin(), fatbin(*[(2, 80)] * 2000)]
)
def test_what_is_no_fat_binary_is_refused(data: bytes) -> None:
    with pytest.raises(NotFatbin):
        read_fatbin(of(data))


WHOLE = fatbin((2, 80), (1, 90))


@given(
    st.lists(st.tuples(st.integers(4, len(WHOLE) - 1), st.integers(0, 255)), max_size=20), st.integers(0, len(WHOLE))
)
def test_garbled_ones_are_read_or_refused(changes: list[tuple[int, int]], cut: int) -> None:
    data = bytearray(WHOLE)
    for at, value in changes:
        data[at] = value
    with contextlib.suppress(NotFatbin):
        read_fatbin(of(bytes(data[:cut])))
