"""Which hosts an artifact may run on: asked before native code is loaded, answered in sentences."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import pytest
from small_projects import CUDA_MODEL, ONE_MODEL, write_project

from aoti_build import host, toolchain

BUILT_ON = ("avx", "avx2", "fma", "sse")


@pytest.fixture(autouse=True)
def _host(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host whose processor and GPU are known."""
    monkeypatch.setattr(toolchain, "cpu_features", lambda: BUILT_ON)
    monkeypatch.setattr(toolchain, "compute_capabilities", lambda: ("8.6",))


@pytest.fixture
def needs(tmp_path: Path) -> dict[str, Any]:
    """What a CPU artifact built on this host needs."""
    return host.requirements(write_project(tmp_path, ONE_MODEL).targets[0])


def test_an_artifact_runs_where_it_was_built(needs: dict[str, Any]) -> None:
    assert host.lacking(needs) == []
    assert needs["cpu_features"] == list(BUILT_ON)


def test_a_processor_that_can_more_is_fine(needs: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain, "cpu_features", lambda: (*BUILT_ON, "avx512f"))
    assert host.lacking(needs) == []


def test_a_processor_that_can_less_is_not(needs: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain, "cpu_features", lambda: ("avx", "sse"))
    assert host.lacking(needs) == ["this processor lacks avx2, fma"]


def test_a_portable_floor_needs_that_floor_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs = host.requirements(write_project(tmp_path, ONE_MODEL + "    cpu: {isa: avx2}\n").targets[0])
    monkeypatch.setattr(toolchain, "cpu_features", lambda: tuple(toolchain.ISA_FEATURES["avx2"]))
    assert host.lacking(needs) == []
    monkeypatch.setattr(toolchain, "cpu_features", lambda: tuple(toolchain.ISA_FEATURES["avx2"] - {"avx2"}))
    assert host.lacking(needs) == ["this processor lacks avx2"]


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
    needs: dict[str, Any], monkeypatch: pytest.MonkeyPatch, built: str, here: str | None, *, fits: bool
) -> None:
    monkeypatch.setattr(host, "torch_version", lambda: here)  # torch itself may be loaded already
    lacks = host.lacking({**needs, "torch": built})
    assert (lacks == []) is fits
    assert all(built in sentence for sentence in lacks)


def test_another_machine(needs: dict[str, Any]) -> None:
    assert host.lacking({**needs, "machine": "riscv64"}) == [
        f"built for machine riscv64, this host is {platform.machine()}"
    ]


def test_another_system(needs: dict[str, Any]) -> None:
    (sentence,) = host.lacking({**needs, "platform": "plan9"})
    assert "plan9" in sentence


def test_everything_that_is_lacking_is_said(needs: dict[str, Any]) -> None:
    assert len(host.lacking({**needs, "machine": "riscv64", "torch": "1.0.0", "cpu_features": ["amx"]})) == 3


@pytest.mark.parametrize(
    ("here", "fits"),
    [("8.6", True), ("8.9", True), ("8.0", False), ("9.0", False), ("10.6", False), ("7.5", False)],
)
def test_a_cubin_runs_on_its_major_version_from_its_minor_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, here: str, *, fits: bool
) -> None:
    needs = host.requirements(write_project(tmp_path, CUDA_MODEL).targets[0])
    monkeypatch.setattr(toolchain, "compute_capabilities", lambda: (here,))
    lacks = host.lacking(needs)
    assert (lacks == []) is fits
    assert all("8.6" in sentence and here in sentence for sentence in lacks)


def test_a_cpu_artifact_does_not_ask_for_a_gpu(needs: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain, "compute_capabilities", lambda: ())
    assert host.lacking(needs) == []
