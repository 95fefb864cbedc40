"""The checks of directories, locks and memory, with file systems that refuse."""

from __future__ import annotations

import errno
import fcntl
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from aoti_build import resources
from aoti_build.checks import places
from aoti_build.checks.finding import FAIL, OK, WARN, Finding

_GIB = 1 << 30


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets what every file system says of itself."""

    def answer(*, free: int = 100 * _GIB, inodes: int = 10**6, flags: int = 0) -> None:
        status = SimpleNamespace(f_flag=flags, f_bavail=free // 512, f_frsize=512, f_files=10**7, f_favail=inodes)
        monkeypatch.setattr(os, "statvfs", lambda _: status)

    return answer


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch) -> None:
    """No temporary file can be made anywhere. Permission bits would not keep root out."""

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)


def test_places_that_are_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AOTI_BUILD_CACHE", str(tmp_path / "cache"))
    artifacts = tmp_path / "project" / "artifacts"
    found = places.check_places(artifacts, artifacts / ".store")
    assert [finding.check for finding in found] == [
        "temp directory", "compile directory", "artifacts", "store", "file locks",
    ]  # fmt: skip
    assert {finding.outcome for finding in found} <= {OK, WARN}, found
    assert not artifacts.exists(), "a check makes no artifacts directory"
    assert list(tmp_path.rglob("*doctor*")) == []


def test_outside_a_project_there_is_less_to_check() -> None:
    names = {finding.check for finding in places.check_places(None, None)}
    assert names == {"temp directory", "compile directory", "file locks"}


def test_a_temporary_directory_mounted_noexec(tmp_path: Path, disk: Callable[..., None]) -> None:
    disk(flags=os.ST_NOEXEC)
    finding = places.check_temporary(tmp_path)
    assert (finding.outcome, finding.stops) == (FAIL, True)
    assert "noexec" in finding.said
    assert "TMPDIR" in (finding.fix or "")
    assert places.check_cache(tmp_path).outcome == WARN


@pytest.mark.parametrize(
    ("numbers", "outcome", "said"),
    [
        ({"free": 8 << 20}, FAIL, "8 MiB free"),
        ({"free": _GIB // 2}, WARN, "0.5 GiB free"),
        ({"inodes": 3}, FAIL, "3 inodes free"),
        ({"inodes": 300}, WARN, "300 inodes free"),
        ({}, OK, "100.0 GiB free"),
    ],
)
def test_space_and_inodes(
    tmp_path: Path, disk: Callable[..., None], numbers: dict[str, int], outcome: str, said: str
) -> None:
    disk(**numbers)
    checks: tuple[Callable[[Path], Finding], ...] = (
        places.check_temporary,
        places.check_cache,
        places.check_artifacts,
        places.check_store,
    )
    for check in checks:
        finding = check(tmp_path)
        assert finding.outcome == outcome
        assert f"{tmp_path}: {said}" in finding.said
        assert finding.stops is (outcome == FAIL)


@pytest.mark.usefixtures("refusing")
def test_places_that_cannot_be_written_to(tmp_path: Path) -> None:
    for check in (places.check_temporary, places.check_cache, places.check_artifacts):
        finding = check(tmp_path)
        assert (finding.outcome, "cannot be written to" in finding.said) == (FAIL, True)
        assert "Read-only" in (finding.cause or "")
    assert places.check_store(tmp_path).outcome == WARN, "a store is then only read"


@pytest.mark.parametrize(("number", "fix"), [(errno.ENOSPC, "make space"), (errno.EACCES, "change its owner")])
def test_what_to_do_about_artifacts_that_cannot_be_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, fix: str
) -> None:
    def refuse(*_: object, **__: object) -> str:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    assert fix in (places.check_artifacts(tmp_path).fix or "")


def test_a_temporary_directory_that_python_passes_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "absent"))
    first = places.check_places(None, None)[0]
    assert (first.check, first.outcome) == ("temp directory", FAIL)


def test_no_temporary_directory_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> str:
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", none)
    (finding,) = places.check_places(None, None)
    assert (finding.outcome, finding.stops) == (FAIL, True)


def test_a_compile_directory_of_somebody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "link").symlink_to(tmp_path, target_is_directory=True)
    assert places.check_cache(tmp_path / "link").outcome == FAIL
    assert places.check_cache(tmp_path / "own").outcome == OK
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    finding = places.check_cache(tmp_path / "own")
    assert (finding.outcome, finding.stops) == (FAIL, True)
    (tmp_path / "file").touch()
    assert "cannot be made" in places.check_cache(tmp_path / "file" / "below").said


def test_artifacts_on_several_file_systems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("small", ".staging", ".store"):
        (tmp_path / name).mkdir()
    real = Path.stat
    elsewhere = ".store"

    def stat(path: Path, **options: Any) -> Any:
        status = real(path, **options)
        return SimpleNamespace(st_dev=-1, st_mode=status.st_mode) if path.name == elsewhere else status

    monkeypatch.setattr(Path, "stat", stat)
    assert places.check_artifacts(tmp_path).outcome == OK, "the store may lie anywhere"
    elsewhere = "small"
    finding = places.check_artifacts(tmp_path)
    assert (finding.outcome, f"{tmp_path / 'small'} is on another file system" in finding.said) == (FAIL, True)


def test_locks_hold(tmp_path: Path) -> None:
    assert places.check_locks([tmp_path, tmp_path / "absent"]).outcome == OK
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("code", "outcome"), [(errno.ENOLCK, FAIL), (errno.EIO, WARN)])
def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, outcome: str) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    finding = places.check_locks([tmp_path])
    assert (finding.outcome, finding.stops) == (outcome, outcome == FAIL)


def test_locks_that_another_process_does_not_see(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on NFS mounted with nolock: each host keeps its own. Here the lock is never taken."""
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    finding = places.check_locks([tmp_path])
    assert (finding.outcome, "does not keep another process out" in finding.said) == (WARN, True)


@pytest.mark.parametrize(("available", "outcome"), [(_GIB // 2, FAIL), (2 * _GIB, WARN), (8 * _GIB, OK)])
def test_memory(monkeypatch: pytest.MonkeyPatch, available: int, outcome: str) -> None:
    monkeypatch.setattr(resources, "available_memory", lambda: available)
    finding = places.check_memory()
    assert (finding.outcome, finding.stops) == (outcome, False)


def test_processors_are_those_that_may_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    assert "2 of 16 CPUs" in places.check_processors().said
