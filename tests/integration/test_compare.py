"""The reference policy: what passes, by which rule, and what the figures say. No model is compiled
here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from aoti_build._torch.checking import bounds, float64, tf32  # noqa: E402
from aoti_build._torch.checking import eager as eager_mode  # noqa: E402
from aoti_build._torch.checking.compare import compare  # noqa: E402
from aoti_build._torch.checking.reference import points  # noqa: E402
from aoti_build._torch.checking.reference_data import (  # noqa: E402
    Case,
    ReferenceData,
)
from aoti_build._torch.checking.reference_reader import load_reference_data  # noqa: E402
from aoti_build._torch.checking.reference_writer import save_reference_data  # noqa: E402
from aoti_build._torch.jobs.probe import probes  # noqa: E402
from aoti_build._torch.program.inputs import Call  # noqa: E402
from aoti_build.models_file.project import Dim  # noqa: E402

NONE: dict[str, Any] = {"atol": None, "rtol": None, "outputs": {}}


def exact(count: int = 4096, scale: float = 1.0) -> Any:
    return (
        torch.randn(count, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * scale
    )


def off(value: Any, relative: float) -> Any:
    """`value` with noise of that part of its root mean square."""
    noise = torch.randn(
        value.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )
    return value + noise * relative * value.double().square().mean().sqrt()


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_tolerances_follow_the_outputs_scale(scale: float) -> None:
    true = exact(scale=scale)
    eager = true.float()
    assert compare("y", eager, off(true, 1e-7).float(), NONE, true)["ok"]
    wrong = compare("y", eager, off(true, 1e-5).float(), NONE, true)
    assert not wrong["ok"]
    assert "RMSE to float64" in wrong["why"]


def test_as_near_to_float64_as_eager_is_good_enough_where_eager_is_far() -> None:
    true = exact()
    eager, candidate = off(true, 1e-4).float(), off(-true, 1e-4).neg().float()
    figures = compare("y", eager, candidate, NONE, true)
    assert (figures["ok"], figures["by"]) == (True, "fp64")
    assert figures["mismatched"] > 0
    assert not compare("y", eager, off(true, 1e-3).float(), NONE, true)["ok"]


def small_network() -> Any:
    torch.manual_seed(0)
    layers = torch.nn.Conv2d(3, 16, 3), torch.nn.ReLU(), torch.nn.Conv2d(16, 32, 3), torch.nn.ReLU()
    return torch.nn.Sequential(
        *layers, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(32, 10)
    )


def subject(network: Any, device: str) -> eager_mode.Subject:
    return eager_mode.Subject(network, lambda _sizes, _seed: Call(), device)


def in_tf32(network: Any, call: Any) -> Any:
    """What the network's convolutions give in TF32, by the same rounding of operands, with the sums
    in float64."""
    with (
        torch.no_grad(),
        tf32.InTf32(tf32.tf32_operands("cuda", convolutions=True, products=False)),
    ):
        return network.double()(call.args[0].double()).float()


def test_where_tf32_is_allowed_what_it_costs_the_model_is_no_fault_and_a_wrong_weight_is() -> None:
    """Eager in full float32 and compiled code in TF32, as a GPU's libraries may choose for their
    layouts."""
    network = small_network().eval()
    call = Call((torch.randn(4, 3, 32, 32),), {})
    eager = eager_mode.reference("example", subject(network, "cpu"), call)
    (allowed,) = float64.Float64Model(subject(network, "cuda")).add_references([eager], [call])
    (forbidden,) = float64.Float64Model(subject(network, "cpu")).add_references([eager], [call])
    assert forbidden.rounded_rmse is None

    def verdict(case: Any, candidate: Any) -> Any:
        return compare(
            "y", case.outputs[0], candidate, NONE, case.exact[0], (case.rounded_rmse or [None])[0]
        )

    candidate = in_tf32(small_network().eval(), call)
    assert not verdict(forbidden, candidate)["ok"]
    figures = verdict(allowed, candidate)
    assert (figures["ok"], figures["by"]) == (True, "fp64")
    assert figures["fp64"]["candidate_rmse"] == pytest.approx(
        figures["fp64"]["rounded_rmse"], rel=0.1
    )
    for layer in (0, 2, 6):
        faulty = small_network().eval()
        with torch.no_grad():
            faulty[layer].bias[1] += 1e-2
        refused = verdict(allowed, in_tf32(faulty, call))
        assert not refused["ok"]
        assert "rounded otherwise" in refused["why"]


@pytest.mark.parametrize(
    ("device", "convolutions", "products", "count"),
    [
        ("cpu", True, True, 0),
        ("cuda", False, False, 0),
        ("cuda", True, False, 1),
        ("cuda", False, True, 4),
    ],
)
def test_operands_are_rounded_on_a_gpu_as_the_settings_allow(
    device: str, convolutions: bool, products: bool, count: int
) -> None:
    assert len(tf32.tf32_operands(device, convolutions=convolutions, products=products)) == count
    # No monkeypatch: it takes back what it set by deleting it, which these modules of torch do not
    # know.
    switches = torch.backends.cudnn, torch.backends.cuda.matmul
    before = [switch.allow_tf32 for switch in switches]
    try:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = (
            convolutions,
            products,
        )
        assert len(tf32.tf32_operands(device)) == count
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.allow_tf32 = value


def test_tf32_has_ten_bits() -> None:
    values = torch.tensor(
        [1 + 2**-11, 1 + 2**-12, -1 - 2**-11, 1e30, 0.0, float("inf")], dtype=torch.float64
    )
    rounded = tf32.to_tf32(values)
    assert rounded[:3].tolist() == [1 + 2**-10, 1, -1 - 2**-10]
    assert abs(float(rounded[3]) / 1e30 - 1) <= 2**-11
    assert rounded[4:].tolist() == [0.0, float("inf")]
    assert tf32.to_tf32(torch.tensor([float("nan")], dtype=torch.float64)).isnan().all()


@pytest.mark.parametrize(
    ("dtype", "noise", "passes"),
    [
        (torch.float32, 3e-4, True),
        (torch.float64, 3e-4, False),
        (torch.complex64, 3e-4, False),
        # TF32 is finer than these two types, so its bounds would be tighter than theirs.
        (torch.float16, 2e-3, True),
        (torch.bfloat16, 1e-2, True),
    ],
)
def test_tf32_widens_the_bounds_of_float32_only(
    monkeypatch: pytest.MonkeyPatch, dtype: Any, noise: float, passes: bool
) -> None:
    on_a_gpu = tf32.tf32_operands("cuda", convolutions=True, products=True)
    monkeypatch.setattr(bounds, "tf32_operands", lambda _device: on_a_gpu)
    eager = exact().to(dtype)
    candidate = off(exact(), noise).to(dtype)
    assert compare("y", eager, candidate, NONE)["ok"] is passes


def test_without_tf32_the_bounds_of_float32_are_tighter() -> None:
    assert not compare("y", exact().float(), off(exact(), 3e-4).float(), NONE)["ok"]


def test_without_float64_the_plain_tolerance_decides() -> None:
    eager = exact().float()
    assert compare("y", eager, off(eager, 1e-5).float(), NONE)["ok"]
    assert not compare("y", eager, off(eager, 1e-2).float(), NONE)["ok"]


def test_what_models_yaml_says_wins() -> None:
    true = exact()
    eager, far = true.float(), off(true, 1e-2).float()
    assert compare("y", eager, far, {**NONE, "atol": 1.0}, true)["by"] == "tolerance"
    assert compare("y", eager, far, {**NONE, "atol": 1.0}, true)["ok"]
    assert not compare(
        "y", eager, off(true, 1e-6).float(), {**NONE, "atol": 0.0, "rtol": 0.0}, true
    )["ok"]
    one = {**NONE, "outputs": {"y": {"atol": 1.0, "rtol": None, "agreement": None, "iou": None}}}
    assert compare("y", eager, far, one, true)["ok"]
    assert not compare("z", eager, far, one, true)["ok"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_nan_and_infinity_where_eager_has_none_always_fail(value: float) -> None:
    eager = exact().float()
    candidate = eager.clone()
    candidate[7] = value
    for tolerance in (NONE, {**NONE, "atol": 1e9, "rtol": 1e9}):
        figures = compare("y", eager, candidate, tolerance, eager.double())
        assert not figures["ok"]
        assert figures["worst"]["index"] == [7]
    assert compare("y", candidate, candidate.clone(), NONE)["ok"]


def test_integers_are_equal_unless_agreement_or_iou_is_declared() -> None:
    eager = torch.zeros(10, 10, dtype=torch.int64)
    eager[:5] = 1
    candidate = eager.clone()
    candidate[0, 0] = 0
    figures = compare("mask", eager, candidate, NONE)
    assert (figures["ok"], figures["by"], figures["mismatched"]) == (False, "equal", 1)
    assert figures["worst"] == {"index": [0, 0], "expected": 1, "got": 0}
    for rule, least, passes in (
        ("agreement", 0.98, True),
        ("agreement", 0.995, False),
        ("iou", 0.97, True),
        ("iou", 0.99, False),
    ):
        declared = {
            **NONE,
            "outputs": {
                "mask": {"atol": None, "rtol": None, "agreement": None, "iou": None, rule: least}
            },
        }
        assert compare("mask", eager, candidate, declared)["ok"] is passes


def test_agreement_of_scores_is_of_the_largest_class() -> None:
    scores = torch.tensor([[0.1, 0.9], [0.8, 0.2]])
    declared = {**NONE, "outputs": {"y": {"agreement": 1.0}}}
    assert compare("y", scores, scores * 3, declared)["ok"]
    assert not compare("y", scores, scores.flip(1), declared)["ok"]


def test_the_figures_of_a_known_error() -> None:
    eager = torch.tensor([3.0, 4.0, 0.0, 0.0])
    figures = compare("y", eager, eager + torch.tensor([0.0, 0.0, 0.5, 0.0]), NONE)
    assert figures["max_abs"] == 0.5
    assert figures["rmse"] == pytest.approx(0.25)
    assert figures["snr_db"] == pytest.approx(20)
    assert figures["psnr_db"] == pytest.approx(24.08, abs=0.01)
    assert figures["cosine"] == pytest.approx(0.99504, abs=1e-4)
    assert figures["needed_atol"] == pytest.approx(0.5)
    assert figures["worst"] == {"index": [2], "expected": 0.0, "got": 0.5}
    histogram = figures["histogram"]
    assert (histogram["zero"], sum(histogram["counts"])) == (3, 1)
    assert histogram["counts"][histogram["decades"].index(-1)] == 1
    eased = compare(
        "y",
        eager,
        eager + 0.5,
        {
            **NONE,
            "rtol": 0.0,
            "atol": compare("y", eager, eager + 0.5, {**NONE, "rtol": 0.0, "atol": 0.0})[
                "needed_atol"
            ],
        },
    )
    assert eased["ok"]


def test_an_error_is_counted_in_its_decade() -> None:
    """As the footer of the page says: -7 counts from 1e-7 to below 1e-6, and the first and the last
    decade also count all beyond them."""
    eager = torch.zeros(7, dtype=torch.float64)
    errors = [0.0, 1.5e-7, 9.5e-7, 1.5e-6, 1e-30, 1e30, 2e30]
    candidate = torch.tensor(errors, dtype=torch.float64)
    histogram = compare("y", eager, candidate, NONE)["histogram"]
    counts = dict(zip(histogram["decades"], histogram["counts"], strict=True))
    assert (histogram["zero"], counts[-7], counts[-6]) == (1, 2, 1)
    first, *_, last = histogram["decades"]
    assert (counts[first], counts[last]) == (1, 2)


def test_another_shape_dtype_or_no_tensor_at_all() -> None:
    eager = torch.zeros(2, 3)
    for candidate, said in (
        (torch.zeros(3, 2), "shape"),
        (eager.double(), "dtype"),
        (None, "not a tensor"),
    ):
        figures = compare("y", eager, candidate, NONE)
        assert not figures["ok"]
        assert said in figures["why"]


def test_the_points_of_two_dims() -> None:
    batch, seq = Dim("batch", 1, 32, 4), Dim("seq", 8, 512, 64, 8)
    found = points((batch, seq))
    assert found["example"] == {"batch": 4, "seq": 64}
    assert found["min"] == {"batch": 1, "seq": 8}
    assert found["max"] == {"batch": 32, "seq": 512}
    assert found["above-min"] == {"batch": 2, "seq": 16}
    assert found["below-max"] == {"batch": 31, "seq": 504}
    assert found["batch-min"] == {"batch": 1, "seq": 512}
    assert found["seq-min"] == {"batch": 32, "seq": 8}
    assert 8 < found["interior"]["seq"] < 512
    assert found["interior"]["seq"] % 8 == 0
    assert len({tuple(sizes.values()) for sizes in found.values()}) == len(found)
    assert points(()) == {"example": {}}


NEWER_SWITCHES = """
import torch
torch.backends.cudnn.conv.fp32_precision = "ieee"
torch.backends.cuda.matmul.fp32_precision = "tf32"
from aoti_build._torch.checking.tf32 import tf32_operands
from aoti_build._torch.compiling.settings import switches
assert tf32_operands("cuda") == tf32_operands("cuda", convolutions=False, products=True)
assert switches()["torch.cudnn.conv.fp32_precision"] == "'ieee'"
"""


def test_torchs_newer_switches_for_tf32_are_read_too() -> None:
    """Once they are set, the older ones raise."""
    subprocess.run([sys.executable, "-c", NEWER_SWITCHES], check=True)


def test_what_must_be_refused() -> None:
    signature = {
        "inputs": [{"name": "x", "dtype": "float32", "shape": ["batch", 3]}],
        "dims": {"batch": {"min": 4, "max": 16, "multiple_of": 4}},
    }
    tried = {probe.name: probe for probe in probes([torch.rand(8, 3)], signature, {"batch": 8})}
    shapes = {
        name: list(probe.inputs[0].shape) for name, probe in tried.items() if not probe.may_answer
    }
    assert shapes == {
        "batch 20: above max 16": [20, 3],
        "batch 0: below min 4": [0, 3],
        "x: size 4 on axis 1": [8, 4],
        "x: float64": [8, 3],
        "x: rank 3": [1, 8, 3],
    }
    assert tried["batch 5: no multiple of 4"].may_answer == "somehow"
    assert not tried["x: not contiguous"].inputs[0].is_contiguous()
    assert tried["x: at an offset in its storage"].inputs[0].storage_offset() == 3


def test_reference_files_are_read_back_and_keep_their_limit(tmp_path: Path) -> None:
    big, small = torch.rand(1000), torch.rand(10)
    cases = [
        Case(
            name,
            [big],
            [small, None],
            [small.double(), None],
            {"batch": 2},
            0,
            "a" * 64,
            "b" * 64,
            [1e-4, None],
        )
        for name in ("example", "max")
    ]
    reference_data = ReferenceData(cases, None, {"inputs": [small + 1, None]})
    assert save_reference_data(tmp_path / "whole", reference_data)
    read = load_reference_data(tmp_path / "whole")
    assert (read.cases[1].sizes, read.cases[1].rounded_rmse) == ({"batch": 2}, [1e-4, None])
    assert torch.equal(read.cases[1].inputs[0], big)
    assert torch.equal(read.others["inputs"][0], small + 1)
    assert read.cases[0].outputs[1] is None
    # What decides is kept of every case; inputs that can be drawn again come last.
    assert not save_reference_data(tmp_path / "cut", reference_data, limit=4500, redrawable=True)
    cut = load_reference_data(tmp_path / "cut")
    assert cut.cases[0].inputs is not None
    assert (cut.cases[1].inputs, cut.cases[1].outputs is not None) == (None, True)
    # Without its inputs a case that cannot be drawn again is of no use.
    assert not save_reference_data(tmp_path / "cut", reference_data, limit=4500)
    cut = load_reference_data(tmp_path / "cut")
    assert (cut.cases[0].inputs is not None, cut.cases[1].inputs, cut.cases[1].outputs) == (
        True,
        None,
        None,
    )
    assert save_reference_data(tmp_path / "again", reference_data)
    assert (tmp_path / "again").read_bytes() == (tmp_path / "whole").read_bytes()
