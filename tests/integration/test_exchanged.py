"""While a command works with a package, it is exchanged for one of somebody else's. Foreign code
never runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import run_inv
from foreign import WAYS, exchanging, foreign_package, load_unchecked

from aoti_build.artifact.manifest import MODEL, VERIFY

# Runs a command; as soon as a worker is about to start, the published package is exchanged.
COMMAND = """
import os, sys
from pathlib import Path
from aoti_build.models_file import load_project
from aoti_build.work import check
from aoti_build.commands.run import artifact as run_artifact
from aoti_build.commands.run import command as run
from aoti_build.commands.verify import command as verify
from aoti_build.commands.verify import comparison as verify_comparison

command, foreign, published = sys.argv[1], sys.argv[2], sys.argv[3]
project = load_project(Path("models.yaml").absolute())
targets = tuple(target for target in project.targets if target.name == "linear/cpu")
real = check.run_worker
def exchanging(*arguments, **options):
    if os.path.exists(foreign):
        os.replace(foreign, published)
    return real(*arguments, **options)
for module in (check, run_artifact, verify_comparison):
    module.run_worker = exchanging
if command == "run":
    report = run.run(project, targets)
    print(report.targets[0].verdict)
else:
    report = verify.verify(project, targets, runtime=command)
    print(report.verdicts[0].verdict, report.verdicts[0].error)
"""


@pytest.fixture
def foreign(built: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A package that looks like the published one, and the file that its code makes when it is
    loaded."""
    marker = tmp_path / "ran"
    right = built / "artifacts/linear/cpu" / MODEL
    return foreign_package(right, marker, tmp_path), marker


@pytest.mark.parametrize("command", ["python", pytest.param("cpp", marks=pytest.mark.slow), "run"])
def test_what_takes_a_packages_place_is_not_executed(
    built: Path,
    foreign: tuple[Path, Path],
    command: str,
) -> None:
    package, marker = foreign
    directory = built / "artifacts/linear/cpu"
    (directory / VERIFY).unlink(missing_ok=True)
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, command, str(package), str(directory / MODEL)],
        cwd=built,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not package.exists(), "it was exchanged"
    assert not marker.exists(), "foreign code ran"
    if command == "run":
        assert done.stdout == "passed\n"
    else:
        assert done.stdout.startswith("refused ")
        assert "took its place" in done.stdout
        assert not (directory / VERIFY).exists()


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_a_package_that_is_foreign_half_of_the_time_is_not_executed(
    built: Path, foreign: tuple[Path, Path], tmp_path: Path, way: str
) -> None:
    package, marker = foreign
    with exchanging(built / "artifacts/linear/cpu" / MODEL, package, way, tmp_path):
        codes = {run_inv(built, "run", "--target", "linear/cpu").code for _ in range(4)}
    assert codes <= {0, 4}
    assert not marker.exists(), "foreign code ran"


def test_the_foreign_package_would_run(built: Path, foreign: tuple[Path, Path]) -> None:
    """Or the tests above would show nothing."""
    package, marker = foreign
    load_unchecked(package)
    assert marker.exists()
