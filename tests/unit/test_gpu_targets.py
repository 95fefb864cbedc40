"""CUDA targets for a named architecture: which a host can build, what it asks inductor for, and who
may load them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from packages import CUDA, FOLDER, cubin, elf, fatbin, here, members, write
from small_projects import (
    CUDA_MODEL,
    FakeWorker,
    action_of,
    edit,
    plan_of,
    publish_fake,
    store_of,
    write_project,
)

from aoti_build.artifact.manifest import MODEL, Manifest, read_manifest
from aoti_build.artifact.paths import artifact_directory
from aoti_build.artifact.pt2.gpu_code import common_architectures
from aoti_build.artifact.pt2.package import open_archive
from aoti_build.commands.build import BuildReport, build
from aoti_build.commands.run.command import run
from aoti_build.commands.verify.command import verify
from aoti_build.host import cuda
from aoti_build.messages import BuildJob, Job
from aoti_build.models_file import Project, Target
from aoti_build.planning.current_state import toolchain_parts
from aoti_build.report.verify_text import verify_lines
from aoti_build.runtime import explain
from aoti_build.work.context import Staging
from aoti_build.work.gpu import gpu_code_of

PORTABLE = {
    "cuda.arch": "80",
    "aot_inductor.emit_multi_arch_kernel": True,
    "triton.autotune_at_compile_time": True,
}


@pytest.fixture(autouse=True)
def gpus(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The compute capabilities of this host's GPUs, for tests to change; its torch is one like
    2.14."""
    found = ["9.0"]
    monkeypatch.setattr(cuda, "compute_capabilities", lambda: tuple(found))
    torch_can(monkeypatch, tool="fatbinary")
    return found


def torch_can(monkeypatch: pytest.MonkeyPatch, *, can: bool = True, tool: str | None) -> None:
    monkeypatch.setattr(cuda, "packages_for_other_gpus", lambda: can)
    monkeypatch.setattr(cuda, "fatbin_tool", lambda: tool)


def project_for(root: Path, arch: str) -> Project:
    return write_project(root, CUDA_MODEL + f"    cuda: {{arch: {arch}}}\n")


def only(project: Project) -> Target:
    (target,) = project.targets
    return target


@pytest.mark.parametrize(
    ("gpu", "arch", "patches"),
    [
        ("8.0", "native", {}),
        ("8.0", "sm_80", PORTABLE),
        ("9.0", "sm_80", PORTABLE),
        ("8.6", "sm_80", PORTABLE),
        ("9.0", "sm_90", {}),  # torch compiles for sm_90a then, and PTX of that runs nowhere else
        ("9.0", "sm_90a", {}),
        ("10.0", "sm_90", {**PORTABLE, "cuda.arch": "90"}),
        ("12.0", "sm_100", {**PORTABLE, "cuda.arch": "100"}),
    ],
)
def test_what_inductor_is_asked_for(
    tmp_path: Path, gpus: list[str], gpu: str, arch: str, patches: Mapping[str, Any]
) -> None:
    gpus[:] = [gpu]
    target = only(project_for(tmp_path, arch))
    assert target.hardware.cannot_build(target.architecture) is None
    assert target.compile_options == patches
    assert ("fatbin" in toolchain_parts(target)["toolchain"]) is bool(patches)
    assert toolchain_parts(target)["toolchain"]["cuda.compute_capability"] == gpu


@pytest.mark.parametrize(("can", "tool"), [(False, "fatbinary"), (True, None)])
def test_without_the_means_the_own_arch_is_compiled_as_inductor_finds_it(
    tmp_path: Path, gpus: list[str], monkeypatch: pytest.MonkeyPatch, tool: str | None, *, can: bool
) -> None:
    gpus[:] = ["8.0"]
    torch_can(monkeypatch, can=can, tool=tool)
    target = only(project_for(tmp_path, "sm_80"))
    assert (target.hardware.cannot_build(target.architecture), target.compile_options) == (None, {})


