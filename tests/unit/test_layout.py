"""Where things lie: no two targets ever share a lock, a log or a staging directory."""

from __future__ import annotations

import itertools
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
from small_projects import write_project

from aoti_build.artifact.paths import (
    artifact_directory,
    lock_path,
    log_path,
    reader_log_path,
    staging_prefix,
)
from aoti_build.models_file import Project


@pytest.mark.parametrize(
    ("models", "presets"),
    [
        (["a", "a--cpu-x"], ["x", "x--cpu"]),
        (["a", "a-cpu"], ["x", "x-x"]),
        (["a", "a.b", "a.cpu"], ["x"]),
        (["a", "a_b"], ["b", "cpu", "cuda"]),
        pytest.param(["a"], ["x", "x.y"]),
        pytest.param(["a"], ["x", "x.verify", "x.run"]),
    ],
    ids=str,
)
def test_names_that_are_alike_do_not_meet(
    tmp_path: Path, models: list[str], presets: list[str]
) -> None:
    project = project_of(tmp_path, models, presets)
    assert len(project.targets) == len(models) * (1 + len(presets))
    paths = [
        path
        for target in project.targets
        for path in (
            artifact_directory(project, target),
            lock_path(project, target),
            log_path(project, target),
            reader_log_path(project, target, "verify"),
            reader_log_path(project, target, "run"),
        )
    ]
    assert len(set(paths)) == len(paths)
    for one, other in itertools.permutations(project.targets, 2):
        assert not fnmatchcase(f"{staging_prefix(one)}a1b2", f"{staging_prefix(other)}*")


def project_of(root: Path, models: list[str], presets: list[str]) -> Project:
    lines = [
        "version: 1",
        "inductor_configs:",
        *(f"  {preset}: {{}}" for preset in presets),
        "models:",
    ]
    for model in models:
        lines += [f"  {model}:", "    source: model.py:build", "    inputs: [{shape: [2, 4]}]"]
        lines += [f"    inductor_configs: [default, {', '.join(presets)}]"]
    return write_project(root, "\n".join(lines) + "\n")
