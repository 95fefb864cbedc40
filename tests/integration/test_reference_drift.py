"""`release-diff` reads the reference data that a worker wrote, and finds what torch finds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from aoti_build._torch.checking.reference_data import Case, Plain, ReferenceData, with_digests
from aoti_build._torch.checking.reference_writer import save_reference_data
from aoti_build.commands.release_diff.drift import Drift, Reference, drift_of

INPUT = torch.arange(6.0)
LARGE = 200_000  # elements, of which the writer makes a summary where there is no room


def drift(tmp_path: Path, old: Any, new: Any, limit: int | None = None) -> Drift:
    """The drift between two files with one output, as the worker writes them."""
    files = []
    for name, value in (("old", old), ("new", new)):
        case = with_digests(Case("example", inputs=[INPUT], outputs=[value]))
        files.append(tmp_path / name)
        save_reference_data(files[-1], ReferenceData([case]), limit)
    return drift_of(Reference(files[0], ["output"]), Reference(files[1], ["output"]))


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64]
)
def test_the_relative_error_is_that_of_torch(tmp_path: Path, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    old = torch.randn(70_000, dtype=dtype)
    new = old + 1e-2 * torch.randn(70_000, dtype=dtype)
    (output,) = drift(tmp_path, old, new).compared
    wide = torch.complex128 if dtype.is_complex else torch.float64
    error, before = (new.to(wide) - old.to(wide)), old.to(wide)
    parts = torch.view_as_real(error) if dtype.is_complex else error
    assert output.relative_rmse == pytest.approx(float(error.norm() / before.norm()))
    assert output.max_abs == pytest.approx(float(parts.abs().max()))
    assert output.differing == int((parts != 0).sum())


@pytest.mark.parametrize("dtype", [torch.int64, torch.int8, torch.uint8, torch.bool])
def test_integers(tmp_path: Path, dtype: torch.dtype) -> None:
    old = torch.tensor([0, 1, 1, 0]).to(dtype)
    new = torch.tensor([0, 1, 0, 0]).to(dtype)
    (output,) = drift(tmp_path, old, new).compared
    assert (output.differing, output.count, output.max_abs) == (1, 4, 1.0)


def test_a_summary_estimates_the_error_of_all_values(tmp_path: Path) -> None:
    torch.manual_seed(0)
    old = torch.randn(LARGE)
    new = old + 1e-2 * torch.randn(LARGE)
    (output,) = drift(tmp_path, old, new, limit=400_000).compared
    assert output.estimated
    assert output.relative_rmse == pytest.approx(float((new - old).norm() / old.norm()), rel=0.05)


def test_no_drift_of_equal_outputs(tmp_path: Path) -> None:
    value = torch.randn(LARGE)
    for limit in (None, 400_000):
        (output,) = drift(tmp_path, value, value, limit).compared
        assert (output.relative_rmse, output.differing) == (0.0, 0)


def test_numbers_among_the_outputs(tmp_path: Path) -> None:
    (output,) = drift(tmp_path, Plain("2.0"), Plain("2.5")).compared
    assert output.relative_rmse == 0.25
    unknown = drift(tmp_path, Plain("None"), torch.ones(1)).unknown
    assert unknown == ("example, output: it is a tensor in one release alone",)
