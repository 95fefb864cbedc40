"""A device that is registered from outside: models.yaml, plan, status, and the loader's choice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from small_projects import publish_fake, write_project

from aoti_build.commands.status import status
from aoti_build.errors import SpecError
from aoti_build.host.devices import NATIVE, register, unregister
from aoti_build.host.devices.cpu import Cpu
from aoti_build.host.facts import HostFacts
from aoti_build.runtime import explain

MODELS = """\
version: 1
models:
  small:
    source: model.py:build
    inputs: [{shape: [2, 4]}]
    devices: [cpu, npu]
"""


class Npu(Cpu):
    """An accelerator, of which this host has `units`."""

    name = "npu"
    architecture_key = "generation"
    preference = 2
    is_indexed = True

    def __init__(self) -> None:
        self.units = 1

    def count(self) -> int:
        return self.units

    def require_architecture(self, name: str) -> None:
        if name != NATIVE:
            raise ValueError(name)

    def toolchain_facts(self, architecture: str) -> dict[str, str]:
        return {"npu.driver": "7", **super().toolchain_facts(architecture)}

    def cannot_build(self, architecture: str) -> str | None:
        return None if self.units else "npu"

    def requirements(self, architecture: str, host: HostFacts) -> dict[str, Any]:
        return {"cpu_features": []}

    def missing_device(self, host: HostFacts, index: int) -> str | None:
        return None if index < self.units else f"no NPU {index}"


@pytest.fixture
def npu() -> Iterator[Npu]:
    device = Npu()
    register(device)
    yield device
    unregister(device.name)


def test_a_registered_device_is_planned_and_chosen(npu: Npu, tmp_path: Path) -> None:
    project = write_project(tmp_path, MODELS)
    assert [target.name for target in project.targets] == ["small/cpu", "small/npu"]
    for target in project.targets:
        publish_fake(project, target)
    assert states(project) == {"small/cpu": "up-to-date", "small/npu": "up-to-date"}
    assert chosen(project.artifacts) == "small/npu"


def test_a_device_that_the_host_lacks_is_unavailable(npu: Npu, tmp_path: Path) -> None:
    project = write_project(tmp_path, MODELS)
    for target in project.targets:
        publish_fake(project, target)
    npu.units = 0
    assert states(project)["small/npu"] == "unavailable"
    assert chosen(project.artifacts) == "small/cpu"
    assert "no NPU 0" in str(explain("small", artifacts=project.artifacts))


def test_a_changed_driver_is_a_reason_to_rebuild(
    npu: Npu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = write_project(tmp_path, MODELS)
    publish_fake(project, project.targets[1])
    monkeypatch.setattr(Npu, "toolchain_facts", lambda *_: {"npu.driver": "8"})
    (row,) = [row for row in status(project).as_json()["targets"] if row["target"] == "small/npu"]
    assert row["state"] == "build"
    assert "npu.driver" in str(row["reasons"])


def test_a_device_that_is_not_registered_is_an_error_with_its_place(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"'devices'.1. is the string 'npu'; it must be one of"):
        write_project(tmp_path, MODELS)


def states(project: Any) -> dict[str, str]:
    return {row["target"]: row["state"] for row in status(project).as_json()["targets"]}


def chosen(artifacts: Path) -> str:
    fitting = [one.target for one in explain("small", artifacts=artifacts).candidates if one.fits]
    return fitting[0]
