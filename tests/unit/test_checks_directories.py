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

from aoti_build.common import resources
from aoti_build.host.checks import directories
from aoti_build.host.checks.finding import FAIL, OK, WARN, Finding

_GIB = 1 << 30


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets what every file system says of itself."""

    def answer(*, free: int = 100 * _GIB, inodes: int = 10**6, flags: int = 0) -> None:
        status = SimpleNamespace(
            f_flag=flags, f_bavail=free // 512, f_frsize=512, f_files=10**7, f_favail=inodes
        )
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
    found = directories.check_places(artifacts)
    assert [finding.check for finding in found] == [
        "temp directory",
        "compile directory",
        "unpack directory",
        "artifacts",
        "file locks",
    ]
    assert {finding.outcome for finding in found} <= {OK, WARN}, found
    assert not artifacts.exists(), "a check makes no artifacts directory"
    assert list(tmp_path.rglob("*doctor*")) == []


def test_outside_a_project_there_is_less_to_check() -> None:
    names = {finding.check for finding in directories.check_places(None)}
    assert names == {"temp directory", "compile directory", "unpack directory", "file locks"}


def test_a_temporary_directory_mounted_noexec(tmp_path: Path, disk: Callable[..., None]) -> None:
    disk(flags=os.ST_NOEXEC)
    finding = directories.check_temporary()
    assert (finding.outcome, finding.stops) == (FAIL, True)
    assert "noexec" in finding.message
    assert "TMPDIR" in (finding.fix or "")
    assert directories.check_cache(tmp_path).outcome == WARN


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
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    disk: Callable[..., None],
    numbers: dict[str, int],
    outcome: str,
    said: str,
) -> None:
    disk(**numbers)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    checks: tuple[Callable[[Path], Finding], ...] = (
        lambda _: directories.check_temporary(),
        directories.check_cache,
        directories.check_artifacts,
        directories.check_store,
    )
    for check in checks:
        finding = check(tmp_path)
        assert finding.outcome == outcome
        assert f"{tmp_path}: {said}" in finding.message
        assert finding.stops is (outcome == FAIL)


@pytest.mark.usefixtures("refusing")
def test_places_that_cannot_be_written_to(tmp_path: Path) -> None:
    checks: tuple[Callable[[Path], Finding], ...] = (
        directories.check_cache,
        directories.check_artifacts,
    )
    for check in (lambda _: directories.check_temporary(), *checks):
        finding = check(tmp_path)
        assert (finding.outcome, "cannot be written to" in finding.message) == (FAIL, True)
        assert "Read-only" in (finding.cause or "")
    assert directories.check_store(tmp_path).outcome == WARN, "a store is then only read"


@pytest.mark.parametrize(
    ("number", "fix"), [(errno.ENOSPC, "make space"), (errno.EACCES, "change its owner")]
)
def test_what_to_do_about_artifacts_that_cannot_be_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, fix: str
) -> None:
    def refuse(*_: object, **__: object) -> str:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    assert fix in (directories.check_artifacts(tmp_path).fix or "")


def test_a_temporary_directory_that_python_passes_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "absent"))
    first = directories.check_places(None)[0]
    assert (first.check, first.outcome) == ("temp directory", FAIL)


def test_no_temporary_directory_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> str:
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", none)
    monkeypatch.delenv("TMPDIR", raising=False)
    finding = directories.check_places(None)[0]
    assert (finding.outcome, finding.stops) == (FAIL, True)
    assert "No usable" in finding.message


@pytest.mark.parametrize(
    ("variable", "name", "stops"),
    [
        ("AOTI_BUILD_CACHE", "compile directory", True),
        ("AOTI_BUILD_RUNTIME_CACHE", "unpack directory", False),
    ],
)
def test_a_directory_that_others_can_change_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, name: str, stops: bool
) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    monkeypatch.setenv(variable, str(tmp_path / "open" / "cache"))
    (finding,) = (one for one in directories.check_places(None) if one.check == name)
    assert (finding.outcome, finding.stops) == (FAIL, stops)
    assert f"{tmp_path / 'open'} can be written to by others" in (finding.cause or "")
    assert f"chmod go-w {tmp_path / 'open'}" in (finding.fix or "")
    assert f"set {variable} to" in (finding.fix or "")
    assert list((tmp_path / "open").iterdir()) == [], "nothing is made where others could change it"


def test_code_that_everybody_can_change_is_a_doubt(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    for check in (directories.check_artifacts, directories.check_store):
        finding = check(tmp_path)
        assert (finding.outcome, finding.fix) == (WARN, f"chmod o-w {tmp_path}")
    tmp_path.chmod(0o775)
    assert directories.check_artifacts(tmp_path).outcome != FAIL
    tmp_path.chmod(0o700)


def test_a_load_does_without_an_unfit_directory_that_nobody_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AOTI_BUILD_RUNTIME_CACHE", raising=False)
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert (
        directories.check_runtime().outcome,
        "each process unpacks" in directories.check_runtime().message,
    ) == (
        WARN,
        True,
    )
    monkeypatch.setenv("AOTI_BUILD_RUNTIME_CACHE", "off")
    assert directories.check_runtime().outcome == OK


def test_artifacts_on_several_file_systems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("small", ".staging", ".store"):
        (tmp_path / name).mkdir()
    real = Path.stat
    elsewhere = ".store"

    def stat(path: Path, **options: Any) -> Any:
        status = real(path, **options)
        return (
            SimpleNamespace(st_dev=-1, st_mode=status.st_mode) if path.name == elsewhere else status
        )

    monkeypatch.setattr(Path, "stat", stat)
    assert directories.check_artifacts(tmp_path).outcome == OK, "the store may lie anywhere"
    elsewhere = "small"
    finding = directories.check_artifacts(tmp_path)
    assert finding.outcome == FAIL
    assert f"{tmp_path / 'small'} is on another file system" in finding.message


def test_locks_hold(tmp_path: Path) -> None:
    assert directories.check_locks([tmp_path, tmp_path / "absent"]).outcome == OK
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("code", "outcome"), [(errno.ENOLCK, FAIL), (errno.EIO, WARN)])
def test_a_file_system_without_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, outcome: str
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    finding = directories.check_locks([tmp_path])
    assert (finding.outcome, finding.stops) == (outcome, outcome == FAIL)


def test_locks_that_another_process_does_not_see(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on NFS mounted with nolock: each host keeps its own. Here the lock is never taken."""
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    finding = directories.check_locks([tmp_path])
    assert (finding.outcome, "does not keep another process out" in finding.message) == (WARN, True)


@pytest.mark.parametrize(
    ("available", "outcome"), [(_GIB // 2, FAIL), (2 * _GIB, WARN), (8 * _GIB, OK)]
)
def test_memory(monkeypatch: pytest.MonkeyPatch, available: int, outcome: str) -> None:
    monkeypatch.setattr(resources, "available_memory", lambda: available)
    finding = directories.check_memory()
    assert (finding.outcome, finding.stops) == (outcome, False)


def test_processors_are_those_that_may_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    assert "2 of 16 CPUs" in directories.check_processors().message
