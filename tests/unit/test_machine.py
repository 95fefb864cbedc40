"""Facts about the machine, from files that may be missing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from aoti_build.host import cuda
from aoti_build.host.machine import busy_host, machine_facts


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, text in {
        "proc/cpuinfo": "processor\t: 0\nmodel name\t: Quick 9000\nmodel name\t: other\n",
        "proc/meminfo": "MemTotal:       16392636 kB\nMemFree: 1 kB\n",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "performance\n",
        "sys/module/nvidia/version": "580.1\n",
    }.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return tmp_path


def test_the_facts_are_those_of_the_machine(root: Path) -> None:
    facts = machine_facts("cpu", root)
    assert facts["processor"] == "Quick 9000"
    assert facts["processors"] == str(len(os.sched_getaffinity(0)))
    assert facts["memory"] == "15.6 GiB"
    assert facts["governor"] == "performance"
    assert facts["kernel"] == os.uname().release
    assert {"python", "torch", "aoti_build"} <= set(facts)
    assert not {"gpu", "driver"} & set(facts)


def test_a_gpu_and_its_driver_are_facts_of_its_targets(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda, "first_gpu_name", lambda: "NVIDIA H200")
    facts = machine_facts("cuda", root)
    assert (facts["gpu"], facts["driver"]) == ("NVIDIA H200", "580.1")


@pytest.mark.parametrize(("load", "is_busy"), [(0.3, False), (1.3, False), (1.6, True)])
def test_a_busy_host_is_named(monkeypatch: pytest.MonkeyPatch, load: float, is_busy: bool) -> None:
    monkeypatch.setattr("os.getloadavg", lambda: (load, 0.0, 9.0))
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    said = busy_host()
    assert (said is not None) == is_busy
    if said is not None:
        assert "load 1.6 with 2 processors" in said


def test_what_is_unknown_is_left_out(tmp_path: Path) -> None:
    facts = machine_facts("cpu", tmp_path)
    assert facts["processor"] == os.uname().machine
    assert not {"memory", "governor"} & set(facts)
