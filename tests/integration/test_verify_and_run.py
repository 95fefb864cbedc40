"""`invoke verify` and `invoke run` on real artifacts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import run_inv

from aoti_build.digests import digest_file, digest_json


def test_all_artifacts_pass(built: Path) -> None:
    finished = run_inv(built, "verify", "--json")
    assert finished.code == 0, finished.err
    assert {row["verdict"] for row in finished.json["targets"]} == {"passed"}
    assert all(row["cases"] and not row["stale"] for row in finished.json["targets"])


def test_needs_neither_source_nor_weights_and_says_stale(built: Path) -> None:
    for path in (built / "nets").iterdir():
        path.unlink()
    (built / "weights/weighted.safetensors").unlink()
    finished = run_inv(built, "verify", "--json")
    assert finished.code == 0, finished.err
    weighted = finished.target("weighted/cpu")
    assert weighted["verdict"] == "passed"
    assert {reason["reason"] for reason in weighted["stale"]} == {"source-changed", "weights-changed"}
    assert run_inv(built, "verify", "--strict", "--target", "weighted").code == 3


def test_wrong_numbers_fail_with_figures_per_output(built: Path) -> None:
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file

    directory = built / "artifacts/linear/cpu"
    golden = directory / "golden.safetensors"
    with safe_open(golden, framework="pt") as file:
        header = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    tensors["example/output/0"][1, 2] += torch.tensor(0.5)
    golden.unlink()
    save_file(tensors, golden, metadata=header)
    manifest = json.loads((directory / "manifest.json").read_bytes())
    manifest["files"]["golden.safetensors"] = {"sha256": digest_file(golden), "size": golden.stat().st_size}
    body = {name: value for name, value in manifest.items() if name != "sha256"}
    (directory / "manifest.json").write_text(json.dumps({**body, "sha256": digest_json(body)}))

    finished = run_inv(built, "verify", "--json", "--target", "linear")
    assert finished.code == 3
    (output,) = finished.target("linear/cpu")["cases"][0]["outputs"]
    assert not output["ok"]
    assert output["mismatched"] == 1
    assert output["max_abs"] == pytest.approx(0.5, abs=1e-3)


def test_an_altered_package_is_never_loaded(built: Path) -> None:
    package = built / "artifacts/linear/cpu/model.pt2"
    content = bytearray(package.read_bytes())
    content[len(content) // 2] ^= 1
    package.write_bytes(content)
    finished = run_inv(built, "verify", "--target", "linear")
    assert finished.code == 4
    assert "model.pt2 is not what the manifest says" in finished.out
    assert run_inv(built, "run", "--target", "linear").code == 4


def test_run_on_the_golden_input(built: Path) -> None:
    finished = run_inv(built, "run", "--target", "tagger", "--json")
    assert finished.code == 0, finished.err
    document = finished.json
    assert document["check"] == "golden"
    assert document["passed"]
    assert [tensor["name"] for tensor in document["inputs"]] == ["tokens", "mask"]
    assert document["outputs"][0]["shape"] == [4, 6, 3]
    assert set(document["seconds"]) >= {"load", "first", "steady"}


def test_run_on_a_given_input_is_checked_against_eager(built: Path) -> None:
    import torch
    from safetensors.torch import save_file

    tensors = {"tokens": torch.randint(0, 11, (7, 6)), "mask": torch.ones(7, 6, dtype=torch.bool)}
    save_file(tensors, built / "given.safetensors")
    finished = run_inv(built, "run", "--target", "tagger", "--input", "given.safetensors", "--json")
    assert finished.code == 0, finished.err
    assert finished.json["check"] == "eager"
    assert finished.json["outputs"][0]["shape"] == [7, 6, 3]

    (built / "nets/tagger.py").unlink()
    unchecked = run_inv(built, "run", "--target", "tagger", "--input", "given.safetensors")
    assert unchecked.code == 0
    assert "NOT checked" in unchecked.out


@pytest.mark.parametrize(("size", "dtype", "said"), [(17, "int64", "too large"), (4, "int32", "int32")])
def test_run_refuses_inputs_that_do_not_fit(built: Path, size: int, dtype: str, said: str) -> None:
    import torch
    from safetensors.torch import save_file

    tensors = {
        "tokens": torch.zeros(size, 6, dtype=getattr(torch, dtype)),
        "mask": torch.ones(size, 6, dtype=torch.bool),
    }
    save_file(tensors, built / "given.safetensors")
    finished = run_inv(built, "run", "--target", "tagger", "--input", "given.safetensors")
    assert finished.code in (2, 3)
    assert said in finished.err
