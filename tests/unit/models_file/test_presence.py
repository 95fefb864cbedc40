"""Files that models.yaml names: asked for by a build of the targets that need them, and by nothing
else."""

from __future__ import annotations

from pathlib import Path

import pytest

from aoti_build.errors import SpecError
from aoti_build.models_file import check_files, load_project, select

MODELS = """\
version: 1
models:
  one: {source: "y.py:c", inputs: "z.py:c", weights: w.pt}
  two: {source: "there.py:c", inputs: [{shape: [1]}]}
"""


def test_missing_files_are_named_with_their_places(tmp_path: Path) -> None:
    (tmp_path / "models.yaml").write_text(MODELS)
    (tmp_path / "there.py").touch()
    project = load_project(tmp_path / "models.yaml")
    check_files(project, select(project.targets, "two"))
    with pytest.raises(SpecError) as caught:
        check_files(project, project.targets)
    assert str(caught.value).splitlines() == [
        f"models.yaml:3:17: no such file: y.py (looked for {tmp_path / 'y.py'})",
        f"models.yaml:3:35: no such file: z.py (looked for {tmp_path / 'z.py'})",
        f"models.yaml:3:54: no such file: w.pt (looked for {tmp_path / 'w.pt'})",
    ]
