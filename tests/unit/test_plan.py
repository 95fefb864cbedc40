"""The plan: every reason to build has its name and its place, and nothing else is a reason."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_projects import (
    CUDA_MODEL,
    ONE_MODEL,
    TWO_MODELS,
    action_of,
    contents,
    digests_of,
    edit,
    plan_of,
    publish_fake,
    write_project,
)

from aoti_build.artifact.manifest import MODEL, REFERENCE_DATA
from aoti_build.artifact.paths import artifact_directory
from aoti_build.commands.build import plan
from aoti_build.host import cpu, cuda, distributions, toolchain
from aoti_build.models_file import Project, load_project
from aoti_build.planning.current_state import current_parts
from aoti_build.planning.plan import Step

WITH_WEIGHTS = ONE_MODEL + "    weights: weights.safetensors\n"
RICH = """\
version: 1
inductor_configs:
  fast: {max_autotune: true}
models:
  small:
    source: model.py:build
    kwargs: {width: 4}
    seed: 0
    dims:
      batch: {min: 1, max: 8, example: 4}
    inputs:
      x: {shape: [batch, 4], dtype: float32}
    inductor_configs: [fast]
"""


@pytest.mark.usefixtures("published")
def test_what_was_just_built_is_up_to_date(project: Project) -> None:
    step = plan_of(project)
    assert (step.action, step.reasons) == ("up-to-date", ())
    assert step.manifest


def test_nothing_built_yet(project: Project) -> None:
    step = plan_of(project)
    assert (step.action, shown(step), step.manifest) == ("build", ["no-artifact"], None)


@pytest.mark.usefixtures("published")
def test_forced(project: Project) -> None:
    step = plan_of(project, force=True)
    assert (step.action, shown(step)) == ("build", ["forced"])


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("width: 4", "width: 5", "spec-changed: kwargs.width 4 -> 5"),
        ("width: 4", "width: 4, depth: 2", "spec-changed: kwargs.depth (none) -> 2"),
        ("seed: 0", "seed: 1", "spec-changed: seed 0 -> 1"),
        (
            "model.py:build",
            "model.py:other",
            "spec-changed: source model.py:build -> model.py:other",
        ),
        ("min: 1", "min: 2", "spec-changed: dims.batch.min 1 -> 2"),
        ("max: 8", "max: 9", "spec-changed: dims.batch.max 8 -> 9"),
        ("example: 4", "example: 5", "spec-changed: dims.batch.example 4 -> 5"),
        ("max: 8", "max: 8, multiple_of: 1", None),
        ("float32", "float64", "spec-changed: inputs.x.dtype float32 -> float64"),
        ("[batch, 4]", "[batch, 6]", "spec-changed: inputs.x.shape ['batch', 4] -> ['batch', 6]"),
        ("max_autotune: true", "max_autotune: false", "config-changed: max_autotune True -> False"),
        (
            "max_autotune: true",
            "max_autotune: true, freezing: true",
            "config-changed: freezing (none) -> True",
        ),
    ],
)
def test_an_edit_of_models_yaml(tmp_path: Path, old: str, new: str, expected: str | None) -> None:
    publish_fake(write_project(tmp_path, RICH))
    step = plan_of(write_project(tmp_path, RICH.replace(old, new)))
    assert shown(step) == ([expected] if expected else [])
    assert step.action == ("build" if expected else "up-to-date")


def test_a_portable_architecture_is_another_artifact(tmp_path: Path) -> None:
    publish_fake(write_project(tmp_path, RICH))
    step = plan_of(write_project(tmp_path, RICH + "    cpu: {isa: avx2}\n"))
    assert step.action == "build"
    assert "spec-changed: cpu.isa native -> avx2" in shown(step)


@pytest.mark.parametrize("name", ["model.py", "helper.py"])
@pytest.mark.usefixtures("published")
def test_an_edited_source(project: Project, name: str) -> None:
    (project.root / name).write_text("edited = True\n")
    step = plan_of(project)
    assert step.action == "build"
    assert [(reason.reason, reason.what) for reason in step.reasons] == [("source-changed", name)]
    assert step.reasons[0].old != step.reasons[0].new


@pytest.mark.usefixtures("published")
def test_an_edit_undone(project: Project) -> None:
    path = project.root / "helper.py"
    before = path.read_bytes()
    path.write_bytes(b"edited = True\n")
    assert action_of(project) == "build"
    path.write_bytes(before)
    assert action_of(project) == "up-to-date"


@pytest.mark.usefixtures("published")
def test_a_discovered_source_that_is_gone(project: Project) -> None:
    (project.root / "helper.py").unlink()
    (reason,) = plan_of(project).reasons
    assert (reason.reason, reason.what, reason.new) == ("source-changed", "helper.py", None)


@pytest.mark.usefixtures("published")
def test_another_version_of_a_library_that_the_model_imports(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = distributions.identity
    monkeypatch.setattr(
        distributions,
        "identity",
        lambda name, digests, path: "0.0" if name == "sympy" else real(name, digests, path),
    )
    reasons = plan_of(project).reasons
    assert ("source-changed", "sympy", "0.0") in [
        (reason.reason, reason.what, reason.new) for reason in reasons
    ]


@pytest.mark.parametrize("content", ["weights, version 2", "other, longer weights", ""])
def test_changed_weights(tmp_path: Path, content: str) -> None:
    project = write_project(tmp_path, WITH_WEIGHTS)
    publish_fake(project)
    assert action_of(project) == "up-to-date"
    (tmp_path / "weights.safetensors").write_text(content)
    step = plan_of(project)
    assert step.action == "build"
    assert [(reason.reason, reason.what) for reason in step.reasons] == [
        ("weights-changed", "weights.safetensors")
    ]


@pytest.mark.parametrize("fact", ["torch", "cxx.version", "python"])
@pytest.mark.usefixtures("published")
def test_another_tool(project: Project, monkeypatch: pytest.MonkeyPatch, fact: str) -> None:
    facts = toolchain.facts("cpu")
    monkeypatch.setattr(
        toolchain, "facts", lambda device, *_, **__: {**facts, fact: f"another, for {device}"}
    )
    step = plan_of(project)
    assert step.action == "build"
    assert shown(step) == [f"toolchain-changed: {fact} {facts[fact]} -> another, for cpu"]


@pytest.mark.usefixtures("published")
def test_a_tool_that_appears(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = toolchain.facts("cpu")
    monkeypatch.setattr(toolchain, "facts", lambda *_, **__: {**facts, "new-tool": "1"})
    assert shown(plan_of(project)) == ["toolchain-changed: new-tool (none) -> 1"]


@pytest.mark.usefixtures("published")
def test_another_processor(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "cpu_features", lambda: ("avx", "sse"))
    (reason,) = plan_of(project).reasons
    assert (reason.reason, reason.what, reason.new) == (
        "toolchain-changed",
        "cpu.features",
        "avx sse",
    )


def test_another_processor_does_not_matter_above_a_portable_architecture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = write_project(tmp_path, ONE_MODEL + "    cpu: {isa: avx2}\n")
    publish_fake(project)
    monkeypatch.setattr(cpu, "cpu_features", lambda: ("avx", "sse"))
    assert action_of(project) == "up-to-date"


@pytest.mark.usefixtures("published")
def test_a_variable_that_changes_code(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_FREEZING", "1")
    assert shown(plan_of(project)) == ["toolchain-changed: TORCHINDUCTOR_FREEZING (none) -> 1"]


@pytest.mark.usefixtures("published")
def test_a_variable_that_changes_no_code(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_LOGS", "+all")
    monkeypatch.setenv("SOMETHING_ELSE", "1")
    assert action_of(project) == "up-to-date"


@pytest.mark.usefixtures("published")
def test_a_compiler_named_by_the_environment(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", sys.executable)
    reasons = plan_of(project).reasons
    assert {reason.reason for reason in reasons} == {"toolchain-changed"}
    assert {"CXX", "cxx.version"} <= {reason.what for reason in reasons}


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[3] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", [MODEL, REFERENCE_DATA])
@pytest.mark.parametrize("harm", [truncate, flip_a_bit, Path.unlink])
def test_a_damaged_file(project: Project, published: Path, harm: Any, name: str) -> None:
    harm(published / name)
    step = plan_of(project)
    assert step.action == "build"
    assert [(reason.reason, reason.what) for reason in step.reasons] == [("artifact-damaged", name)]


@pytest.mark.parametrize("harm", [truncate, Path.unlink])
def test_a_damaged_manifest(project: Project, published: Path, harm: Any) -> None:
    harm(published / "manifest.json")
    step = plan_of(project)
    assert step.action == "build"
    assert [reason.reason for reason in step.reasons] == ["artifact-damaged"]


@pytest.mark.usefixtures("published")
def test_a_manifest_of_a_later_version(project: Project) -> None:
    edit(project, lambda document: document.update(format_version=99))
    step = plan_of(project)
    assert step.action == "build"
    assert "99" in shown(step)[0]


def test_artifacts_swapped(tmp_path: Path) -> None:
    project = write_project(tmp_path, TWO_MODELS)
    first, second = (artifact_directory(project, target) for target in project.targets)
    for target in project.targets:
        publish_fake(project, target)
    shutil.move(first, tmp_path / "aside")
    shutil.move(second, first)
    shutil.move(tmp_path / "aside", second)
    for step in plan(project, project.targets).steps:
        assert step.action == "build"
        assert [reason.reason for reason in step.reasons] == ["artifact-damaged"]


def test_one_file_taken_from_another_artifact(tmp_path: Path) -> None:
    project = write_project(tmp_path, TWO_MODELS)
    for target in project.targets:
        publish_fake(project, target)
    first, second = (artifact_directory(project, target) for target in project.targets)
    shutil.copyfile(second / MODEL, first / MODEL)
    assert [action_of(project, target) for target in project.targets] == ["build", "up-to-date"]


def test_a_tolerance_needs_a_check_and_no_build(tmp_path: Path) -> None:
    publish_fake(write_project(tmp_path, ONE_MODEL))
    step = plan_of(write_project(tmp_path, ONE_MODEL + "    tolerance: {atol: 0.5}\n"))
    assert step.action == "recheck"
    assert [(reason.reason, reason.what) for reason in step.reasons] == [
        ("spec-changed", "tolerance")
    ]


def test_a_tolerance_and_an_edit_need_a_build(tmp_path: Path) -> None:
    publish_fake(write_project(tmp_path, ONE_MODEL))
    assert (
        action_of(
            write_project(
                tmp_path, ONE_MODEL.replace("width: 4", "width: 5") + "    tolerance: {atol: 0.5}\n"
            )
        )
        == "build"
    )


def test_a_device_that_is_not_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "compute_capabilities", lambda: ())
    made = plan(project := write_project(tmp_path, CUDA_MODEL), project.targets)
    assert [step.action for step in made.steps] == ["unavailable"]
    assert "no-device: cuda" in shown(made.steps[0])
    assert made.work == ()


def test_a_device_that_is_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "compute_capabilities", lambda: ("9.0",))
    project = write_project(tmp_path, CUDA_MODEL)
    assert shown(plan_of(project)) == ["no-artifact"]
    publish_fake(project)
    assert action_of(project) == "up-to-date"
    monkeypatch.setattr(cuda, "compute_capabilities", lambda: ("8.9",))
    assert shown(plan_of(project)) == ["toolchain-changed: cuda.compute_capability 9.0 -> 8.9"]


def test_another_order_and_comments_change_nothing(tmp_path: Path) -> None:
    project = write_project(tmp_path, TWO_MODELS)
    for target in project.targets:
        publish_fake(project, target)
    head, first, second = (
        TWO_MODELS.replace("  second:", "SPLIT  second:")
        .replace("  first:", "SPLIT  first:")
        .split("SPLIT")
    )
    lines = (
        (head + second + "# a comment\n\n" + first).replace("inputs:", "inputs:   ").splitlines()
    )
    turned = write_project(
        tmp_path, "\n".join(f"{line}  # {number}" for number, line in enumerate(lines)) + "\n"
    )
    assert [target.name for target in turned.targets] == ["second/cpu", "first/cpu"]
    assert [action_of(turned, target) for target in turned.targets] == ["up-to-date"] * 2


def test_an_edit_of_one_model_leaves_the_other(tmp_path: Path) -> None:
    project = write_project(tmp_path, TWO_MODELS)
    for target in project.targets:
        publish_fake(project, target)
    edited = write_project(tmp_path, TWO_MODELS.replace("[3, 4]", "[5, 4]"))
    made = plan(edited, edited.targets)
    assert [step.action for step in made.steps] == ["up-to-date", "build"]
    assert [step.target.name for step in made.work] == ["second/cpu"]


def test_planning_changes_nothing_but_its_cache(project: Project, published: Path) -> None:
    def contents_but_cache() -> dict[str, bytes]:
        return {
            name: data
            for name, data in contents(project.root).items()
            if name != "artifacts/.stat-cache.json"
        }

    before = contents_but_cache()
    (project.root / "helper.py").touch()
    flip_a_bit(published / MODEL)
    plan_of(project)
    flip_a_bit(published / MODEL)
    assert contents_but_cache() == before


@pytest.mark.usefixtures("published")
def test_a_copied_project_is_up_to_date_there_too(project: Project, tmp_path: Path) -> None:
    shutil.copytree(project.root, tmp_path / "copy")
    assert action_of(write_project(tmp_path / "copy")) == "up-to-date"


@pytest.mark.usefixtures("published")
def test_through_a_symbolic_link_to_the_project(project: Project, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(project.root, target_is_directory=True)
    linked = load_project(tmp_path / "link" / "models.yaml")
    for _ in range(2):
        assert [action_of(linked), action_of(project)] == ["up-to-date"] * 2
    (project.root / "helper.py").write_text("edited = True\n")
    assert [action_of(linked), action_of(project)] == ["build"] * 2


def test_published_through_a_symbolic_link_to_the_project(project: Project, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(project.root, target_is_directory=True)
    linked = load_project(tmp_path / "link" / "models.yaml")
    publish_fake(linked)
    assert [action_of(project), action_of(linked)] == ["up-to-date"] * 2


@pytest.mark.parametrize("edited", ["another file behind the link", "another link"])
def test_a_source_behind_a_symbolic_link(project: Project, tmp_path: Path, edited: str) -> None:
    """A worker reports the file that was imported, and the link under its name in models.yaml."""
    real, link = tmp_path / "shared.py", project.root / "model.py"
    link.rename(real)
    link.symlink_to(real)
    recorded = {"sources": {"model.py": "", str(real): ""}}
    publish_fake(
        project,
        source=current_parts(project, project.targets[0], recorded, digests_of(project)).parts,
    )
    for _ in range(2):
        assert action_of(project) == "up-to-date"
    if edited == "another link":
        link.unlink()
        link.write_text("edited = True\n")
        expected = {"model.py"}
    else:
        real.write_text("edited = True\n")
        expected = {"model.py", str(real)}
    assert {(reason.reason, reason.what) for reason in plan_of(project).reasons} == {
        ("source-changed", name) for name in expected
    }


def names_no_path(document: dict[str, Any]) -> None:
    document["source"]["sources"]["nul\0"] = ""


def names_no_distribution(document: dict[str, Any]) -> None:
    document["source"]["distributions"][""] = "1"


def has_no_number(document: dict[str, Any]) -> None:
    document["source"]["spec"]["seed"] = float("inf")


def lacks_a_group(document: dict[str, Any]) -> None:
    del document["source"]["weights"]


@pytest.mark.parametrize(
    "harm", [names_no_path, names_no_distribution, has_no_number, lacks_a_group]
)
@pytest.mark.usefixtures("published")
def test_parts_that_nobody_wrote_are_never_an_exception(
    project: Project, harm: Callable[[dict[str, Any]], None]
) -> None:
    edit(project, harm)
    assert plan_of(project).action in ("build", "up-to-date")


@pytest.mark.usefixtures("published")
def test_the_recipe_is_a_part(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain, "FACTS_VERSION", 99)
    step = plan_of(project)
    assert step.action == "build"
    assert [(reason.reason, reason.what) for reason in step.reasons] == [
        ("toolchain-changed", "recipe")
    ]


def shown(step: Step) -> list[str]:
    return [str(reason) for reason in step.reasons]
