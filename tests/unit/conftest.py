"""Fixtures of the unit tests: no real worker by accident, a small project, and an artifact that
looks published."""

from __future__ import annotations

import importlib
import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from releases import Release, make_release
from small_projects import REAL_PYTHON, FakeWorker, publish_fake, replace_worker, write_project

import aoti_build.models_file.parsing.resolve
from aoti_build.artifact.paths import artifact_directory
from aoti_build.models_file import Project
from aoti_build.work.processes import allow_starts

# How long an example takes says nothing of it: machines are shared.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")


@pytest.fixture(autouse=True)
def _no_real_worker(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A unit test that starts a real worker would compile for minutes: it fails instead, and says
    why.

    It patches with the test's own `monkeypatch`. With another one, a test that replaces the same
    method would put this guard back after it had been taken away.
    """
    real_init = subprocess.Popen.__init__

    def guarded(self: Any, command: Any, *args: Any, **kwargs: Any) -> None:
        words = [command] if isinstance(command, str) else [str(word) for word in command]
        if words[0] == REAL_PYTHON and "aoti_build._torch" in words:
            raise AssertionError("a unit test started a real worker; use the fake_worker fixture")
        real_init(self, command, *args, **kwargs)

    monkeypatch.setattr(subprocess.Popen, "__init__", guarded)
    yield
    allow_starts()


@pytest.fixture(autouse=True)
def _no_compiler_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """A build with a pretended worker needs no compiler, so the checks of one find nothing
    wrong."""
    monkeypatch.setattr("aoti_build.work.host_checks.quick_checks", lambda *_, **__: [])


@pytest.fixture(autouse=True)
def _own_caches(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is read from, or left in, the caches of whoever runs the tests."""
    caches = tmp_path_factory.mktemp("caches")
    monkeypatch.setenv("AOTI_BUILD_CACHE", str(caches / "build"))
    monkeypatch.setenv("XDG_STATE_HOME", str(caches / "state"))


@pytest.fixture(autouse=True)
def _no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is not waited for. A test of durability puts its own function in this place."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """One model, one CPU target, nothing built."""
    return write_project(tmp_path / "project")


@pytest.fixture
def published(project: Project) -> Path:
    """The directory of an up-to-date artifact of `project`'s target."""
    publish_fake(project)
    return artifact_directory(project, project.targets[0])


@pytest.fixture
def fake_worker(monkeypatch: pytest.MonkeyPatch) -> FakeWorker:
    """In place of every worker; tell it what to answer."""
    modules = (
        "work.check",
        "work.schedule",
        "work.target",
        "commands.run.artifact",
        "commands.release_diff.run",
        "commands.verify.command",
        "measurement.bench_samples",
        "measurement.samples",
    )
    for module in modules:
        importlib.import_module(f"aoti_build.{module}")  # must be here to be replaced
    fake = FakeWorker()
    replace_worker(monkeypatch, fake)
    return fake


@pytest.fixture
def parses(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were really parsed."""
    found: list[Path] = []
    real = aoti_build.models_file.parsing.resolve.parse

    def counting(content: bytes, file: Path, tuned: bytes = b"") -> Project:
        found.append(file)
        return real(content, file, tuned)

    monkeypatch.setattr(aoti_build.models_file.parsing.resolve, "parse", counting)
    return found


@pytest.fixture
def full_device(tmp_path: Path) -> Path:
    """A device that is always full. Not the system's own: a fault in what is tested here, run by
    root, would replace it."""
    path = tmp_path / "full"
    if os.geteuid() != 0:
        path.symlink_to("/dev/full")
        return path
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 7))
        os.close(os.open(path, os.O_WRONLY))
    except OSError as error:
        pytest.skip(f"there can be no device here: {error}")
    return path


@pytest.fixture(scope="module")
def made() -> list[Release]:
    """The release that all tests of a module copy, once it is made."""
    return []


@pytest.fixture
def release(
    made: list[Release],
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    fake_worker: FakeWorker,
) -> Release:
    """A signed release of a test's own, which no worker has seen yet."""
    tmp_path.chmod(0o700)
    if not made:
        made.append(make_release(tmp_path_factory.mktemp("made")))
    fake_worker.calls.clear()
    return made[0].copy(tmp_path / "received")
