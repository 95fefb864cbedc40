"""How the files that models.yaml names as sources are imported."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

from aoti_build._torch.program.model import load_callable
from aoti_build.errors import UsageError
from aoti_build.models_file.project import Source

CODE = """\
from pathlib import Path

with Path(__file__).with_suffix(".log").open("a") as log:
    log.write("imported\\n")


def build():
    return None


def inputs():
    return build
"""


@pytest.fixture(autouse=True)
def _modules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "modules", dict(sys.modules))


def test_a_file_with_source_and_inputs_is_imported_once(tmp_path: Path) -> None:
    """What it registers with torch when it is imported may be registered once only."""
    (tmp_path / "one_file.py").write_text(CODE)
    build = load_callable(Source("build", path="one_file.py"), tmp_path, "models.yaml:3:5")
    inputs = load_callable(Source("inputs", path="one_file.py"), tmp_path, "models.yaml:4:5")
    assert inputs() is build
    assert (tmp_path / "one_file.log").read_text() == "imported\n"


def test_a_file_with_the_name_of_a_library_is_imported_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text(CODE)
    for attribute in ("build", "inputs"):
        load_callable(Source(attribute, path="json.py"), tmp_path, "models.yaml:3:5")
    assert (tmp_path / "json.log").read_text() == "imported\n"


def test_a_file_that_failed_is_not_taken_for_imported(tmp_path: Path) -> None:
    (tmp_path / "broken_file.py").write_text("def build():\n    return None\n\n1 / 0\n")
    for _ in range(2):
        with pytest.raises(UsageError, match="does not import"):
            load_callable(Source("build", path="broken_file.py"), tmp_path, "models.yaml:3:5")
