"""`release-diff --run` with real packages: what they answer, and what never runs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path
from typing import Any

import pytest
from conftest import Finished, run_inv

pytestmark = pytest.mark.slow

# It has state, so the later calls of a case depend on the earlier ones.
SOURCE = """
    import torch
    from torch import nn


    class Model(nn.Module):
        def __init__(self, seed):
            super().__init__()
            torch.manual_seed(seed)
            self.linear = nn.Linear(16, 32)
            self.register_buffer("total", torch.zeros(32))

        def forward(self, x):
            y = torch.softmax(torch.tanh(self.linear(x)).exp(), -1)
            self.total.add_(y.sum(0))
            return y, self.total + 1


    def build(seed=3):
        return Model(seed)
"""
MODELS = """\
version: 1
inductor_configs:
  own: {options}
models:
  model:
    source: net.py:build
    kwargs: {{seed: {seed}}}
    dims: {{batch: {{min: 1, max: 8, example: 4}}}}
    inputs: [{{shape: [batch, 16]}}]
    inductor_configs: [own]
"""
# Another formula of tanh rounds in another way.
USUAL = "{cpp.use_decompose_tanh: false}"
DECOMPOSED = "{cpp.use_decompose_tanh: true}"


def make(root: Path, version: str, *, seed: int = 3, options: str = USUAL) -> str:
    """A release of the project, with these options of inductor."""
    (root / "models.yaml").write_text(MODELS.format(seed=seed, options=options))
    words = ["--version", version, "--out", version, "--allow-dirty", "--quiet"]
    done = run_inv(root, "release", *words)
    assert done.code == 0, done.err
    return version


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the releases 1, 2 (other options) and 3 (other weights)."""
    root = tmp_path_factory.mktemp("place")
    root.chmod(0o700)
    (root / "net.py").write_text(textwrap.dedent(SOURCE))
    (root / "tasks.py").write_text("from aoti_build.tasks import ns\n")
    make(root, "1")
    make(root, "2", options=DECOMPOSED)
    make(root, "3", seed=4)
    return root


def compare(place: Path, *words: str) -> Finished:
    return run_inv(place, "release-diff", *words, "--json")


def drifts(finished: Finished) -> tuple[dict[str, float], dict[str, float]]:
    """The relative errors of the references and of the packages, by case and output."""
    (row,) = finished.json["targets"]
    documents: list[Any] = [row["drift"], row["packages"]["drift"]]
    found = []
    for document in documents:
        assert document["skipped"] == []
        names = {f"{entry['case']}, {entry['output']}": entry for entry in document["outputs"]}
        assert all(entry["why"] is None for entry in names.values()), document
        found.append({name: entry["relative_rmse"] for name, entry in names.items()})
    return found[0], found[1]


def test_other_options_show_in_the_packages_alone(place: Path) -> None:
    finished = compare(place, "1", "2", "--run", "--unsigned")
    assert finished.code == 0, finished.err
    references, packages = drifts(finished)
    assert set(references.values()) == {0.0}
    assert references.keys() == packages.keys()
    assert 0 < max(packages.values()) < 1e-5
    limited = compare(place, "1", "2", "--run", "--unsigned", "--fail-if", "drift>0")
    assert limited.code == 3
    assert compare(place, "1", "2", "--fail-if", "drift>0").code == 0


def test_other_weights_show_in_both(place: Path) -> None:
    finished = compare(place, "1", "3", "--run", "--unsigned")
    assert finished.code == 0, finished.err
    references, packages = drifts(finished)
    # Later calls, and the buffers after them, are compared as well.
    assert any("buffer total" in name for name in packages)
    for name, value in references.items():
        assert packages[name] == pytest.approx(value, rel=1e-3), name
        assert value > 1e-3


