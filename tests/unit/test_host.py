"""Which hosts an artifact may run on: asked before native code is loaded, answered in sentences."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import pytest
from small_projects import CUDA_MODEL, ONE_MODEL, write_project

from aoti_build.host import compatibility, cpu, cuda
from aoti_build.models_file.project import Target

BUILT_ON = ("avx", "avx2", "fma", "sse")


@pytest.fixture(autouse=True)
def _host(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host whose processor and GPU are known."""
    monkeypatch.setattr(cpu, "cpu_features", lambda: BUILT_ON)
    monkeypatch.setattr(cuda, "compute_capabilities", lambda: ("8.6",))


@pytest.fixture
def needs(tmp_path: Path) -> dict[str, Any]:
    """What a CPU artifact built on this host needs."""
    return requirements_of(write_project(tmp_path, ONE_MODEL).targets[0])


def requirements_of(target: Target) -> dict[str, Any]:
    return compatibility.requirements(target.device, target.architecture)


def test_an_artifact_runs_where_it_was_built(needs: dict[str, Any]) -> None:
    assert compatibility.lacking(needs) == []
    assert needs["cpu_features"] == list(BUILT_ON)


def test_a_processor_that_can_more_is_fine(
    needs: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu, "cpu_features", lambda: (*BUILT_ON, "avx512f"))
    assert compatibility.lacking(needs) == []


def test_a_processor_that_can_less_is_not(
    needs: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu, "cpu_features", lambda: ("avx", "sse"))
    assert compatibility.lacking(needs) == ["this processor lacks avx2, fma"]


def test_a_portable_architecture_needs_that_architecture_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs = requirements_of(
        write_project(tmp_path, ONE_MODEL + "    cpu: {isa: avx2}\n").targets[0]
    )
    monkeypatch.setattr(cpu, "cpu_features", lambda: tuple(cpu.ISA_FEATURES["avx2"]))
    assert compatibility.lacking(needs) == []
    monkeypatch.setattr(cpu, "cpu_features", lambda: tuple(cpu.ISA_FEATURES["avx2"] - {"avx2"}))
    assert compatibility.lacking(needs) == ["this processor lacks avx2"]


@pytest.mark.parametrize(
    ("built", "here", "fits"),
    [
        ("2.14.1", "2.14.1", True),
        ("2.14.1", "2.14.0+cu130", True),
        ("2.14.1", "2.13.1", False),
        ("2.14.1", "3.14.1", False),
        ("2.1.0", "2.14.0", False),
        ("2.14.1", None, False),
    ],
)
def test_torch_must_be_of_the_same_minor_release(
    needs: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    built: str,
    here: str | None,
    *,
    fits: bool,
) -> None:
    monkeypatch.setattr(
        compatibility, "torch_version", lambda: here
    )  # torch itself may be loaded already
    lacks = compatibility.lacking({**needs, "torch": built})
    assert (lacks == []) is fits
    assert all(built in sentence for sentence in lacks)


def test_another_machine(needs: dict[str, Any]) -> None:
    assert compatibility.lacking({**needs, "machine": "riscv64"}) == [
        f"built for machine riscv64, this host is {platform.machine()}"
    ]


def test_another_system(needs: dict[str, Any]) -> None:
    (sentence,) = compatibility.lacking({**needs, "platform": "plan9"})
    assert "plan9" in sentence


def test_everything_that_is_lacking_is_said(needs: dict[str, Any]) -> None:
    assert (
        len(
            compatibility.lacking(
                {**needs, "machine": "riscv64", "torch": "1.0.0", "cpu_features": ["amx"]}
            )
        )
        == 3
    )


@pytest.mark.parametrize(
    ("here", "fits"),
    [("8.6", True), ("8.9", True), ("8.0", False), ("9.0", False), ("10.6", False), ("7.5", False)],
)
def test_a_cubin_runs_on_its_major_version_from_its_minor_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, here: str, *, fits: bool
) -> None:
    needs = requirements_of(write_project(tmp_path, CUDA_MODEL).targets[0])
    monkeypatch.setattr(cuda, "compute_capabilities", lambda: (here,))
    lacks = compatibility.lacking(needs)
    assert (lacks == []) is fits
    assert all("8.6" in sentence and here in sentence for sentence in lacks)


@pytest.mark.parametrize(
    ("code", "here", "fits"),
    [
        (["sm_80", "compute_80"], "9.0", True),
        (["sm_80", "compute_80"], "7.5", False),
        (["sm_80"], "8.9", True),
        (["sm_80"], "9.0", False),
        (["sm_86", "sm_90"], "9.0", True),
        (["sm_90a", "compute_90a"], "9.0", True),
        (["sm_90a", "compute_90a"], "10.0", False),
        (["sm_100f"], "10.3", True),
    ],
)
def test_what_the_package_holds_decides_and_not_what_it_was_named_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: list[str], here: str, *, fits: bool
) -> None:
    needs = {
        **requirements_of(write_project(tmp_path, CUDA_MODEL).targets[0]),
        "gpu_code": code,
    }
    monkeypatch.setattr(cuda, "compute_capabilities", lambda: (here,))
    lacks = compatibility.lacking(needs)
    assert lacks == compatibility.lacking_architecture(needs)
    assert (lacks == []) is fits
    assert all(
        f"built for compute capability 8.6 ({', '.join(code)})" in sentence for sentence in lacks
    )


def test_a_named_arch_is_what_is_needed(tmp_path: Path) -> None:
    project = write_project(tmp_path, CUDA_MODEL + "    cuda: {arch: sm_80}\n")
    needs = requirements_of(project.targets[0])
    assert (needs["compute_capability"], needs["cpu_features"]) == ("8.0", list(BUILT_ON))
    assert compatibility.code_rank(needs) == (1, 8, 0)
    assert compatibility.code_rank(needs, 1) is None


def test_an_architecture_is_the_processor_or_the_gpu_and_nothing_else(
    needs: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda_needs = requirements_of(write_project(tmp_path, CUDA_MODEL).targets[0])
    monkeypatch.setattr(cpu, "cpu_features", lambda: ("avx", "sse"))
    monkeypatch.setattr(cuda, "compute_capabilities", lambda: ("7.5",))
    assert compatibility.lacking_architecture({**needs, "torch": "1.0.0"}) == [
        "this processor lacks avx2, fma"
    ]
    assert compatibility.lacking_architecture({**cuda_needs, "torch": "1.0.0"}) == [
        "built for compute capability 8.6, this GPU has 7.5"
    ]
    assert len(compatibility.lacking({**cuda_needs, "torch": "1.0.0"})) == 3


def test_a_cpu_artifact_does_not_ask_for_a_gpu(
    needs: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda, "compute_capabilities", lambda: ())
    assert compatibility.lacking(needs) == []
