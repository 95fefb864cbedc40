"""Facts about tools and environment, found without torch."""

from __future__ import annotations

import importlib.machinery
import os
from pathlib import Path

import pytest
from small_projects import action_of, forget_installed, publish_fake, write_project

from aoti_build.commands.build import plan
from aoti_build.common.digests import canonical_json
from aoti_build.errors import ExitCode, ToolchainError
from aoti_build.host import cpu, cuda, distributions, installed_torch, programs, toolchain
from aoti_build.host.devices import device_named
from aoti_build.planning.current_state import toolchain_parts


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_facts_are_named_strings(device: str) -> None:
    facts = toolchain.facts(device)
    assert all(isinstance(name, str) and isinstance(value, str) for name, value in facts.items())
    assert {
        "python",
        "platform",
        "machine",
        "torch",
        "torch.build",
        "cxx",
        "cxx.version",
    } <= facts.keys()
    assert canonical_json(facts)
    assert facts == toolchain.facts(device)


def test_only_a_gpu_target_depends_on_the_gpu() -> None:
    assert "cuda.compute_capability" not in toolchain.facts("cpu")
    assert "cuda.compute_capability" in toolchain.facts("cuda")


def test_without_torch_there_is_nothing_to_build_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributions, "version_of", lambda _: None)
    with pytest.raises(ToolchainError, match="torch is not installed") as caught:
        toolchain.facts("cpu")
    assert caught.value.exit_code == ExitCode.UNFIT_TOOLCHAIN
    assert caught.value.hint


def test_a_compiler_that_is_absent_is_a_fact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "/no/such/compiler")
    facts = toolchain.facts("cpu")
    assert (facts["cxx"], facts["cxx.version"]) == ("/no/such/compiler", "absent")


def test_a_compiler_is_known_by_what_it_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CXX", compiler(tmp_path / "cc1", "echo release 1; echo built with love"))
    first = toolchain.facts("cpu")["cxx.version"]
    monkeypatch.setenv("CXX", compiler(tmp_path / "cc2", "echo release 2; echo built with love"))
    second = toolchain.facts("cpu")["cxx.version"]
    assert "release 1" in first
    assert "release 2" in second


