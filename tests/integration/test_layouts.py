"""A repository as people have it: packages below src/, models.yaml in deploy/, artifacts elsewhere,
and the tasks as a sub-collection of the repository's own."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from conftest import Finished, run_inv

TASKS = """\
from invoke import Collection, task

from aoti_build.tasks import ns as aoti


@task
def lint(c):
    print("nothing to lint")


ns = Collection(lint)
models = Collection("models")
models.add_collection(aoti, name="aoti")
ns.add_collection(models)
ns.configure({"aoti_build": {"file": "deploy/models.yaml"}})
"""
MODELS = """\
version: 1
root: ..
python_path: [src]
artifacts: out/aoti
models:
  ranker:
    source: ranking.model:build
    inputs: deploy/inputs.py:example
    weights: data/ranker.safetensors
"""
MODEL = """\
import pathlib

from torch import nn

from ranking.sizes import WIDTH

# The working directory is the root.
assert pathlib.Path("deploy/models.yaml").is_file()


def build():
    return nn.Linear(WIDTH, 2)
"""
INPUTS = "import torch\n\n\ndef example():\n    return (torch.randn(3, 4),)\n"


def write_repository(root: Path) -> None:
    package = root / "src" / "ranking"
    for directory in (package, root / "deploy", root / "data"):
        directory.mkdir(parents=True)
    (root / "tasks.py").write_text(TASKS)
    (root / "deploy" / "models.yaml").write_text(MODELS)
    (root / "deploy" / "inputs.py").write_text(INPUTS)
    (package / "__init__.py").write_text("")
    (package / "model.py").write_text(MODEL)
    (package / "sizes.py").write_text("WIDTH = 4\n")
    import torch
    from safetensors.torch import save_file

    weights = {"weight": torch.randn(2, 4), "bias": torch.randn(2)}
    save_file(weights, root / "data" / "ranker.safetensors")


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("foreign") / "repository"
    write_repository(root)
    helpers = root.parent / "helpers"
    helpers.mkdir()
    built = run_inv(root, "models.aoti.build", "--json", env=pythonpath(helpers))
    assert built.code == 0, built.err
    row = built.target("ranker/cpu")
    assert (row["action"], row["path"]) == ("compiled", "out/aoti/ranker/cpu/model.pt2")
    return root


@pytest.fixture
def copy(repository: Path, tmp_path: Path) -> Path:
    shutil.copytree(repository, tmp_path / "repository")
    return tmp_path / "repository"


def test_the_artifact_and_the_working_state_lie_where_models_yaml_says(repository: Path) -> None:
    assert not (repository / "artifacts").exists()
    assert not (repository / "deploy" / "artifacts").exists()
    names = {path.name for path in (repository / "out" / "aoti").iterdir()}
    assert {".gitignore", ".store", ".locks", ".stat-cache.json", "ranker"} <= names
    manifest = json.loads((repository / "out/aoti/ranker/cpu/manifest.json").read_text())
    assert manifest["models_file"] == "deploy/models.yaml"
    sources = manifest["source"]["sources"]
    assert {"src/ranking/model.py", "src/ranking/sizes.py", "deploy/inputs.py"} <= sources.keys()


def test_a_second_build_has_nothing_to_do_from_any_directory(repository: Path) -> None:
    for directory in (repository, repository / "src" / "ranking"):
        assert action(run_inv(directory, "models.aoti.build", "--json")) == ("up-to-date", [])


def test_verify_and_run_find_the_source(repository: Path) -> None:
    verified = run_inv(repository, "models.aoti.verify", "--fresh")
    assert verified.code == 0, verified.err
    ran = run_inv(repository, "models.aoti.run", "--input", "random")
    assert ran.code == 0, ran.err


def test_the_text_of_pythonpath_rebuilds_nothing(copy: Path, tmp_path: Path) -> None:
    (tmp_path / "unrelated").mkdir()
    (tmp_path / "unrelated" / "other.py").write_text("")
    paths = (tmp_path / "unrelated", tmp_path / "absent", Path("src"))
    for env in (pythonpath(*paths), pythonpath()):
        assert action(run_inv(copy, "models.aoti.build", "--json", env=env)) == ("up-to-date", [])


def test_a_module_that_pythonpath_puts_in_front_of_an_installed_one_is_built_in(
    copy: Path, tmp_path: Path
) -> None:
    """`ranking` below src/ still comes first, since python_path goes before PYTHONPATH."""
    for name in ("ranking", "networkx"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise ImportError('not the real one')\n")
    shadowed = run_inv(copy, "models.aoti.status", "--json", env=pythonpath(tmp_path))
    (row,) = shadowed.json["targets"]
    assert [reason["what"] for reason in row["reasons"]] == ["networkx"]


def test_the_directory_of_artifacts_can_be_chosen_and_moved(copy: Path, tmp_path: Path) -> None:
    (copy / "out" / "aoti").rename(tmp_path / "moved")
    words = ("--artifacts", str(tmp_path / "moved"), "--json")
    assert action(run_inv(copy, "models.aoti.build", *words)) == ("up-to-date", [])
    (row,) = run_inv(copy, "models.aoti.status", "--json").json["targets"]
    assert row["reasons"][0]["reason"] == "no-artifact"


def test_a_module_that_is_not_found_names_the_paths_and_the_key(copy: Path) -> None:
    file = copy / "deploy" / "models.yaml"
    file.write_text(MODELS.replace("python_path: [src]\n", ""))
    failed = run_inv(copy, "models.aoti.build")
    assert failed.code == 2
    said = failed.out + failed.err
    assert "models.yaml:" in said
    assert f"searched: {copy}" in said
    assert "python_path: [src]" in said


def test_a_hint_names_the_task_as_the_repository_calls_it(copy: Path) -> None:
    shutil.rmtree(copy / "out")
    failed = run_inv(copy, "models.aoti.verify")
    assert failed.code == 3
    assert "invoke models.aoti.build --target ranker/cpu" in failed.out + failed.err


def action(finished: Finished) -> tuple[str, list[str]]:
    assert finished.code == 0, finished.err
    row = finished.target("ranker/cpu")
    return row["action"], [str(reason) for reason in row["reasons"]]


def pythonpath(*directories: Path) -> dict[str, str]:
    """The variable with these directories before those that this process has."""
    own = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    return {"PYTHONPATH": os.pathsep.join([*map(str, directories), *own])}
