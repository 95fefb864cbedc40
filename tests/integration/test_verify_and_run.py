"""`invoke verify` on real artifacts; `invoke run` is in test_run.py."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import run_inv
from projects import flip_a_bit

from aoti_build.common.digests import digest_file, digest_json


def test_all_artifacts_pass(built: Path) -> None:
    finished = run_inv(built, "verify", "--jobs", "2", "--json")
    assert finished.code == 0, finished.err
    assert {row["verdict"] for row in finished.json["targets"]} == {"passed"}
    assert all(row["cases"] and not row["out_of_date"] for row in finished.json["targets"])


def test_needs_neither_source_nor_weights_and_says_out_of_date(built: Path) -> None:
    for path in (built / "nets").iterdir():
        path.unlink()
    (built / "weights/weighted.safetensors").unlink()
    finished = run_inv(built, "verify", "--jobs", "2", "--json")
    assert finished.code == 0, finished.err
    weighted = finished.target("weighted/cpu")
    assert weighted["verdict"] == "passed"
    assert {reason["reason"] for reason in weighted["out_of_date"]} == {
        "source-changed",
        "weights-changed",
    }
    assert run_inv(built, "verify", "--strict", "--target", "weighted").code == 3


def test_wrong_numbers_fail_with_figures_per_output(built: Path) -> None:
    from safetensors import safe_open
    from safetensors.torch import save_file

    directory = built / "artifacts/linear/cpu"
    reference_data = directory / "reference.safetensors"
    with safe_open(reference_data, framework="pt") as file:
        header = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    for role in ("output", "exact"):
        tensors[f"example/{role}/0"][1, 2] += 0.5
    reference_data.unlink()
    save_file(tensors, reference_data, metadata=header)
    manifest = json.loads((directory / "manifest.json").read_bytes())
    manifest["files"]["reference.safetensors"] = {
        "sha256": digest_file(reference_data),
        "size": reference_data.stat().st_size,
    }
    body = {name: value for name, value in manifest.items() if name != "sha256"}
    (directory / "manifest.json").write_text(json.dumps({**body, "sha256": digest_json(body)}))

    finished = run_inv(built, "verify", "--json", "--target", "linear")
    assert finished.code == 3
    (output,) = finished.target("linear/cpu")["cases"][0]["outputs"]
    assert not output["ok"]
    assert output["mismatched"] == 1
    assert output["max_abs"] == pytest.approx(0.5, abs=1e-3)


def test_an_altered_package_is_never_loaded(built: Path) -> None:
    flip_a_bit(built / "artifacts/linear/cpu/model.pt2")
    finished = run_inv(built, "verify", "--target", "linear")
    assert finished.code == 4
    assert "model.pt2 does not match the manifest" in finished.out