@pytest.mark.parametrize(
    ("arch", "can", "tool", "why"),
    [
        ("sm_80", False, "nvcc", "compiles for the GPU it finds"),
        ("sm_80", True, None, "neither nvcc nor fatbinary is here"),
        ("sm_100", True, "nvcc", "compute capability 10.0; this host's GPU has 9.0"),
    ],
)
def test_what_cannot_be_built_here_is_unavailable_and_fails_with_strict_only(
    tmp_path: Path,
    fake_worker: FakeWorker,
    monkeypatch: pytest.MonkeyPatch,
    arch: str,
    tool: str | None,
    why: str,
    *,
    can: bool,
) -> None:
    torch_can(monkeypatch, can=can, tool=tool)
    project = project_for(tmp_path, arch)
    report = build(project, project.targets)
    assert (actions(report), report.exit_code) == (["unavailable"], 0)
    reason, _ = report.outcomes[0].reasons
    assert reason.reason == "no-device"
    assert why in reason.what
    strict = build(project, project.targets, strict=True)
    assert (actions(strict), strict.exit_code) == (["unavailable"], 1)
    assert why in str(strict.outcomes[0].error)
    verified = verify(project, project.targets)
    assert ([one.verdict for one in verified.verdicts], verified.exit_code) == (["unavailable"], 0)
    assert why in "\n".join(verify_lines(verified))
    assert verify(project, project.targets, strict=True).exit_code == 3
    assert run(project, project.targets).targets[0].verdict == "unavailable"
    assert fake_worker.calls == []


def test_without_any_gpu_the_word_is_the_device(tmp_path: Path, gpus: list[str]) -> None:
    gpus.clear()
    target = only(project_for(tmp_path, "sm_80"))
    assert target.hardware.cannot_build(target.architecture) == "cuda"