def test_the_same_packages_answer_the_same(place: Path, tmp_path: Path) -> None:
    """By the job itself, since equal packages of two releases are not called."""
    from aoti_build.commands.release_diff import run
    from aoti_build.commands.release_diff.command import release_diff
    from aoti_build.commands.release_diff.opened import RunOptions

    patch = pytest.MonkeyPatch()
    patch.setattr(run, "_package_files", id)
    try:
        diff = release_diff(str(place / "1"), str(place / "1"), run=RunOptions(unsigned=True))
    finally:
        patch.undo()
    packages = diff.targets[0].packages
    assert packages is not None
    assert packages.drift is not None
    assert {output.relative_rmse for output in packages.drift.outputs} == {0.0}


def foreign(package: Path, marker: Path) -> bytes:
    """A package like this one, whose library makes the file `marker` when it is loaded."""
    source, library = marker.with_suffix(".c"), marker.with_suffix(".so")
    source.write_text(
        "#include <fcntl.h>\n__attribute__((constructor)) static void run(void) "
        f'{{ open("{marker}", O_CREAT | O_WRONLY, 0600); }}\n'
    )
    subprocess.run(["cc", "-shared", "-fPIC", str(source), "-o", str(library)], check=True)
    made = marker.with_suffix(".pt2")
    with zipfile.ZipFile(package) as right, zipfile.ZipFile(made, "w") as wrong:
        for entry in right.infolist():
            is_code = entry.filename.endswith(".so")
            wrong.writestr(entry.filename, library.read_bytes() if is_code else right.read(entry))
    return made.read_bytes()


# The package of the new release is exchanged or written in place, as a worker is about to start.
EXCHANGE = """
import os, sys
from aoti_build.commands.release_diff import run
from aoti_build.commands.release_diff.command import release_diff
from aoti_build.commands.release_diff.opened import RunOptions
from aoti_build.errors import AotiBuildError

old, new, foreign, package, way = sys.argv[1:]
real = run.run_worker
content = open(foreign, "rb").read()
calls = []
def exchanging(*arguments, **options):
    calls.append(1)
    if way == "exchanged":
        with open(package + ".new", "wb") as file:
            file.write(content)
        os.replace(package + ".new", package)
    else:
        with open(package, "r+b") as file:
            file.write(content)
    return real(*arguments, **options)
run.run_worker = exchanging
try:
    release_diff(old, new, run=RunOptions(unsigned=True))
except AotiBuildError as error:
    print(type(error).__name__, int(error.exit_code), len(calls))
"""


@pytest.mark.parametrize("way", ["exchanged", "written"])
def test_what_takes_the_place_of_a_package_is_not_run(
    place: Path, tmp_path: Path, way: str
) -> None:
    for name in ("1", "3"):
        shutil.copytree(place / name, tmp_path / name)
    package = tmp_path / "3" / "models/model/cpu-own/model.pt2"
    marker = tmp_path / "ran"
    foreign(package, marker)
    words = [tmp_path / "1", tmp_path / "3", marker.with_suffix(".pt2"), package, way]
    done = subprocess.run(
        [sys.executable, "-c", EXCHANGE, *map(str, words)],
        cwd=tmp_path,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.stdout == "ListingMismatch 4 2\n", done.stderr
    assert not marker.exists()


def test_nothing_foreign_runs_unasked(place: Path, tmp_path: Path) -> None:
    """Without --run, without a key, and after a change."""
    for name in ("1", "3"):
        shutil.copytree(place / name, tmp_path / name)
    package = tmp_path / "3" / "models/model/cpu-own/model.pt2"
    marker = tmp_path / "ran"
    package.write_bytes(foreign(package, marker))
    assert run_inv(place, "release-diff", str(tmp_path / "1"), str(tmp_path / "3")).code == 0
    words = ["release-diff", str(tmp_path / "1"), str(tmp_path / "3"), "--run"]
    assert run_inv(place, *words).code == 2
    assert run_inv(place, *words, "--unsigned").code == 4
    assert not marker.exists()