def test_a_compiler_with_options(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    command = compiler(tmp_path / "cc", 'echo "release 1 with $1"') + " --fast"
    monkeypatch.setenv("CXX", command)
    assert toolchain.facts("cpu")["cxx.version"] == "release 1 with --fast"


@pytest.mark.parametrize("command", ["g++ '", 'ccache "g++', "g++ \\", " "])
def test_a_compiler_that_is_no_command_is_a_fact(
    monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("CXX", command)
    facts = toolchain.facts("cpu")
    assert facts["cxx"] == command
    assert facts["cxx.version"].startswith(("unusable: ", "absent"))


def test_a_compiler_that_says_nothing_or_cannot_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CXX", compiler(tmp_path / "silent", "exit 3"))
    assert toolchain.facts("cpu")["cxx.version"] == "exit 3"
    broken = tmp_path / "broken"
    broken.write_bytes(b"\x7fELF, but not really")
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    assert toolchain.facts("cpu")["cxx.version"]


@pytest.mark.parametrize(
    "name",
    [
        "TORCHINDUCTOR_MAX_AUTOTUNE",
        "TORCHINDUCTOR_SOMETHING_NEW",
        "TORCHDYNAMO_X",
        "TRITON_PTXAS_PATH",
        "AOT_INDUCTOR_DEBUG_COMPILE",
        "ATEN_CPU_CAPABILITY",
        "PYTORCH_CUDA_ALLOC_CONF",
        "CXX",
        "CPLUS_INCLUDE_PATH",
        "CUDA_HOME",
        "OMP_NUM_THREADS",
    ],
)
def test_variables_that_change_code(name: str) -> None:
    assert toolchain.environment({name: "value", "HOME": "/home/me"}) == {name: "value"}


@pytest.mark.parametrize(
    "name",
    [
        "TORCHINDUCTOR_CACHE_DIR",
        "TORCHINDUCTOR_COMPILE_THREADS",
        "TRITON_CACHE_DIR",
        "TORCH_LOGS",
        "TORCH_HOME",
        "HOME",
        "PATH",
        "LANG",
        "MY_TORCH_X",
        "AOTI_BUILD_CACHE",
        "AOTI_BUILD_STORE",
        "INVOKE_DEBUG",
    ],
)
def test_variables_that_do_not(name: str) -> None:
    assert toolchain.environment({name: "value"}) == {}


def test_the_order_of_variables_is_irrelevant() -> None:
    one = toolchain.environment({"CXX": "a", "TORCH_X": "b"})
    other = toolchain.environment({"TORCH_X": "b", "CXX": "a"})
    assert list(one.items()) == list(other.items())


def test_the_process_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_SOMETHING_NEW", "1")
    assert toolchain.environment()["TORCHINDUCTOR_SOMETHING_NEW"] == "1"


def test_a_processor_is_always_there_and_a_gpu_if_the_driver_has_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cuda, "compute_capabilities", lambda: ())
    assert device_named("cpu").count()
    assert not device_named("cuda").count()
    monkeypatch.setattr(cuda, "compute_capabilities", lambda: ("9.0",))
    assert device_named("cuda").count()


def test_a_distribution_that_is_not_installed_has_no_version() -> None:
    assert distributions.version_of("no-such-distribution-at-all") is None
    assert distributions.version_of("torch")


def test_a_distribution_differs_with_its_installed_files_and_not_with_where_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, script, metadata = (
        "own/__init__.py,sha256=1,8\n",
        "../../bin/own,sha256={},9\n",
        "own-1.dist-info/INSTALLER,,\n",
    )

    def identity(record: str) -> str | None:
        info = tmp_path / "own-1.dist-info"
        info.mkdir(exist_ok=True)
        (info / "RECORD").write_text(record)
        forget_installed()
        return distributions.identity("own")

    monkeypatch.syspath_prepend(str(tmp_path))
    installed = identity(code + script.format(1))
    assert installed is not None
    assert installed.split()[0] == "1"
    assert identity(script.format(2) + metadata + code) == installed
    assert identity(code.replace("=1", "=2")) != installed


def compiler(path: Path, script: str) -> str:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_the_assembler_is_torchs_before_tritons_unless_the_user_names_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("TRITON_PTXAS_PATH", raising=False)
    monkeypatch.setattr(
        installed_torch.importlib.util, "find_spec", lambda name: package(tmp_path / name)
    )
    assert cuda.ptxas() is None
    assert toolchain.facts("cuda")["ptxas"] == programs.program_version("ptxas")
    for place in ("triton/backends/nvidia/bin/ptxas", "torch/bin/ptxas"):
        (tmp_path / place).parent.mkdir(parents=True)
        compiler(tmp_path / place, f"echo {place}")
        assert cuda.ptxas() == str(tmp_path / place)
        assert toolchain.facts("cuda")["ptxas"] == place
    monkeypatch.setenv("TRITON_PTXAS_PATH", compiler(tmp_path / "mine", "echo mine"))
    assert toolchain.facts("cuda")["ptxas"] == "mine"


def test_blackwell_has_an_assembler_of_its_own_if_triton_brings_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("TRITON_PTXAS_PATH", "TRITON_PTXAS_BLACKWELL_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(
        installed_torch.importlib.util, "find_spec", lambda name: package(tmp_path / name)
    )
    for place in ("torch/bin/ptxas", "triton/backends/nvidia/bin/ptxas-blackwell"):
        assert cuda.ptxas("10.0") == cuda.ptxas("9.0")
        (tmp_path / place).parent.mkdir(parents=True)
        compiler(tmp_path / place, f"echo {place}")
    assert cuda.ptxas("9.0") == str(tmp_path / "torch/bin/ptxas")
    assert cuda.ptxas("12.0") == str(tmp_path / "triton/backends/nvidia/bin/ptxas-blackwell")
    monkeypatch.setattr(cuda, "compute_capabilities", lambda: ("10.0",))
    assert toolchain.facts("cuda")["ptxas"] == "triton/backends/nvidia/bin/ptxas-blackwell"
    monkeypatch.setenv("TRITON_PTXAS_BLACKWELL_PATH", "/my/ptxas")
    assert (cuda.ptxas("10.0"), cuda.ptxas("9.0")) == (
        "/my/ptxas",
        str(tmp_path / "torch/bin/ptxas"),
    )


def package(directory: Path) -> importlib.machinery.ModuleSpec:
    return importlib.machinery.ModuleSpec(
        directory.name, None, origin=str(directory / "__init__.py")
    )


@pytest.mark.parametrize(
    ("count", "total", "cores", "text"),
    [
        (4, 4, 4, "4"),
        (4, 8, 4, "4 of 8"),  # a container with a set of processors
        (8, 8, 4, "8, 4 cores"),  # two threads a core
        (4, 8, 2, "4 of 8, 2 cores"),
        (4, None, None, "4"),
    ],
)
def test_the_number_of_processors_tells_hosts_apart_for_which_torch_compiles_other_code(
    monkeypatch: pytest.MonkeyPatch, count: int, total: int | None, cores: int | None, text: str
) -> None:
    monkeypatch.setattr(toolchain, "processors", lambda: count)
    monkeypatch.setattr(os, "cpu_count", lambda: total)
    monkeypatch.setattr(cpu, "physical_cores", lambda: cores)
    assert toolchain.facts("cpu")["cpu.count"] == text


@pytest.mark.parametrize(
    ("options", "counts"),
    [
        ("{}", True),
        ("{cpp.threads: 4}", False),
        ("{cpp.threads: -1}", True),
        ("{cpp.threads: 0}", True),
        ("{cpp.threads: true}", True),
        ("{cpp.dynamic_threads: true}", True),
        ("{cpp.threads: 4, freezing: true}", True),
        ("{cpp.threads: 4, freezing: false}", False),
        ("{cpp.threads: 4, joint_graph_constant_folding: true}", True),
        ("{cpp.threads: 4, aot_inductor.package_constants_in_so: true}", True),
    ],
)
def test_a_preset_with_threads_of_its_own_does_not_depend_on_the_processors(
    tmp_path: Path, options: str, counts: bool
) -> None:
    project = write_project(
        tmp_path,
        f"version: 1\ninductor_configs:\n  own: {options}\nmodels:\n  small:\n"
        "    source: model.py:build\n    inputs: [{shape: [2, 4]}]\n    inductor_configs: own\n",
    )
    assert ("cpu.count" in toolchain_parts(project.targets[0])["toolchain"]) == counts


@pytest.mark.parametrize("options", ["{}", "{cpp.threads: 4}"])
def test_an_artifact_with_fixed_threads_is_up_to_date_with_more_processors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: str
) -> None:
    project = write_project(
        tmp_path,
        f"version: 1\ninductor_configs:\n  own: {options}\nmodels:\n  small:\n"
        "    source: model.py:build\n    inputs: [{shape: [2, 4]}]\n"
        "    inductor_configs: [default, own]\n",
    )
    target = project.targets[1]
    publish_fake(project, target)
    assert action_of(project, target) == "up-to-date"
    monkeypatch.setattr(toolchain, "processors", lambda: 96)
    # The index knows several targets of one device and one architecture.
    (_, step) = plan(project, project.targets).steps
    assert step.action == ("build" if options == "{}" else "up-to-date")


def test_the_index_tells_targets_with_fixed_threads_from_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = write_project(
        tmp_path,
        "version: 1\ninductor_configs:\n  own: {cpp.threads: 4}\nmodels:\n  small:\n"
        "    source: model.py:build\n    inputs: [{shape: [2, 4]}]\n"
        "    inductor_configs: [own, default]\n",
    )
    for target in project.targets:
        publish_fake(project, target)
    assert [step.action for step in plan(project, project.targets).steps] == ["up-to-date"] * 2
    monkeypatch.setattr(toolchain, "processors", lambda: 96)
    actions = [step.action for step in plan(project, project.targets).steps]
    assert actions == ["up-to-date", "build"]
