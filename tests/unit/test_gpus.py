"""Which code runs on which GPU, by NVIDIA's rules."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aoti_build.host import gpu_architectures

CAPABILITIES = ("7.5", "8.0", "8.6", "8.9", "9.0", "10.0", "10.3", "12.0")


@pytest.mark.parametrize(
    ("code", "runs"),
    [
        ("sm_80", "8.0 8.6 8.9"),
        ("sm_86", "8.6 8.9"),
        ("sm_90", "9.0"),
        ("sm_90a", "9.0"),
        ("sm_100", "10.0 10.3"),
        ("sm_100a", "10.0"),
        ("sm_100f", "10.0 10.3"),
        ("sm_103f", "10.3"),
        ("compute_80", "8.0 8.6 8.9 9.0 10.0 10.3 12.0"),
        ("compute_90", "9.0 10.0 10.3 12.0"),
        ("compute_90a", "9.0"),
        ("compute_100f", "10.0 10.3"),
        ("sm_80b", ""),
        ("unknown_80", ""),
        ("", ""),
    ],
)
def test_where_code_runs(code: str, runs: str) -> None:
    assert [
        here for here in CAPABILITIES if gpu_architectures.best_code([code], here)
    ] == runs.split()


def test_machine_code_comes_before_ptx_and_the_nearest_first() -> None:
    codes = ["compute_89", "sm_75", "sm_80", "sm_86", "compute_80"]
    assert gpu_architectures.best_code(codes, "8.9") == (1, 8, 6)
    assert gpu_architectures.best_code(codes, "9.0") == (0, 8, 9)
    assert gpu_architectures.best_code(["sm_90"], "8.9") is None
    assert gpu_architectures.best_code([], "9.0") is None


@pytest.mark.parametrize(
    ("arch", "capability", "number"),
    [
        ("sm_80", "8.0", "80"),
        ("sm_90a", "9.0", "90"),
        ("sm_103", "10.3", "103"),
        ("compute_120", "12.0", "120"),
    ],
)
def test_names_and_numbers(arch: str, capability: str, number: str) -> None:
    assert (gpu_architectures.capability_of(arch), gpu_architectures.number_of(arch)) == (
        capability,
        number,
    )


@given(
    st.lists(st.from_regex(r"(sm|compute)_[0-9]{2,3}[af]?", fullmatch=True)),
    st.sampled_from(CAPABILITIES),
)
def test_what_is_chosen_is_there_and_no_better_one_is(codes: list[str], here: str) -> None:
    best = gpu_architectures.best_code(codes, here)
    alone = [rank for code in codes if (rank := gpu_architectures.best_code([code], here))]
    assert best == max(alone, default=None)
