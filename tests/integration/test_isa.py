"""Portable architectures: the code of a real model is for the architecture and no more, also where
inductor has no `cpp.march`; and what a host cannot run it can still compile, which is then said
until another host has compared it with eager."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from conftest import run_inv
from projects import LINEAR

from aoti_build import load
from aoti_build.artifact.manifest import Manifest, read_manifest
from aoti_build.commands.build import build
from aoti_build.commands.clean import clean
from aoti_build.commands.status import status
from aoti_build.commands.verify.command import verify
from aoti_build.errors import ArtifactError
from aoti_build.host import cpu
from aoti_build.models_file import load_project

MODELS = """\
version: 1
inductor_configs:
  native: {cpp.march: native}
models:
  architecture:
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


# What the build worker loads by ctypes or imports as an extension is written down: none of it may
# be what was compiled.
WATCHED = """
import sys


def _note(event, arguments):
    if event == "ctypes.dlopen" or (event == "import" and str(arguments[1] or "").endswith(".so")):
        with open("loaded.txt", "a") as file:
            file.write(f"{arguments[0] if event == 'ctypes.dlopen' else arguments[1]}\\n")


sys.addaudithook(_note)
"""
WIDE = """\
version: 1
models:
  wide:
    source: net.py:build
    inputs: [{shape: [4, 8]}]
    cpu: {isa: [avx512]}
"""
LOADED = """
import torch
import aoti_build
from net import build

with aoti_build.load("wide") as model, torch.no_grad():
    x = torch.randn(4, 8)
    torch.manual_seed(0)
    torch.testing.assert_close(model(x), build().eval()(x), atol=1e-5, rtol=1e-5)
    print("loaded", model.target)
"""
CAPABLE = cpu.ISA_FEATURES["avx512"] <= set(cpu.cpu_features())
NATIVE_EXCEEDS_AVX2 = "avx512f" in cpu.cpu_features()


@pytest.mark.skipif(not NATIVE_EXCEEDS_AVX2, reason="native code is AVX-512 on processors with it")
def test_instruction_sets_are_tried_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch._inductor import cpu_vec_isa

    from aoti_build._torch.compiling.isa import tried_once

    together = threading.Barrier(2)

    class Waiting(cpu_vec_isa.VecAVX2):
        def __bool__(self) -> bool:
            together.wait(timeout=20)  # breaks if nobody else comes
            return True

    monkeypatch.setattr(cpu_vec_isa, "x86_isa_checker", lambda: ["avx2"])
    monkeypatch.setattr(
        cpu_vec_isa, "supported_vec_isa_list", [Waiting(), Waiting(), cpu_vec_isa.VecAVX512()]
    )
    with tried_once("one", tmp_path):
        assert not together.broken


def test_an_instruction_set_that_worked_is_not_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch._inductor import cpu_vec_isa

    from aoti_build._torch.compiling.isa import tried_once

    tried: list[str] = []

    def try_it(isa: cpu_vec_isa.VecISA, code: str) -> bool:
        tried.append(code)
        return "bad" not in code

    monkeypatch.setattr(cpu_vec_isa.VecISA, "check_build", try_it)
    monkeypatch.setattr(cpu_vec_isa, "supported_vec_isa_list", [])

    def answers(toolchain: str) -> list[bool]:
        with tried_once(toolchain, tmp_path):
            return [cpu_vec_isa.VecAVX2().check_build(code) for code in ("good", "bad", "good")]

    assert answers("one") == [True, False, True]
    assert tried == ["good", "bad"], "a no may have been a full disk"
    assert answers("one") == [True, False, True]
    assert tried == ["good", "bad", "bad"]
    assert answers("another") == [True, False, True]
    assert tried[3:] == ["good", "bad"]
    assert cpu_vec_isa.VecISA.check_build is try_it


