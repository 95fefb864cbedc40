"""Portable floors: the code of a real model is for the floor and no more, also where inductor has no `cpp.march`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import run_inv
from projects import LINEAR

from aoti_build import toolchain

MODELS = """\
edition: 1
inductor_configs:
  native: {cpp.march: native}
models:
  floor:
    source: net.py:build
    inputs: [{shape: [4, 8]}]
    cpu: {isa: avx2}
    inductor_configs: [default, native]
  older:
    source: older.py:build
    inputs: [{shape: [4, 8]}]
    cpu: {isa: avx2}
"""
# What inductor of torch 2.11 is: no option, and -march=native in every command.
OLDER = """
from torch._inductor import config, cpp_builder

config._config.pop("cpp.march", None)
cpp_builder._get_cpu_arch_cflags = lambda compiler: ["march=native"]
"""


@pytest.mark.skipif("avx512f" not in toolchain.cpu_features(), reason="native code is AVX-512 on processors with it")
def test_a_floor_is_kept_and_code_beyond_it_is_not_published(tmp_path: Path) -> None:
    (tmp_path / "models.yaml").write_text(MODELS)
    (tmp_path / "tasks.py").write_text("from aoti_build.tasks import ns\n")
    (tmp_path / "net.py").write_text(LINEAR)
    (tmp_path / "older.py").write_text(LINEAR + OLDER)
    finished = run_inv(tmp_path, "build", "--json", "--keep-going")
    assert finished.target("floor/cpu")["action"] == "compiled", finished.err
    assert finished.target("older/cpu")["action"] == "compiled", finished.err
    for model in ("floor", "older"):
        needs = json.loads((tmp_path / f"artifacts/{model}/cpu/manifest.json").read_bytes())["requires"]
        assert "avx2" in needs["instructions"]["seen"]
        assert set(needs["instructions"]["seen"]) <= toolchain.ISA_FEATURES["avx2"]
    refused = finished.target("floor/cpu-native")
    assert refused["action"] == "failed"
    assert "avx512f: " in refused["error"]["cause"]
    assert not (tmp_path / "artifacts/floor/cpu-native/model.pt2").exists()
