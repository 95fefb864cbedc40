"""Which files the weights of a model are, what a change in one does, and what becomes of names.
Without torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from small_projects import ONE_MODEL, plan_of, publish_fake, write_project

from aoti_build.commands.build import plan
from aoti_build.models_file import Project, check_files, load_project
from aoti_build.models_file.project import Weights
from aoti_build.models_file.records import target_from_json, target_to_json
from aoti_build.models_file.rules import RefusedError, weights_path
from aoti_build.models_file.weights import renamed, weights_files

INDEX = "model.safetensors.index.json"


def project_with(root: Path, weights: str) -> Project:
    return write_project(root, f"{ONE_MODEL}    weights: {weights}\n")


def write_shards(directory: Path, *names: str) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    weight_map = {f"layer{at}.weight": name for at, name in enumerate(names)}
    (directory / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    for name in names:
        (directory / name).write_text(f"content of {name}")


def changes(project: Project) -> list[tuple[str, str]]:
    return [(reason.reason, reason.what) for reason in plan_of(project).reasons]


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("../checkpoints/w.pt", "../checkpoints/w.pt"),
        ("a/../../checkpoints/./w.pt", "../checkpoints/w.pt"),
        ("~/checkpoints/w.pt", "~/checkpoints/w.pt"),
        ("{absolute}/w.pt", "{absolute}/w.pt"),
    ],
)
def test_a_file_outside_the_project_is_named_as_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str, name: str
) -> None:
    shared = tmp_path / "checkpoints"
    shared.mkdir()
    (shared / "w.pt").write_text("version 1")
    monkeypatch.setenv("HOME", str(tmp_path))
    project = project_with(tmp_path / "project", written.format(absolute=shared))
    manifest = publish_fake(project)
    assert list(manifest.source["weights"]) == [name.format(absolute=shared)]
    check_files(project, project.targets)
    assert (
        plan(project, project.targets).steps[0].action == "up-to-date"
    )  # by the long way, which leaves an index
    assert plan(project, project.targets).steps[0].action == "up-to-date"
    (shared / "w.pt").write_text("version 2, longer")
    assert plan(project, project.targets).steps[0].action == "build"
    assert changes(project) == [("weights-changed", name.format(absolute=shared))]


def test_every_shard_that_an_index_names_counts(tmp_path: Path) -> None:
    project = project_with(tmp_path, f"parts/{INDEX}")
    write_shards(tmp_path / "parts", "a.safetensors", "b.safetensors")
    publish_fake(project)
    assert changes(project) == []
    (tmp_path / "parts/b.safetensors").write_text("version 2")
    assert changes(project) == [("weights-changed", "parts/b.safetensors")]
    write_shards(tmp_path / "parts", "a.safetensors")
    assert changes(project) == [
        ("weights-changed", "parts/b.safetensors"),
        ("weights-changed", f"parts/{INDEX}"),
    ]


@pytest.mark.parametrize("shard", ["../a.safetensors", "/a.safetensors", "..", ""])
def test_a_shard_lies_beside_its_index(tmp_path: Path, shard: str) -> None:
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"w": shard}}))
    assert list(weights_files(Weights(INDEX), tmp_path)) == [INDEX]


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"weight_map": []}', '{"weight_map": {}}'])
def test_a_broken_index_stands_alone(tmp_path: Path, content: str) -> None:
    (tmp_path / INDEX).write_text(content)
    assert list(weights_files(Weights(INDEX), tmp_path)) == [INDEX]


def test_a_missing_shard_is_found_before_the_build(tmp_path: Path) -> None:
    project = project_with(tmp_path, "{file: " + INDEX + "}")
    write_shards(tmp_path, "a.safetensors", "b.safetensors")
    (tmp_path / "b.safetensors").unlink()
    with pytest.raises(
        Exception, match=f"8:21: no such file: b.safetensors .looked for {tmp_path}"
    ):
        check_files(project, project.targets)


@pytest.mark.parametrize(
    ("rules", "name", "expected"),
    [
        ([("layers.", "encoder.")], "layers.0.weight", "encoder.0.weight"),
        ([("layers.", "encoder.")], "other.layers.0.weight", "other.layers.0.weight"),
        ([("", "encoder.")], "0.weight", "encoder.0.weight"),
        ([("encoder.", "")], "encoder.0.weight", "0.weight"),
        ([("a.", "b."), ("a.c.", "d.")], "a.c.w", "b.c.w"),
        ([("*.gamma", "*.weight")], "bert.norm.gamma", "bert.norm.weight"),
        ([("layers.*.wq.*", "blocks.*.q.*")], "layers.11.wq.weight", "blocks.11.q.weight"),
        ([("layers.*.wq.*", "blocks.*.q.*")], "layers.11.wk.weight", "layers.11.wk.weight"),
        ([("a.+", "b.")], "a.aa", "a.aa"),
    ],
)
def test_rename(rules: Any, name: str, expected: str) -> None:
    assert renamed(name, rules) == expected


def test_a_mapping_survives_the_cache_of_projects(tmp_path: Path) -> None:
    text = (
        '{file: w.pt, key: state.model, prefix: "net.", rename: {b.: c., a.: b.}, ignore:'
        ' ["*.ids"]}'
    )
    (target,) = project_with(tmp_path, text).targets
    expected = Weights("w.pt", "state.model", "net.", (("b.", "c."), ("a.", "b.")), ("*.ids",))
    assert target.model.weights == expected
    assert (
        target_from_json(json.loads(json.dumps(target_to_json(target)))).model.weights == expected
    )
    (again,) = load_project(tmp_path / "models.yaml").targets
    assert again.model.weights == expected


def test_the_order_of_renaming_rules_counts(tmp_path: Path) -> None:
    project = project_with(tmp_path, "{file: weights.safetensors, rename: {a.: b., b.: c.}}")
    publish_fake(project)
    assert changes(project) == []
    project = project_with(tmp_path, "{file: weights.safetensors, rename: {b.: c., a.: b.}}")
    assert changes(project) == [("spec-changed", "weights.rename")]


def test_a_path_below_home_stays_below_it() -> None:
    assert weights_path("~//models/../w.pt") == "~/w.pt"
    for text in ("~/../w.pt", "~/a/../../w.pt"):
        with pytest.raises(RefusedError, match="leads out of the home directory"):
            weights_path(text)
