"""Which hosts an artifact may run on: asked before native code is loaded, answered in sentences."""

from __future__ import annotations

import os

import pytest

from aoti_build.common.fields import is_name
from aoti_build.host import cpu, cuda
from aoti_build.host.compatibility import (
    code_rank,
    missing,
    missing_for_architecture,
    obstacles,
    requirements,
    this_host,
    torch_version,
)
from aoti_build.host.devices import device_named
from aoti_build.host.facts import HostFacts

HOST = HostFacts(
    platform="linux",
    machine="x86_64",
    torch=torch_version(),
    cpu_features=("avx", "avx2", "fma", "sse"),
)
GPU_HOST = HOST._replace(gpu_capabilities=("8.6",))
NEEDS = requirements("cpu", "native", HOST)
GPU_NEEDS = requirements("cuda", "native", GPU_HOST)


@pytest.mark.parametrize(
    ("features", "level"),
    [
        ((), "base"),
        (("avx", "sse"), "base"),
        (tuple(cpu.ISA_FEATURES["avx2"]), "avx2"),
        ((*cpu.ISA_FEATURES["avx512"], "amx_tile"), "avx512"),
    ],
)
def test_the_class_of_a_host_has_its_instruction_set_and_processors(
    monkeypatch: pytest.MonkeyPatch, features: tuple[str, ...], level: str
) -> None:
    monkeypatch.setattr(cpu, "cpu_features", lambda: features)
    monkeypatch.setattr("aoti_build.host.devices.cpu.processors", lambda: 6)
    machine = os.uname().machine
    assert device_named("cpu").host_class() == f"{machine}-{level}-6cpu"


@pytest.mark.parametrize(
    ("capabilities", "name", "expected"),
    [
        (("9.0", "8.6"), "NVIDIA H200", "sm_90-nvidia-h200"),
        (("8.9",), "NVIDIA GeForce RTX 4090 (Ti)", "sm_89-nvidia-geforce-rtx-4090-ti"),
        (("12.0",), "", "sm_120-unnamed"),
        ((), "", None),
    ],
)
def test_the_class_of_a_host_with_a_gpu_has_its_name(
    monkeypatch: pytest.MonkeyPatch,
    capabilities: tuple[str, ...],
    name: str,
    expected: str | None,
) -> None:
    monkeypatch.setattr(cuda, "compute_capabilities", lambda: capabilities)
    monkeypatch.setattr(cuda, "first_gpu_name", lambda: name)
    found = device_named("cuda").host_class()
    assert found == expected
    assert found is None or is_name(found), "it is a key of tuned.yaml"


def test_an_artifact_runs_where_it_was_built() -> None:
    assert missing(NEEDS, HOST) == obstacles(NEEDS, HOST) == []
    assert missing(GPU_NEEDS, GPU_HOST) == obstacles(GPU_NEEDS, GPU_HOST) == []
    assert NEEDS["cpu_features"] == list(HOST.cpu_features)


def test_a_processor_that_can_more_is_fine() -> None:
    assert missing(NEEDS, HOST._replace(cpu_features=(*HOST.cpu_features, "avx512f"))) == []


def test_a_processor_that_can_less_is_not() -> None:
    lesser = HOST._replace(cpu_features=("avx", "sse"))
    assert missing(NEEDS, lesser) == ["this processor lacks avx2, fma"]


def test_a_portable_architecture_needs_that_architecture_only() -> None:
    needs = requirements("cpu", "avx2", HOST)
    features = cpu.ISA_FEATURES["avx2"]
    assert missing(needs, HOST._replace(cpu_features=tuple(features))) == []
    lesser = HOST._replace(cpu_features=tuple(features - {"avx2"}))
    assert missing(needs, lesser) == ["this processor lacks avx2"]


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
    built: str, here: str | None, *, fits: bool
) -> None:
    sentences = missing({**NEEDS, "torch": built}, HOST._replace(torch=here))
    assert (sentences == []) is fits
    assert all(built in sentence for sentence in sentences)


def test_another_machine() -> None:
    assert missing({**NEEDS, "machine": "riscv64"}, HOST) == [
        "built for machine riscv64, this host is x86_64"
    ]


def test_another_system() -> None:
    assert missing({**NEEDS, "platform": "plan9"}, HOST) == [
        "built for platform plan9, this host is linux"
    ]


def test_everything_that_is_missing_is_said() -> None:
    needs = {**NEEDS, "machine": "riscv64", "torch": "1.0.0", "cpu_features": ["amx"]}
    assert len(missing(needs, HOST)) == 3


@pytest.mark.parametrize(
    ("here", "fits"),
    [("8.6", True), ("8.9", True), ("8.0", False), ("9.0", False), ("10.6", False), ("7.5", False)],
)
def test_a_cubin_runs_on_its_major_version_from_its_minor_on(here: str, *, fits: bool) -> None:
    sentences = missing(GPU_NEEDS, HOST._replace(gpu_capabilities=(here,)))
    assert (sentences == []) is fits
    assert all("8.6" in sentence and here in sentence for sentence in sentences)


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
    code: list[str], here: str, *, fits: bool
) -> None:
    needs = {**GPU_NEEDS, "gpu_code": code}
    host = HOST._replace(gpu_capabilities=(here,))
    sentences = missing(needs, host)
    assert sentences == missing_for_architecture(needs, host)
    assert (sentences == []) is fits
    for sentence in sentences:
        assert f"built for compute capability 8.6 ({', '.join(code)})" in sentence


def test_a_named_arch_is_what_is_needed() -> None:
    needs = requirements("cuda", "sm_80", GPU_HOST)
    assert needs["compute_capability"] == "8.0"
    assert needs["cpu_features"] == list(HOST.cpu_features)
    assert code_rank(needs, GPU_HOST) == (1, 8, 0)
    assert code_rank(needs, GPU_HOST, 1) is None


def test_an_architecture_is_the_processor_or_the_gpu_and_nothing_else() -> None:
    lesser = HostFacts("linux", "x86_64", "1.0.0", ("avx", "sse"), ("7.5",))
    assert missing_for_architecture(NEEDS, lesser) == ["this processor lacks avx2, fma"]
    assert missing_for_architecture(GPU_NEEDS, lesser) == [
        "built for compute capability 8.6, this GPU has 7.5"
    ]
    assert len(missing(GPU_NEEDS, lesser)) == 3


def test_an_absent_gpu_is_an_obstacle_and_not_a_missing_feature() -> None:
    assert missing(GPU_NEEDS, HOST) == []
    assert obstacles(GPU_NEEDS, HOST) == ["no CUDA device, or a torch without CUDA"]
    (sentence,) = obstacles(GPU_NEEDS, GPU_HOST, 1)
    assert sentence == "no CUDA device 1: this host has 1, counted from 0"


def test_the_facts_of_this_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "cpu_features", lambda: ("avx",))
    monkeypatch.setattr(cuda, "compute_capabilities", lambda: ("9.0",))
    assert (this_host("cuda").cpu_features, this_host("cuda").gpu_capabilities) == (
        ("avx",),
        ("9.0",),
    )
    assert this_host("cpu").gpu_capabilities == (), "the driver is not asked"
