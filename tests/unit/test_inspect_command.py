"""`invoke inspect`: what it shows of targets, of foreign files and of damaged ones, and what two
packages differ in."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from packages import (
    AARCH64,
    BLOB,
    FOLDER,
    KERNEL,
    KEY,
    LIBRARY,
    METADATA,
    STEM,
    WRAPPER,
    X86_64,
    cubin,
    fatbin,
    here,
    members,
    write,
)
from packages import publish_package as publish
from small_projects import TWO_MODELS, contents, inv, write_project

from aoti_build.artifact.manifest import MANIFEST, MODEL
from aoti_build.commands.inspect.command import InspectReport, inspect, inspect_file
from aoti_build.commands.inspect.diff import DiffReport, diff
from aoti_build.errors import ArtifactError
from aoti_build.models_file import Project
from aoti_build.report.inspect_text import diff_lines, inspect_lines

OTHER_MACHINE = AARCH64 if here() == X86_64 else X86_64


def text_of(report: InspectReport | DiffReport) -> str:
    return "\n".join(
        inspect_lines(report) if isinstance(report, InspectReport) else diff_lines(report)
    )


def test_a_target_with_all_that_is_known_of_it(project: Project) -> None:
    publish(project)
    report = inspect(project, project.targets)
    text = text_of(report)
    assert report.exit_code == 0
    for said in (
        "small/cpu  artifacts/small/cpu/model.pt2",
        "made by: aoti_build 0.1.0, 2024-01-01T00:00:00+00:00, commit cccccccccccc",
        "x  float32 [batch, 8]",
        "scale  always 2.0",
        "batch: 2 to 16, multiples of 2",
        "needs libtorch.so, libc.so.6",
        "at least GLIBC 2.34",
        "compiled with -march=native",
        "kernels: 1 cpp",
        "operators of torch: addmm_out",
        "a.weight  float32 [12, 8]  384 B",
        "wrapper_weights.blob 384 B",
        "checked against eager: 1 cases, largest absolute error 1e-07",
        "reference.safetensors  27 B",
    ):
        assert said in text
    assert report.artifacts[0].manifest is not None
    assert report.artifacts[0].manifest.key in text


def test_a_foreign_file_by_what_it_says_itself(tmp_path: Path) -> None:
    report = InspectReport((inspect_file(write(tmp_path / "model.pt2")),))
    text = text_of(report)
    assert report.exit_code == 0
    assert "made by: not aoti_build" in text
    assert "args[0]  float32 [s31, 8]" in text
    assert "s31: 2 to 16" in text
    assert report.as_json()["artifacts"][0]["manifest"] is None


def test_where_the_weights_are(tmp_path: Path) -> None:
    """In a file beside the library, inside of it, or nowhere: constants that the code folds from
    others are none."""
    files = members(here())
    assert weights_of(tmp_path, files) == {
        "where": "files",
        "bytes": 384,
        "files": [{"name": BLOB, "bytes": 384}],
    }
    del files[BLOB]
    assert weights_of(tmp_path, files) == {"where": "library", "bytes": 384, "files": []}
    files[WRAPPER] = files[WRAPPER].replace(b"from_folded = false", b"from_folded = true")
    assert weights_of(tmp_path, files) == {"where": "none", "bytes": 0, "files": []}


def weights_of(tmp_path: Path, files: Mapping[str, bytes]) -> Any:
    package = inspect_file(write(tmp_path / "model.pt2", files)).package
    assert package is not None
    return package["models"][0]["weights"]


def test_who_made_a_package_is_in_its_metadata(tmp_path: Path) -> None:
    made = inspect_file(write(tmp_path / "model.pt2", members(here(), AOTI_BUILD_KEY=KEY))).package
    assert made is not None
    assert made["made_by"] == {"aoti_build": True, "key": KEY}


def test_gpu_binaries_say_their_architecture_themselves(tmp_path: Path) -> None:
    files = {
        **members(here(), AOTI_DEVICE_KEY="cuda", AOTI_COMPUTE_CAPABILITY="80"),
        f"{FOLDER}one.cubin": cubin(0x06005A04, 8, "release 13.3, V13.3.33\0-arch sm_90a "),
        f"{FOLDER}two.cubin": b"no ELF",
        f"{FOLDER}three.spv": b"\x03\x02\x23\x07",
        f"{FOLDER}four.fatbin": fatbin((2, 80), (2, 90), (1, 90)),
    }
    report = InspectReport((inspect_file(write(tmp_path / "model.pt2", files)),))
    text = text_of(report)
    assert (
        "kernels: 1 cpp, 1 cubin sm_90a, 1 cubin, 1 spv, 1 fatbin sm_80, sm_90, compute_90" in text
    )
    assert "triton_poi_fused_0  sm_90a  ptxas V13.3.33" in text
    assert "compute capability 80" in text


def test_a_damaged_target_is_refused_and_shown(project: Project) -> None:
    """An altered byte of a weight: the package can be read, and the manifest tells that it is
    another one."""
    directory = publish(project)
    data = (directory / MODEL).read_bytes()
    (directory / MODEL).write_bytes(data.replace(bytes(384), b"\1" * 384))
    report = inspect(project, project.targets)
    assert report.exit_code == 4
    assert "artifacts/small/cpu/model.pt2: model.pt2 does not match the manifest" in text_of(report)
    assert "a.weight" in text_of(report)


def test_a_truncated_package_still_has_its_manifest(project: Project) -> None:
    directory = publish(project)
    (directory / MODEL).write_bytes((directory / MODEL).read_bytes()[:-100])
    report = inspect(project, project.targets)
    text = text_of(report)
    assert report.exit_code == 4
    assert "truncated zip" in text
    assert "processor features" in text


def test_a_manifest_that_cannot_be_read_leaves_the_package(project: Project) -> None:
    directory = publish(project)
    (directory / MANIFEST).write_text("{")
    report = inspect(project, project.targets)
    assert report.exit_code == 4
    assert "the artifact is damaged: manifest.json cannot be read" in text_of(report)
    assert "a.weight" in text_of(report)


def test_an_altered_foreign_file_is_refused_and_shown(tmp_path: Path) -> None:
    path = write(tmp_path / "model.pt2")
    path.write_bytes(path.read_bytes().replace(bytes(384), b"\1" * 384))
    report = InspectReport((inspect_file(path),))
    assert report.exit_code == 4
    assert "wrapper_weights.blob is damaged" in text_of(report)
    assert "a.weight" in text_of(report)


def test_another_machines_package_is_refused_and_shown(tmp_path: Path) -> None:
    report = InspectReport((inspect_file(write(tmp_path / "model.pt2", members(OTHER_MACHINE))),))
    assert report.exit_code == 4
    (problem,) = report.artifacts[0].problems
    assert "built for" in problem.message
    assert "this host is" in problem.message
    assert "a.weight" in text_of(report)


def test_what_was_never_built_is_no_error_beside_what_was(tmp_path: Path) -> None:
    project = write_project(tmp_path / "project", TWO_MODELS)
    assert inspect(project, project.targets).exit_code == 3
    publish(project, project.targets[1])
    report = inspect(project, project.targets)
    assert report.exit_code == 0
    assert [artifact.state for artifact in report.artifacts] == ["missing", "sound"]
    assert "build it first: invoke build --target first/cpu" in text_of(report)


def test_a_terminal_is_not_given_orders(tmp_path: Path) -> None:
    files = members(
        here(), EVIL="\x1b]0;owned\x07", AOTI_CPU_ISA="AVX2\nmade by: somebody you trust"
    )
    text = text_of(InspectReport((inspect_file(write(tmp_path / "model.pt2", files)),)))
    assert "\x1b" not in text
    assert "EVIL: \ufffd]0;owned\ufffd" in text
    assert not any(line.startswith("made by") for line in text.splitlines())


def test_long_lists_are_cut_for_people_and_whole_for_programs(tmp_path: Path) -> None:
    files = members(here())
    files[KERNEL] = b"".join(
        b'extern "C" void cpp_fused_%d(float* x)\n' % number for number in range(40)
    )
    report = InspectReport((inspect_file(write(tmp_path / "model.pt2", files)),))
    lines = inspect_lines(report, rows=60)
    assert any("and 28 more" in line for line in lines)
    assert lines[-1] == "--all shows everything"
    assert "cpp_fused_39" in text_of(report)
    assert len(report.as_json()["artifacts"][0]["package"]["models"][0]["kernels"]) == 40


@pytest.mark.parametrize("rows", [8, 24, 50])
def test_a_report_fits_on_a_screen(tmp_path: Path, rows: int) -> None:
    project = write_project(tmp_path, TWO_MODELS)
    for target in project.targets:
        publish(project, target)
    report = inspect(project, project.targets)
    lines = inspect_lines(report, rows=rows, width=60)
    assert len(lines) < rows
    assert max(map(len, lines)) <= 60
    assert lines[0].startswith("first/cpu")
    assert any(line.startswith("second/cpu") for line in lines)
    # A larger screen shows more, and without a limit nothing is left out.
    assert len(lines) <= len(inspect_lines(report, rows=rows * 2))
    assert "--all" not in text_of(report)


def test_equal_packages_do_not_differ(tmp_path: Path) -> None:
    """Neither the name of the folder inside nor the file names that inductor derives from contents
    count."""
    files = members(here())
    other = {
        name.replace(STEM, STEM[::-1]).replace("model/", "copy/", 1): data
        for name, data in files.items()
    }
    report = compared(tmp_path, files, other)
    assert not report.differences
    assert report.exit_code == 0
    assert "no difference" in text_of(report)


def test_the_facts_that_differ(tmp_path: Path) -> None:
    a, b = members(here()), members(here(), AOTI_CPU_ISA="AVX512")
    b[BLOB] = b"\1" * 384
    b[f"{FOLDER}extra.json"] = b"{}"
    name = next(name for name in b if name.endswith(".wrapper.cpp"))
    b[name] = (
        b[name]
        .replace(b"> 16)", b"> 32)")
        .replace(b"{12, 8}", b"{24, 4}")
        .replace(b"addmm_out", b"mm_out")
    )
    b[KERNEL] += b'extern "C"  void  cpp_fused_add_1(float* x)\n'
    report = compared(tmp_path, a, b)
    found = {(one.part, one.what) for one in report.differences}
    assert found == {
        ("metadata", "AOTI_CPU_ISA"),
        ("signature", "dim s31"),
        ("build", "operators"),
        ("kernels", "cpp_fused_add_1"),
        ("constants", "a.weight"),
        ("members", "*.wrapper.cpp"),
        ("members", "*.kernel.cpp"),
        ("members", "*.wrapper_metadata.json"),
        ("members", "*.wrapper_weights.blob"),
        ("members", "extra.json"),
    }
    text = text_of(report)
    assert "AOTI_CPU_ISA: AVX2 -> AVX512" in text
    assert "dim s31: min 2, max 16 -> min 2, max 32" in text
    assert "cpp_fused_add_1: only in b" in text


def test_two_targets_differ_in_the_parts_of_their_keys(tmp_path: Path) -> None:
    project = write_project(tmp_path / "project", TWO_MODELS)
    for target in project.targets:
        publish(project, target)
    report = diff(*inspect(project, project.targets).artifacts)
    assert {(one.part, one.what) for one in report.differences} >= {
        ("spec", "inputs.0.shape"),
        ("keys", "key"),
    }
    assert not [one for one in report.differences if one.part == "members"]


def test_a_package_against_a_target_has_no_keys_to_compare(
    project: Project, tmp_path: Path
) -> None:
    publish(project)
    foreign = inspect_file(write(tmp_path / "model.pt2"))
    assert not diff(foreign, inspect(project, project.targets).artifacts[0]).differences


def test_a_damaged_side_is_compared_as_far_as_it_can_be(tmp_path: Path) -> None:
    write(tmp_path / "a.pt2", members(OTHER_MACHINE))
    write(tmp_path / "b.pt2", members(here()))
    report = diff(inspect_file(tmp_path / "a.pt2"), inspect_file(tmp_path / "b.pt2"))
    assert report.exit_code == 4
    assert "AOTI_MACHINE" in text_of(report)
    (tmp_path / "b.pt2").write_bytes(b"")
    with pytest.raises(ArtifactError, match="the file is empty"):
        diff(inspect_file(tmp_path / "a.pt2"), inspect_file(tmp_path / "b.pt2"))


def compared(tmp_path: Path, a: Mapping[str, bytes], b: Mapping[str, bytes]) -> DiffReport:
    sides = [
        inspect_file(write(tmp_path / name, files)) for name, files in (("a.pt2", a), ("b.pt2", b))
    ]
    return diff(*sides)


def test_the_task_through_invoke(project: Project) -> None:
    publish(project)
    write(
        project.root / "foreign.pt2",
        {**members(here()), METADATA: members(here(), AOTI_CPU_ISA="NEON")[METADATA]},
    )
    (project.root / "bad.pt2").write_bytes(b"PK")

    def answer(*words: str) -> tuple[int, Any]:
        done = inv("inspect", *words, "--json", cwd=project.root, PYTHONDONTWRITEBYTECODE="1")
        assert "Traceback" not in done.stderr
        return done.returncode, json.loads(done.stdout)

    code, document = answer()
    assert (code, document["ok"], document["artifacts"][0]["state"]) == (0, True, "sound")
    before = contents(project.root)
    code, document = answer("--path", "bad.pt2")
    assert (code, document["ok"], document["artifacts"][0]["state"]) == (4, False, "refused")
    code, document = answer("--target", "small", "--diff", "foreign.pt2")
    assert (code, document["equal"], document["a"]["name"]) == (0, False, "small/cpu")
    code, document = answer("--path", "foreign.pt2", "--diff", "small/cpu")
    assert (code, document["b"]["name"]) == (0, "small/cpu")
    code, document = answer("--path", "foreign.pt2", "--diff", "bad.pt2")
    assert (code, document["error"]["kind"]) == (4, "artifact")
    code, document = answer("--path", "foreign.pt2", "--target", "small")
    assert (code, document["error"]["kind"]) == (2, "usage")
    assert contents(project.root) == before


def test_one_artifact_is_compared_with_one(tmp_path: Path) -> None:
    project = write_project(tmp_path / "project", TWO_MODELS)
    done = inv("inspect", "--diff", "first/cpu", cwd=project.root)
    assert done.returncode == 2
    assert "2 targets are selected" in done.stderr


def test_a_file_needs_no_project(tmp_path: Path) -> None:
    (tmp_path / "tasks.py").write_text("from aoti_build.tasks import ns\n")
    write(tmp_path / "model.pt2")
    done = inv("inspect", "--path", "model.pt2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert LIBRARY.rpartition("/")[2] in done.stdout