def test_a_package_for_another_gpu_is_built_checked_and_recorded_by_what_it_holds(
    tmp_path: Path, fake_worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = jobs_of(fake_worker)
    project = project_for(tmp_path, "sm_80")
    holding(monkeypatch, "sm_80", "compute_80")
    report = build(project, project.targets, strict=True)
    assert (actions(report), report.exit_code, fake_worker.calls) == (
        ["compiled"],
        0,
        ["build small", "check"],
    )
    assert isinstance(jobs[0], BuildJob)
    assert jobs[0].architecture_options == PORTABLE
    needs = manifest_of(project).requires
    assert (needs["compute_capability"], needs["gpu_code"]) == ("8.0", ["sm_80", "compute_80"])


def test_a_package_that_does_not_run_on_the_gpu_that_built_it_is_unverified(
    tmp_path: Path, gpus: list[str], fake_worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus[:] = ["10.0"]
    project = project_for(tmp_path, "sm_90")
    holding(monkeypatch, "sm_90a", "compute_90a")
    report = build(project, project.targets)
    lacks = "built for compute capability 9.0 (sm_90a, compute_90a), this GPU has 10.0"
    assert (actions(report), report.outcomes[0].unverified) == (["compiled"], lacks)
    assert fake_worker.calls == ["build small"]
    assert build(project, project.targets, strict=True).exit_code == 1
    report_ = verify(project, project.targets)
    assert ([one.verdict for one in report_.verdicts], report_.exit_code) == (["unavailable"], 0)


def test_the_own_arch_by_name_takes_the_code_of_native(
    tmp_path: Path, fake_worker: FakeWorker
) -> None:
    project = project_for(tmp_path, "[native, sm_90]")
    report = build(project, project.targets)
    assert [outcome.target.name for outcome in report.outcomes] == [
        "small/cuda",
        "small/cuda-sm_90",
    ]
    assert sorted(actions(report)) == ["compiled", "reused"]
    assert sorted(fake_worker.decisions) == ["compile", "take"]
    assert [
        manifest_of(project, target).requires["compute_capability"] for target in project.targets
    ] == ["9.0", "9.0"]


def test_another_arch_in_the_list_rebuilds_nothing(tmp_path: Path, fake_worker: FakeWorker) -> None:
    build_all(project_for(tmp_path, "native"))
    fake_worker.calls.clear()
    longer = build_all(project_for(tmp_path, "[native, sm_80]"))
    assert actions(longer) == ["up-to-date", "compiled"]


@pytest.mark.parametrize(
    ("code", "verdict", "code_of_exit"),
    [
        (["sm_80", "compute_80"], "passed", 0),
        (["sm_80"], "unavailable", 0),
        (None, "unavailable", 0),
    ],
)
def test_an_artifact_from_elsewhere_is_judged_by_its_code(
    tmp_path: Path,
    fake_worker: FakeWorker,
    monkeypatch: pytest.MonkeyPatch,
    code: list[str] | None,
    verdict: str,
    code_of_exit: int,
) -> None:
    torch_can(monkeypatch, can=False, tool=None)
    project = project_for(tmp_path, "sm_80")
    publish_fake(project)
    edit(project, lambda document: document["requires"].update({"gpu_code": code} if code else {}))
    assert action_of(project) == "unavailable"  # it could not be built here
    report = verify(project, project.targets)
    assert (report.verdicts[0].verdict, report.exit_code) == (verdict, code_of_exit)
    if verdict == "passed":
        assert (
            report.verdicts[0].out_of_date == ()
        )  # that it could not be built here says nothing of its sources
        assert run(project, project.targets).targets[0].out_of_date == ()
        fake_worker.calls.remove("run small")
    chosen = explain("small", artifacts=project.artifacts).chosen
    assert (chosen is not None) is (verdict == "passed")
    assert fake_worker.calls == (["check", "probe"] if verdict == "passed" else [])


def test_one_for_the_gpu_of_its_builder_is_refused_as_before(
    tmp_path: Path, gpus: list[str]
) -> None:
    project = project_for(tmp_path, "native")
    publish_fake(project)
    gpus[:] = ["8.0"]
    assert verify(project, project.targets).exit_code == 4


@pytest.mark.usefixtures("fake_worker")
def test_the_key_has_the_tool_that_makes_fat_binaries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = project_for(tmp_path, "sm_80")
    monkeypatch.setattr(cuda, "fatbin_tool_version", lambda: "13.0")
    build_all(project)
    assert action_of(project) == "up-to-date"
    monkeypatch.setattr(cuda, "fatbin_tool_version", lambda: "13.1")
    assert [str(reason) for reason in plan_of(project).reasons] == [
        "toolchain-changed: fatbin 13.0 -> 13.1"
    ]


def test_kernels_and_tuning_are_shared_with_native(tmp_path: Path) -> None:
    project = project_for(tmp_path, "[native, sm_80]")
    parts = [toolchain_parts(target) for target in project.targets]
    assert parts[0] != parts[1]
    first, second = (store_of(project).kernels(part) for part in parts)
    assert first == second


# What packages hold


def package(path: Path, **kernels: bytes) -> Path:
    files = {f"{FOLDER}{name.replace('_dot_', '.')}": content for name, content in kernels.items()}
    return write(path, {**members(here()), **files})


CUBIN_90A = cubin(0x06005A04, 8, "release 13.3, V13.3.33\0-arch sm_90a ")


@pytest.mark.parametrize(
    ("kernels", "code"),
    [
        ({"a_dot_cubin": CUBIN_90A}, ("sm_90a",)),
        (
            {"a_dot_fatbin": fatbin((2, 80), (1, 80)), "b_dot_fatbin": fatbin((2, 80), (1, 80))},
            ("sm_80", "compute_80"),
        ),
        ({"a_dot_fatbin": fatbin((2, 80), (1, 80)), "b_dot_fatbin": fatbin((2, 80))}, ("sm_80",)),
        ({"a_dot_fatbin": fatbin((2, 80)), "b_dot_cubin": CUBIN_90A}, ()),
        ({"a_dot_fatbin": fatbin((2, 80)), "b_dot_cubin": b"of no known kind"}, ()),
        ({"a_dot_cubin": elf(CUDA, abi=99)}, ()),
        ({}, ()),
    ],
)
def test_the_code_of_a_package_is_what_all_its_kernels_have(
    tmp_path: Path, kernels: Mapping[str, bytes], code: tuple[str, ...]
) -> None:
    with open_archive(package(tmp_path / MODEL, **kernels)) as archive:
        assert common_architectures(archive) == code
    staging = Staging(tmp_path, tmp_path, tmp_path / "log")
    found = gpu_code_of(only(project_for(tmp_path / "project", "sm_80")), staging)
    assert found == ({"gpu_code": list(code)} if code else {})


def test_packages_for_the_cpu_and_unreadable_ones_have_none(tmp_path: Path) -> None:
    staging = Staging(tmp_path, tmp_path, tmp_path / "log")
    cuda = only(project_for(tmp_path / "project", "sm_80"))
    assert gpu_code_of(cuda, staging) == {}
    (tmp_path / MODEL).write_bytes(b"no package")
    assert gpu_code_of(cuda, staging) == {}
    package(tmp_path / MODEL, a_dot_cubin=CUBIN_90A)
    assert gpu_code_of(Target(cuda.model, "cpu"), staging) == {}


# What the toolchain tells


def test_whether_torch_can_package_for_another_gpu_is_read_in_its_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(cuda, "torch_directory", lambda: tmp_path)
    source = tmp_path / "_inductor" / "codegen" / "cuda" / "compile_utils.py"
    source.parent.mkdir(parents=True)
    answers = []
    for content in (
        None,
        "def _nvcc_arch_as_compile_option():\n",
        "def _aoti_cuda_target_arch() -> str:\n",
    ):
        if content is not None:
            source.write_text(content)
        cuda.packages_for_other_gpus.cache_clear()
        answers.append(cuda.packages_for_other_gpus())
    cuda.packages_for_other_gpus.cache_clear()
    assert answers == [False, False, True]


def test_the_tool_is_what_inductor_will_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    for variable in ("CUDACXX", "TORCH_CUDA_ARCH_LIST"):
        monkeypatch.delenv(variable, raising=False)

    def program(directory: str, name: str) -> str:
        path = tmp_path / directory / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
        return str(path)

    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert cuda.fatbin_tool() is None
    nvcc = program("bin", "nvcc")
    assert cuda.fatbin_tool() == nvcc
    fatbinary = program("bin", "fatbinary")
    assert cuda.fatbin_tool() == fatbinary
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "8.0 9.0")
    assert cuda.fatbin_tool() == nvcc  # which alone makes machine code for further GPUs
    monkeypatch.delenv("TORCH_CUDA_ARCH_LIST")
    monkeypatch.setenv("CUDACXX", program("cuda", "nvcc"))
    assert cuda.fatbin_tool() == fatbinary
    beside = program("cuda", "fatbinary")
    assert cuda.fatbin_tool() == beside


def jobs_of(fake_worker: FakeWorker) -> list[Job[Any]]:
    jobs: list[Job[Any]] = []
    fake_worker.during = lambda job_name, job: jobs.append(job)
    return jobs


def holding(monkeypatch: pytest.MonkeyPatch, *code: str) -> None:
    """What the pretended package is found to hold."""
    monkeypatch.setattr(
        "aoti_build.work.target.gpu_code_of", lambda target, staging: {"gpu_code": list(code)}
    )


def build_all(project: Project) -> BuildReport:
    return build(project, project.targets, jobs=1)


def actions(report: BuildReport) -> list[str]:
    return [outcome.action for outcome in report.outcomes]


def manifest_of(project: Project, target: Target | None = None) -> Manifest:
    manifest = read_manifest(artifact_directory(project, target or project.targets[0]))
    assert isinstance(manifest, Manifest), manifest
    return manifest
