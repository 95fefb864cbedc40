"""Which directories code may lie in: who owns them and what is above them, links, modes and
umasks."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from aoti_build.artifact import paths
from aoti_build.common import directories
from aoti_build.errors import DirectoryError, ExitCode
from aoti_build.work.worker import job_variables

OTHER = 20001  # a user that owns nothing here
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another user")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An own home, and no variables that name other places."""
    for name in (
        directories.BUILD_VARIABLE,
        directories.RUNTIME_VARIABLE,
        "XDG_CACHE_HOME",
        "XDG_STATE_HOME",
    ):
        monkeypatch.delenv(name, raising=False)
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    monkeypatch.setenv("HOME", str(home))
    return home


@pytest.fixture
def umask() -> Iterator[Callable[[int], None]]:
    """Sets the umask for one test."""
    before = os.umask(0o022)

    def change(value: int) -> None:
        os.umask(value)

    yield change
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.mark.parametrize("mask", [0o000, 0o002, 0o022, 0o077, 0o777], ids=oct)
def test_what_is_made_is_accepted_whatever_the_umask_is(
    home: Path, umask: Callable[[int], None], mask: int
) -> None:
    umask(mask)
    made = [
        directories.build_cache(),
        directories.runtime_cache(),
        directories.log_directory(),
        paths.runner_cache(),
    ]
    again = [
        directories.build_cache(),
        directories.runtime_cache(),
        directories.log_directory(),
        paths.runner_cache(),
    ]
    assert made == again
    for path in made:
        assert mode(path) == 0o700
        between = [
            directory
            for directory in path.parents
            if directory.is_relative_to(home) and directory != home
        ]
        assert {mode(directory) for directory in between} == {0o700}


def test_where_they_lie(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert directories.build_cache() == home / ".cache" / "aoti_build" / "build"
    assert directories.runtime_cache() == home / ".cache" / "aoti_build" / "unpacked"
    assert directories.log_directory() == home / ".local" / "state" / "aoti_build" / "logs"
    assert directories.agreed_directory() == home / ".local" / "state" / "aoti_build" / "agreed"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "c"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "s"))
    assert directories.build_cache() == tmp_path / "c" / "aoti_build" / "build"
    assert directories.log_directory() == tmp_path / "s" / "aoti_build" / "logs"
    assert directories.agreed_directory() == tmp_path / "s" / "aoti_build" / "agreed"
    monkeypatch.setenv(directories.BUILD_VARIABLE, str(tmp_path / "own"))
    assert directories.build_cache() == tmp_path / "own" / "build"
    assert paths.runner_cache() == tmp_path / "own" / "build" / "runner"


@pytest.mark.parametrize("above", ["", "deeper"])
@pytest.mark.parametrize("bits", [0o770, 0o707, 0o777], ids=oct)
def test_nothing_is_made_below_what_others_can_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, above: str, bits: int
) -> None:
    place = tmp_path / "open"
    place.mkdir()
    place.chmod(bits)
    monkeypatch.setenv(directories.BUILD_VARIABLE, str(place / above))
    with pytest.raises(DirectoryError) as caught:
        directories.build_cache()
    assert caught.value.exit_code == ExitCode.UNFIT_TOOLCHAIN
    assert f"{place} can be written to by others (mode {bits:04o})" in str(caught.value.cause)
    assert f"chmod go-w {place}" in str(caught.value.hint)
    assert f"set {directories.BUILD_VARIABLE} to" in str(caught.value.hint)
    assert list(place.iterdir()) == []


