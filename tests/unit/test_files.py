"""Atomic writes, staging, publishing and locks: a reader finds the old content or the new one,
whatever happens."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock, Timeout
from hypothesis import given
from hypothesis import strategies as st
from small_projects import REAL_PYTHON, contents

from aoti_build.common.locks import lock
from aoti_build.common.publication import publish_directory, recover_directory, staging
from aoti_build.common.records import write_json
from aoti_build.common.writing import write_atomic

OLD, NEW = {"model.pt2": b"old", "only-old": b"x"}, {"model.pt2": b"new", "manifest.json": b"{}"}


@pytest.fixture
def final(tmp_path: Path) -> Path:
    """A published directory."""
    return make(tmp_path / "artifacts" / "cpu", OLD)


@pytest.fixture
def staged(tmp_path: Path) -> Path:
    """A directory to be published in its place."""
    return make(tmp_path / "staging", NEW)


@pytest.fixture(params=["exchange", "two renames"])
def _both_ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the system's exchange of names, and without it."""
    if request.param == "two renames":
        monkeypatch.setattr(ctypes, "CDLL", no_library)


def test_a_write_replaces_the_content(tmp_path: Path) -> None:
    path = tmp_path / "new" / "directory" / "file"
    write_atomic(path, b"first")
    write_atomic(path, b"second")
    assert contents(tmp_path) == {"new/directory/file": b"second"}


def test_a_failed_write_leaves_the_old_content_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"old")
    monkeypatch.setattr(os, "fsync", disk_full)
    with pytest.raises(OSError, match="No space"):
        write_atomic(path, b"new")
    assert contents(tmp_path) == {"file": b"old"}


def test_a_reader_never_sees_a_part_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"old" * 1000)
    with path.open("rb") as reader:
        write_atomic(path, b"new" * 2000)
        assert reader.read() == b"old" * 1000
    assert path.read_bytes() == b"new" * 2000


def test_json_is_readable_by_people_and_has_no_nan(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    write_json(path, {"b": 1, "a": {"c": [2], "d": {}}})
    assert path.read_text() == '{\n  "b": 1,\n  "a": {\n    "c": [2],\n    "d": {}\n  }\n}\n'
    for value in ({"a": float("nan")}, {"a": {"b": [float("inf")]}}):
        with pytest.raises(ValueError, match="Out of range"):
            write_json(path, value)
    assert json.loads(path.read_text())["b"] == 1, "what was there stays"


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=15,
)


@given(st.dictionaries(st.text(), JSON, max_size=5))
def test_json_is_read_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, value: dict[str, Any]
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    write_json(path, value, sync=False)
    assert json.loads(path.read_bytes()) == value


def test_others_may_read_what_is_written(tmp_path: Path, staged: Path) -> None:
    plain = tmp_path / "plain"
    plain.touch()
    write_atomic(tmp_path / "file", b"")
    (staged / "model.pt2").chmod(0o600)
    publish_directory(staged, tmp_path / "published")
    for path in (tmp_path / "file", tmp_path / "published" / "model.pt2"):
        assert mode(path) == mode(plain)
    with staging(tmp_path, "x.") as directory:
        assert mode(directory) == 0o700, "until it is published, it is this user's alone"


def test_what_is_staged_keeps_the_group_of_its_parent(tmp_path: Path) -> None:
    """A shared `artifacts/` has a set-group-ID bit, so that all in it belongs to the group."""
    tmp_path.chmod(0o2770)
    with staging(tmp_path, "x.") as directory:
        assert directory.stat().st_mode & 0o7777 == 0o2700


def test_a_umask_that_takes_all_rights_does_not_stop_a_build(tmp_path: Path) -> None:
    before = os.umask(0o777)
    try:
        with staging(tmp_path, "x.") as directory:
            assert mode(directory) == 0o700
    finally:
        os.umask(before)


def test_staging_is_removed_even_after_an_error(tmp_path: Path) -> None:
    def fail() -> None:
        with staging(tmp_path / "staging", "model.") as directory:
            assert directory.name.startswith("model.")
            (directory / "file").touch()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert list((tmp_path / "staging").iterdir()) == []


def test_each_staging_directory_is_of_its_own(tmp_path: Path) -> None:
    with staging(tmp_path, "model.") as one, staging(tmp_path, "model.") as other:
        assert one != other


def test_staging_that_was_published_stays(tmp_path: Path) -> None:
    with staging(tmp_path / "staging", "model.") as directory:
        make(directory, NEW)
        publish_directory(directory, tmp_path / "final")
    assert contents(tmp_path / "final") == NEW
    assert list((tmp_path / "staging").iterdir()) == []


@pytest.mark.usefixtures("_both_ways")
def test_a_first_publication(tmp_path: Path, staged: Path) -> None:
    publish_directory(staged, tmp_path / "new" / "model" / "cpu")
    assert contents(tmp_path / "new") == {f"model/cpu/{name}": data for name, data in NEW.items()}


