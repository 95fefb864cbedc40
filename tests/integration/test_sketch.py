"""Large outputs that are kept as sketches are compared by the same rules as whole ones. No model is
compiled here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from aoti_build._torch.checking.compare import (  # noqa: E402
    compare,
)
from aoti_build._torch.checking.compare_sketch import compare_sketch  # noqa: E402
from aoti_build._torch.checking.reference_data import (  # noqa: E402
    Case,
    ReferenceData,
)
from aoti_build._torch.checking.reference_reader import load_reference_data  # noqa: E402
from aoti_build._torch.checking.reference_writer import save_reference_data  # noqa: E402
from aoti_build._torch.checking.sketch import BUCKETS, SAMPLES, Sketch  # noqa: E402

NONE: dict[str, Any] = {"atol": None, "rtol": None, "outputs": {}}
SHAPE = (40, 50, 201)


def random(seed: int, dtype: Any = torch.float64, shape: tuple[int, ...] = SHAPE) -> Any:
    return torch.randn(
        shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    ).to(dtype)


def exact_eager_and_candidate(
    eager_error: float, candidate_error: float, dtype: Any = torch.float32
) -> tuple[Any, ...]:
    exact = random(0)
    return (
        exact,
        (exact + eager_error * random(1)).to(dtype),
        (exact + candidate_error * random(2)).to(dtype),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("with_exact", [True, False])
@pytest.mark.parametrize(
    ("eager_error", "candidate_error"), [(0, 0), (1e-4, 1e-4), (1e-4, 5e-4), (0, 0.02), (0, 0.2)]
)
def test_the_verdict_is_that_of_the_whole_output(
    dtype: Any, with_exact: bool, eager_error: float, candidate_error: float
) -> None:
    exact, eager, candidate = exact_eager_and_candidate(eager_error, candidate_error, dtype)
    whole = compare("y", eager, candidate, NONE, exact if with_exact else None)
    kept = Sketch.of(eager), Sketch.of(exact) if with_exact else None
    sketched = compare_sketch("y", kept[0], candidate, NONE, kept[1])
    assert sketched["ok"] == whole["ok"], (whole, sketched)
    assert sketched["rmse"] == pytest.approx(whole["rmse"], rel=0.05)
    assert sketched["reference_rms"] == pytest.approx(whole["reference_rms"])


def test_one_wrong_value_anywhere_is_found() -> None:
    eager = random(0, torch.float32)
    kept, exact = Sketch.of(eager), Sketch.of(eager.double())
    for place in range(0, eager.numel(), 37_003):
        candidate = eager.clone()
        candidate.view(-1)[place] += 0.5
        assert not compare_sketch("y", kept, candidate, NONE, exact)["ok"], place


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_nan_and_infinity_must_be_where_eager_has_them(value: float) -> None:
    eager = random(0, torch.float32)
    eager.view(-1)[123_457] = value
    kept = Sketch.of(eager)
    assert compare_sketch("y", kept, eager.clone(), NONE)["ok"]
    for place in (123_458, 0, eager.numel() - 1):
        moved = random(0, torch.float32)
        moved.view(-1)[place] = value
        found = compare_sketch("y", kept, moved, NONE)
        assert (found["ok"], "NaN or infinity" in found["why"]) == (False, True)


@pytest.mark.parametrize(
    ("dtype", "bounds", "error"),
    [
        (torch.float32, {"atol": 1e-2, "rtol": 0.0}, 10.0),
        (torch.float32, {}, 2.0),
        (torch.bfloat16, {}, 100.0),
    ],
)
def test_one_value_far_off_is_found_without_float64_too(
    dtype: Any, bounds: dict[str, float], error: float
) -> None:
    """The sums of its bucket are further off than values within the bounds explain."""
    eager = random(0, dtype, (1500, 1500))
    candidate = eager.clone()
    candidate.view(-1)[1_234_567] += error
    tolerance = {**NONE, **bounds}
    assert not compare("y", eager, candidate, tolerance)["ok"]
    assert not compare_sketch("y", Sketch.of(eager), candidate, tolerance)["ok"]


def test_values_within_the_bounds_pass_whatever_their_scale() -> None:
    """Outliers may be off by more than the rest, as the relative bound allows."""
    eager = random(0, torch.float32) * torch.exp(3 * random(1)).float()
    candidate = eager * (1 + 9e-4 * torch.sign(random(2)).float())
    assert compare("y", eager, candidate, NONE)["ok"]
    assert compare_sketch("y", Sketch.of(eager), candidate, NONE)["ok"]


def test_integers_must_be_equal() -> None:
    eager = torch.arange(200_000).reshape(400, 500)
    kept = Sketch.of(eager)
    assert compare_sketch("y", kept, eager.clone(), NONE)["ok"]
    other = eager.clone()
    other[399, 499] += 1
    assert not compare_sketch("y", kept, other, NONE)["ok"]


def test_another_shape_or_dtype_is_said() -> None:
    kept = Sketch.of(random(0, torch.float32))
    assert "shape" in compare_sketch("y", kept, random(0, torch.float32).reshape(-1), NONE)["why"]
    assert "dtype" in compare_sketch("y", kept, random(0, torch.float16), NONE)["why"]
    assert "not a tensor" in compare_sketch("y", kept, None, NONE)["why"]


def test_a_tolerance_of_the_users_own_decides() -> None:
    _, eager, candidate = exact_eager_and_candidate(0, 1e-3)
    kept = Sketch.of(eager)
    assert compare_sketch("y", kept, candidate, {**NONE, "atol": 0.01, "rtol": 0.0})["ok"]
    refused = compare_sketch("y", kept, candidate, {**NONE, "atol": 1e-5, "rtol": 0.0})
    assert (refused["ok"], refused["by"]) == (False, "tolerance")


def case(name: str, **given: Any) -> Case:
    whole = {"inputs": [random(5, torch.float32, (4,))], "outputs": [random(6, torch.float32)]}
    return Case(
        name,
        **{**whole, "exact": [random(6)], "inputs_digest": "a" * 64, "digest": "b" * 64, **given},
    )


def test_what_has_no_room_is_kept_as_a_sketch(tmp_path: Path) -> None:
    """Eight cases of 4.8 MB each, in 10 MB: one as it is, the rest by sketches, and none left
    out."""
    cases = [case(str(number)) for number in range(8)]
    assert not save_reference_data(
        tmp_path / "reference_data", ReferenceData(cases), limit=10 << 20
    )
    assert (tmp_path / "reference_data").stat().st_size < 10.1 * (1 << 20)
    read = load_reference_data(tmp_path / "reference_data")
    kinds = [type(found.outputs[0]).__name__ for found in read.cases if found.outputs]
    assert kinds == ["Tensor"] + 7 * ["Sketch"]
    for found in read.cases[1:]:
        kept, exact = found.outputs[0], found.exact[0]
        assert compare_sketch("y", kept, random(6, torch.float32), NONE, exact)["ok"]
        assert not compare_sketch("y", kept, random(7, torch.float32), NONE, exact)["ok"]


def test_an_output_that_must_be_whole_is_never_a_sketch(tmp_path: Path) -> None:
    cases = [case(str(number)) for number in range(3)]
    assert not save_reference_data(
        tmp_path / "reference_data",
        ReferenceData(cases),
        limit=9 << 20,
        needs_every_value=lambda index: index == 0,
    )
    outputs = [found.outputs for found in load_reference_data(tmp_path / "reference_data").cases]
    assert outputs[0] is not None
    assert outputs[1:] == [None, None]


def test_equal_cases_make_equal_bytes(tmp_path: Path) -> None:
    for name in ("one", "other"):
        save_reference_data(tmp_path / name, ReferenceData([case("a"), case("b")]), limit=4 << 20)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


@pytest.mark.parametrize(
    "value",
    [
        torch.zeros(3, 4),
        torch.full((5,), -7),
        torch.full((2,), True),
        torch.full((2, 2), 1 + 2j),
        torch.arange(5.0),
        torch.tensor(3),
        torch.full((3,), float("-inf")),
        torch.full((2,), 0.1, dtype=torch.bfloat16),
    ],
)
def test_the_first_state_is_kept(tmp_path: Path, value: Any) -> None:
    save_reference_data(
        tmp_path / "reference_data",
        ReferenceData([case("a", call=0), case("b", call=1)], state={"cache": value}),
    )
    read = load_reference_data(tmp_path / "reference_data")
    assert torch.equal(read.state["cache"], value)
    assert read.state["cache"].dtype == value.dtype
    assert [[found.name for found in calls] for calls in read.sequences()] == [["a", "b"]]


def test_a_sketch_takes_little_room() -> None:
    sketch = Sketch.of(random(0, torch.float32))
    assert sketch.buckets.numel() == BUCKETS
    assert sketch.sample.numel() == SAMPLES
