"""Fat binaries list their architectures, or are refused."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packages import fatbin

from aoti_build.artifact.pt2.fatbin import NotFatbin, read_fatbin
from aoti_build.common.elf import Read


def of(data: bytes) -> Read:
    return lambda offset, size: data[offset : offset + size]


def test_the_architectures_of_machine_code_and_of_ptx() -> None:
    assert read_fatbin(of(fatbin((2, 80), (2, 90), (1, 90), (2, 80)))) == (
        "sm_80",
        "sm_90",
        "compute_90",
    )
    assert read_fatbin(of(fatbin((2, 90), (1, 90), flags=0x108011))) == ("sm_90a", "compute_90a")


REAL = Path(__file__).with_name("fatbins")


@pytest.mark.parametrize("file", sorted(REAL.iterdir()), ids=lambda file: file.stem)
def test_real_ones_of_cuda_13_with_their_marks(file: Path) -> None:
    assert read_fatbin(of(file.read_bytes())) == tuple(file.stem.split("-"))


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc here")
@pytest.mark.parametrize(
    ("ptx", "codes"), [("80", ("80", "86")), ("90a", ("90a",)), ("100f", ("100f",)), ("120", ())]
)
def test_what_nvcc_makes_here(tmp_path: Path, ptx: str, codes: tuple[str, ...]) -> None:
    source = tmp_path / "k.ptx"
    source.write_text(
        f".version 8.8\n.target sm_{ptx}\n.address_size 64\n.visible .entry k() {{ ret; }}\n"
    )
    wanted = [f"arch=compute_{code},code=sm_{code}" for code in codes] + [
        f"arch=compute_{ptx},code=compute_{ptx}"
    ]
    words = [word for one in wanted for word in ("-gencode", one)]
    made = tmp_path / "k.fatbin"
    command = ["nvcc", "-fatbin", str(source), "-o", str(made), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"this nvcc does not know it: {done.stderr.strip()[:100]}")
    assert set(read_fatbin(of(made.read_bytes()))) == {
        *(f"sm_{code}" for code in codes),
        f"compute_{ptx}",
    }


def test_several_containers_in_one_file() -> None:
    assert read_fatbin(of(fatbin((2, 75)) + fatbin((2, 120)))) == ("sm_75", "sm_120")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x7fELF" * 20,
        fatbin((2, 80))[:30],
        fatbin((2, 80))[:5],
        fatbin(),
        fatbin(*[(2, 80)] * 2000),
    ],
)
def test_what_is_no_fat_binary_is_refused(data: bytes) -> None:
    with pytest.raises(NotFatbin):
        read_fatbin(of(data))


WHOLE = fatbin((2, 80), (1, 90))


@given(
    st.lists(st.tuples(st.integers(4, len(WHOLE) - 1), st.integers(0, 255)), max_size=20),
    st.integers(0, len(WHOLE)),
)
def test_garbled_ones_are_read_or_refused(changes: list[tuple[int, int]], cut: int) -> None:
    data = bytearray(WHOLE)
    for at, value in changes:
        data[at] = value
    with contextlib.suppress(NotFatbin):
        read_fatbin(of(bytes(data[:cut])))