@pytest.mark.usefixtures("_both_ways")
def test_a_publication_replaces_the_whole_directory(
    tmp_path: Path, staged: Path, final: Path
) -> None:
    publish_directory(staged, final)
    assert contents(final) == NEW
    assert [path.name for path in final.parent.iterdir()] == ["cpu"]
    assert not (tmp_path / "staging" / "manifest.json").exists()


@pytest.mark.usefixtures("_both_ways")
def test_a_refused_rename_keeps_the_old_one(
    final: Path, staged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", disk_full)
    with pytest.raises(OSError, match="No space"):
        publish_directory(staged, final)
    assert contents(final) == OLD


def test_killed_between_the_two_renames_the_old_one_comes_back(final: Path, staged: Path) -> None:
    killed_before_second_rename(staged, final)
    assert not final.exists()
    recover_directory(final)
    assert contents(final) == OLD
    assert [path.name for path in final.parent.iterdir()] == ["cpu"]


def test_killed_between_the_two_renames_the_next_publication_is_whole(
    final: Path, staged: Path
) -> None:
    killed_before_second_rename(staged, final)
    publish_directory(staged, final)
    assert contents(final) == NEW
    assert [path.name for path in final.parent.iterdir()] == ["cpu"]


def test_killed_after_the_two_renames_the_new_one_stays(final: Path, staged: Path) -> None:
    killed_before_second_rename(staged, final)
    staged.rename(final)  # what the next line of the killed process would have done
    recover_directory(final)
    assert contents(final) == NEW
    assert [path.name for path in final.parent.iterdir()] == ["cpu"]


def test_nothing_to_recover_changes_nothing(final: Path, tmp_path: Path) -> None:
    recover_directory(final)
    recover_directory(tmp_path / "absent")
    assert contents(final) == OLD
    assert not (tmp_path / "absent").exists()


def test_a_lock_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "locks" / "target.lock"
    holder = hold_in_other_process(path)
    waits = []

    def let_go() -> None:
        waits.append(1)
        end(holder)

    with lock(path, let_go):
        assert waits


def test_waiting_for_a_lock_can_be_given_up(tmp_path: Path) -> None:
    path = tmp_path / "target.lock"
    holder = hold_in_other_process(path)

    def give_up() -> None:
        raise InterruptedError

    try:
        with pytest.raises(InterruptedError), lock(path, give_up):
            pytest.fail("two processes hold one lock")
    finally:
        end(holder)


def test_a_free_lock_is_not_waited_for_and_is_free_again(tmp_path: Path) -> None:
    def on_wait() -> None:
        pytest.fail("nobody holds it")

    for _ in range(2):
        with lock(tmp_path / "target.lock", on_wait):
            pass


def test_it_is_the_lock_that_filelock_takes(tmp_path: Path) -> None:
    path = tmp_path / "target.lock"
    with lock(path), pytest.raises(Timeout):
        FileLock(path).acquire(timeout=0)
    with FileLock(path), pytest.raises(InterruptedError), lock(path, _give_up):
        pytest.fail("two hold one lock")


def _give_up() -> None:
    raise InterruptedError


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    path = tmp_path / "target.lock"
    holder = hold_in_other_process(path)
    holder.kill()
    end(holder)
    with lock(path, lambda: pytest.fail("its holder is dead")):
        pass


def make(directory: Path, files: dict[str, bytes]) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (directory / name).write_bytes(data)
    return directory


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def no_library(*_: object, **__: object) -> None:
    raise OSError


def disk_full(_: int) -> None:
    raise OSError(28, "No space left on device")


def killed_before_second_rename(staged: Path, final: Path) -> None:
    """Publish in a process that has no exchange and is killed when it is about to rename for the
    second time."""
    script = f"""
import ctypes, os, signal
from pathlib import Path
from aoti_build.common.publication import publish_directory
def no_library(*args, **kwargs):
    raise OSError
def rename(one, other, rename=os.rename, calls=[]):
    if calls:
        os.kill(os.getpid(), signal.SIGKILL)
    calls.append(1)
    rename(one, other)
ctypes.CDLL, os.rename = no_library, rename
publish_directory(Path({str(staged)!r}), Path({str(final)!r}))
"""
    ended = subprocess.run([REAL_PYTHON, "-c", script], timeout=30, check=False)
    assert ended.returncode == -signal.SIGKILL


def hold_in_other_process(path: Path) -> subprocess.Popen[str]:
    """A process that holds the lock until its stdin closes; returned once it has it."""
    script = f"""
import sys
from pathlib import Path
from aoti_build.common.locks import lock
with lock(Path({str(path)!r})):
    print("held", flush=True)
    sys.stdin.read()
"""
    holder = subprocess.Popen(
        [REAL_PYTHON, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout
    assert holder.stdout.readline() == "held\n"
    return holder


def end(holder: subprocess.Popen[str]) -> None:
    holder.communicate(timeout=30)