@pytest.mark.slow
def test_an_architecture_is_kept_and_code_beyond_it_is_not_published(tmp_path: Path) -> None:
    (tmp_path / "models.yaml").write_text(MODELS)
    (tmp_path / "tasks.py").write_text("from aoti_build.tasks import ns\n")
    (tmp_path / "net.py").write_text(LINEAR)
    (tmp_path / "older.py").write_text(LINEAR + OLDER)
    finished = run_inv(tmp_path, "build", "--json", "--keep-going")
    assert finished.target("architecture/cpu")["action"] == "compiled", finished.err
    assert finished.target("older/cpu")["action"] == "compiled", finished.err
    for model in ("architecture", "older"):
        needs = json.loads((tmp_path / f"artifacts/{model}/cpu/manifest.json").read_bytes())[
            "requires"
        ]
        assert "avx2" in needs["instructions"]["seen"]
        assert set(needs["instructions"]["seen"]) <= cpu.ISA_FEATURES["avx2"]
    refused = finished.target("architecture/cpu-native")
    if not NATIVE_EXCEEDS_AVX2:
        assert refused["action"] == "compiled", "what this processor has is the architecture"
        return
    assert refused["action"] == "failed"
    assert "avx512f: " in refused["error"]["cause"]
    assert not (tmp_path / "artifacts/architecture/cpu-native/model.pt2").exists()


@pytest.mark.skipif(not CAPABLE, reason="the artifact is run as well, by a processor with AVX-512")
@pytest.mark.slow
def test_an_architecture_that_the_host_lacks_is_compiled_and_unverified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One real compile, on a host that says it has AVX2 alone; then the same files on this one, as
    it is."""
    (tmp_path / "models.yaml").write_text(WIDE)
    (tmp_path / "tasks.py").write_text("from aoti_build.tasks import ns\n")
    (tmp_path / "net.py").write_text(LINEAR + WATCHED)
    monkeypatch.setenv("AOTI_BUILD_CACHE", str(tmp_path / "compile"))
    project = load_project(tmp_path / "models.yaml")
    (target,) = project.targets
    artifact = tmp_path / "artifacts/wide/cpu-avx512"

    with monkeypatch.context() as lesser:
        lesser.setattr(cpu, "cpu_features", lambda: tuple(sorted(cpu.ISA_FEATURES["avx2"])))
        (outcome,) = build(project, project.targets).outcomes
        assert (outcome.action, outcome.error) == ("compiled", None)
        loaded = (tmp_path / "loaded.txt").read_text().splitlines()
        assert not [name for name in loaded if str(tmp_path) in name]
        assert (
            outcome.unverified
            == "this processor lacks avx512bw, avx512cd, avx512dq, avx512f, avx512vl"
        )
        assert status(project).as_json()["targets"][0]["unverified"] == outcome.unverified
        (verdict,) = verify(project, project.targets).verdicts
        assert (verdict.verdict, verdict.out_of_date[0].reason) == (
            "unavailable",
            "lacks-architecture",
        )
    made = read_manifest(artifact)
    assert isinstance(made, Manifest)
    seen = set(made.requires["instructions"]["seen"])
    assert "avx512f" in seen
    assert seen <= cpu.ISA_FEATURES["avx512"]

    with pytest.raises(ArtifactError) as refused:
        load("wide", artifacts=project.artifacts)
    assert "never compared with eager: where it was built, this processor lacks avx512bw" in str(
        refused.value.cause
    )
    assert "invoke verify --target wide/cpu-avx512" in str(refused.value.cause)
    assert [step["state"] for step in status(project).as_json()["targets"]] == ["recheck"]
    (verdict,) = verify(project, project.targets).verdicts
    assert (verdict.verdict, verdict.error) == ("passed", None)
    settled = read_manifest(artifact)
    assert isinstance(settled, Manifest)
    assert settled.unverified is None
    assert settled.check["cases"]
    answer = subprocess.run(
        [sys.executable, "-c", LOADED], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert answer.stdout.strip() == "loaded wide/cpu-avx512", answer.stderr

    clean(project, project.targets)
    with monkeypatch.context() as lesser:
        lesser.setattr(cpu, "cpu_features", lambda: tuple(sorted(cpu.ISA_FEATURES["avx2"])))
        (outcome,) = build(project, project.targets).outcomes
        assert (outcome.action, outcome.unverified) == (
            "restored",
            None,
        )  # what was found elsewhere holds here
    assert target.name == "wide/cpu-avx512"