@pytest.mark.parametrize("find", [directories.log_directory, directories.agreed_directory])
def test_the_hint_names_the_variable_that_moves_a_state_directory(
    find: Callable[[], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    find().chmod(0o755)
    with pytest.raises(DirectoryError) as caught:
        find()
    assert str(caught.value.hint).endswith("set XDG_STATE_HOME to a directory of your own")


@pytest.mark.parametrize("bits", [0o750, 0o705, 0o770, 0o1777], ids=oct)
def test_a_private_directory_that_was_opened_is_refused(bits: int) -> None:
    made = directories.build_cache()
    made.chmod(bits)
    with pytest.raises(DirectoryError, match="this user's alone"):
        directories.build_cache()


def test_users_who_share_a_sticky_directory_do_not_meet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "shared"
    place.mkdir()
    place.chmod(0o1777)
    monkeypatch.setenv(directories.BUILD_VARIABLE, str(place))
    assert directories.build_cache() == place / f"aoti_build-build-{os.geteuid()}"


@as_root
@pytest.mark.parametrize("whose", ["above", "own", "link"])
def test_what_somebody_else_owns_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whose: str
) -> None:
    place = tmp_path / "place"
    (place / "build").mkdir(parents=True, mode=0o700)
    if whose == "link":
        (tmp_path / "link").symlink_to(place)
    theirs = {"above": place, "own": place / "build", "link": tmp_path / "link"}[whose]
    os.chown(theirs, OTHER, OTHER, follow_symlinks=False)
    monkeypatch.setenv(directories.BUILD_VARIABLE, str(theirs if whose == "link" else place))
    with pytest.raises(DirectoryError) as caught:
        directories.build_cache()
    assert f"user {OTHER}" in str(caught.value.cause)


def test_links_of_ones_own_are_resolved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real" / "deep").mkdir(parents=True, mode=0o700)
    (tmp_path / "one").symlink_to("real")
    (tmp_path / "real" / "two").symlink_to("../one/deep")
    monkeypatch.setenv(directories.BUILD_VARIABLE, str(tmp_path / "one" / "two"))
    assert directories.build_cache() == tmp_path / "real" / "deep" / "build"


@pytest.mark.parametrize("kind", ["loop", "file", "fifo", "dangling"])
def test_what_is_no_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    place = tmp_path / kind
    if kind == "loop":
        place.symlink_to(place)
    elif kind == "file":
        place.touch()
    elif kind == "fifo":
        os.mkfifo(place)
    else:
        place.symlink_to(tmp_path / "file" / "absent")
        (tmp_path / "file").touch()
    monkeypatch.setenv(directories.BUILD_VARIABLE, str(place))
    with pytest.raises(DirectoryError):
        directories.build_cache()


@pytest.fixture
def system_temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In place of /tmp."""
    directory = tmp_path / "temporary"
    directory.mkdir()
    directory.chmod(0o1777)
    monkeypatch.setattr(directories, "_SYSTEM_TEMPORARY", directory)
    return directory


@pytest.mark.parametrize("value", ["", "rel/ative", "~", None, "/nonexistent", "another's"])
def test_without_a_home_a_private_directory_in_the_systems_temporary_one_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system_temporary: Path, value: str | None
) -> None:
    monkeypatch.chdir(tmp_path)
    if value is None:
        monkeypatch.delenv("HOME")
        monkeypatch.setattr(
            os.path, "expanduser", lambda path: path
        )  # as for a number without an entry in passwd
    elif value == "another's":
        monkeypatch.setattr(directories, "_is_usable_home", lambda place: False)
    else:
        monkeypatch.setenv("HOME", value)
    for find, name in (
        (directories.build_cache, "build"),
        (directories.runtime_cache, "unpacked"),
        (directories.log_directory, "logs"),
    ):
        found = find()
        assert found == system_temporary / f"aoti_build-{name}-{os.geteuid()}"
        assert mode(found) == 0o700
        assert find() == found
    assert not list(tmp_path.glob("~*"))


def test_what_somebody_else_made_there_is_refused(
    monkeypatch: pytest.MonkeyPatch, system_temporary: Path
) -> None:
    monkeypatch.setenv("HOME", "")
    planted = system_temporary / f"aoti_build-build-{os.geteuid()}"
    planted.mkdir(mode=0o777)
    planted.chmod(0o777)
    with pytest.raises(DirectoryError) as caught:
        directories.build_cache()
    assert directories.BUILD_VARIABLE in str(caught.value.hint)


def test_logs_go_to_a_fresh_directory_where_there_is_no_other(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, system_temporary: Path
) -> None:
    monkeypatch.setenv("HOME", "")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    system_temporary.chmod(0o777)
    paths._fresh_logs.cache_clear()
    found = paths.outside_logs()
    assert (found.parent, mode(found), paths.outside_logs()) == (tmp_path, 0o700, found)
    paths._fresh_logs.cache_clear()


@pytest.mark.parametrize("fault", ["read-only", "noexec"])
def test_packages_are_not_unpacked_where_code_cannot_be_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setenv(directories.RUNTIME_VARIABLE, str(tmp_path))
    if fault == "read-only":
        monkeypatch.setattr(os, "access", lambda path, wanted: False)
    else:
        monkeypatch.setattr(directories, "is_noexec", lambda path: True)
    with pytest.raises(DirectoryError, match="code cannot be loaded from here") as caught:
        directories.runtime_cache()
    said = {"read-only": "cannot be written to", "noexec": "mounted noexec"}[fault]
    assert said in str(caught.value.cause)
    assert f"set {directories.RUNTIME_VARIABLE} to" in str(caught.value.hint)


@pytest.mark.parametrize("variable", ["AOTI_BUILD_CACHE", "AOTI_BUILD_STORE"])
def test_a_tilde_that_no_shell_replaced(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "~/mine")
    assert directories.path_in_variable(variable) == home / "mine"
    monkeypatch.setenv(variable, "~no-such-user-anywhere/mine")
    with pytest.raises(DirectoryError, match=variable):
        directories.path_in_variable(variable)


@pytest.mark.parametrize("kind", ["absent", "open", "relative", "read-only", "noexec"])
def test_an_unfit_temporary_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    place = tmp_path / "tmp"
    if kind != "absent":
        place.mkdir()
    if kind == "open":
        place.chmod(0o777)
    if kind == "read-only":
        monkeypatch.setattr(os, "access", lambda path, wanted: False)
    if kind == "noexec":
        monkeypatch.setattr(directories, "is_noexec", lambda path: True)
    monkeypatch.setenv("TMPDIR", "tmp" if kind == "relative" else str(place))
    with pytest.raises(DirectoryError, match="temporary directory is unfit") as caught:
        directories.temporary_directory()
    assert str(caught.value.hint).count("TMPDIR") == 1


def test_fit_temporary_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for bits in (0o700, 0o755, 0o1777):
        tmp_path.chmod(bits)
        monkeypatch.setenv("TMPDIR", str(tmp_path))
        assert directories.temporary_directory() == tmp_path


def test_names_that_torch_would_take_for_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directories.require_utf8(tmp_path / "größe")
    with pytest.raises(DirectoryError, match="not UTF-8") as caught:
        directories.require_utf8(tmp_path / os.fsdecode(b"b\xff"))
    assert "another name" in str(caught.value.hint)
    monkeypatch.setattr(os, "fsencode", lambda path: str(path).encode("latin-1", "surrogateescape"))
    with pytest.raises(DirectoryError) as caught:
        directories.require_utf8(tmp_path / "größe".encode().decode("latin-1"))
    assert "LC_ALL=C.UTF-8" in str(caught.value.hint)


def test_workers_get_what_libraries_look_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variables = job_variables(tmp_path)
    assert variables["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "inductor")
    assert "HOME" not in variables, "there is one"

    def none() -> str:
        raise KeyError("getpwuid(): uid not found: 12345")

    monkeypatch.setenv("HOME", "")
    monkeypatch.setattr("getpass.getuser", none)
    variables = job_variables(tmp_path)
    assert (variables["HOME"], variables["LOGNAME"]) == (str(tmp_path), f"user-{os.geteuid()}")
