"""The stat cache saves reading, and never gives another digest than reading would."""

from __future__ import annotations

import json
import os
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aoti_build.common import stat_cache
from aoti_build.common.digests import digest_bytes, digest_file
from aoti_build.common.stat_cache import StatCache

# Long enough for the change time of the coarsest kernel clock (100 Hz) to differ.
TICK = 0.025


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "source.py"
    path.write_text("one")
    return path


@pytest.fixture
def record(tmp_path: Path) -> Path:
    (tmp_path / "artifacts").mkdir()
    return tmp_path / "artifacts" / ".stat-cache.json"


@pytest.fixture
def _no_racy_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if every file were already old when it is first read."""
    monkeypatch.setattr(stat_cache, "RACY_NS", 0)
    time.sleep(TICK)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were really read."""
    found: list[Path] = []

    def counting(path: Path) -> str:
        found.append(path)
        return digest_file(path)

    monkeypatch.setattr(stat_cache, "digest_file", counting)
    return found


@pytest.mark.usefixtures("_no_racy_files")
def test_an_unchanged_file_is_read_once(file: Path, record: Path, reads: list[Path]) -> None:
    time.sleep(TICK)
    for _ in range(3):
        cache = StatCache(record)
        assert cache.digest(file) == cache.digest(file) == digest_bytes(b"one")
        cache.save()
    assert reads == [file]


@pytest.mark.usefixtures("_no_racy_files")
def test_an_edit_that_keeps_size_and_time_is_seen(file: Path, record: Path) -> None:
    time.sleep(TICK)
    remember(record, file)
    before = file.stat()
    time.sleep(TICK)
    file.write_text("two")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert StatCache(record).digest(file) == digest_bytes(b"two")


@pytest.mark.usefixtures("_no_racy_files")
def test_another_file_moved_into_its_place_is_seen(
    file: Path, record: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.write_text("two")
    os.utime(other, ns=(file.stat().st_atime_ns, file.stat().st_mtime_ns))
    time.sleep(TICK)
    remember(record, file)
    other.rename(file)
    assert StatCache(record).digest(file) == digest_bytes(b"two")


def test_a_file_just_written_is_not_trusted(file: Path, record: Path, reads: list[Path]) -> None:
    cache = StatCache(record)
    for _ in range(3):
        cache.digest(file)
    cache.save()
    assert len(reads) == 3
    assert not record.exists()


def test_an_edit_in_the_same_tick_is_seen(file: Path, record: Path) -> None:
    cache = StatCache(record)
    for number in range(200):
        text = f"{number:03}".encode()
        before = file.stat()
        file.write_bytes(text)
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert cache.digest(file) == digest_bytes(text)


@pytest.mark.usefixtures("_no_racy_files")
def test_an_old_modification_time_does_not_make_a_new_file_old(
    file: Path, record: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stat_cache, "RACY_NS", 2_000_000_000)
    os.utime(file, (1, 1))
    remember(record, file)
    assert not record.exists()


@pytest.mark.usefixtures("_no_racy_files")
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe\x00garbage",
        b"[]",
        b"null",
        b'"text"',
        b"{}",
        b'{"format": "something else", "format_version": 1, "files": {}}',
        b'{"format": "aoti-build/stat-cache", "format_version": 2, "files": {}}',
        b'{"format": "aoti-build/stat-cache", "format_version": 1}',
        b'{"format": "aoti-build/stat-cache", "format_version": 1, "files": []}',
        b'{"format": "aoti-build/stat-cache", "format_version": 1, "files": null}',
        b"[" * 100_000,
        b'{"files":' * 100_000,
    ],
    ids=lambda content: repr(content[:90]),
)
def test_a_record_that_is_none_of_ours_is_a_miss(file: Path, record: Path, content: bytes) -> None:
    record.write_bytes(content)
    remember(record, file)
    assert StatCache(record).digest(file) == digest_bytes(b"one")


@pytest.mark.usefixtures("_no_racy_files")
@pytest.mark.parametrize(
    "entry", [None, 3, "text", [], ["1", "2", "3", "4"], [1, 2, 3, 4, 5], {"size": 3}], ids=repr
)
def test_a_garbled_entry_is_a_miss(file: Path, record: Path, entry: object) -> None:
    document = {"format": "aoti-build/stat-cache", "format_version": 1, "files": {str(file): entry}}
    record.write_text(json.dumps(document))
    assert StatCache(record).digest(file) == digest_bytes(b"one")


@pytest.mark.usefixtures("_no_racy_files")
def test_a_record_cut_anywhere_is_a_miss(file: Path, record: Path) -> None:
    time.sleep(TICK)
    remember(record, file)
    whole = record.read_bytes()
    for length in range(len(whole)):
        record.write_bytes(whole[:length])
        assert StatCache(record).digest(file) == digest_bytes(b"one")


@pytest.mark.usefixtures("_no_racy_files")
def test_a_record_that_is_gone_or_a_directory_changes_nothing(file: Path, record: Path) -> None:
    time.sleep(TICK)
    remember(record, file)
    record.unlink()
    assert StatCache(record).digest(file) == digest_bytes(b"one")
    record.mkdir()
    remember(record, file)
    assert StatCache(record).digest(file) == digest_bytes(b"one")


def test_a_path_is_a_path_as_text_too(file: Path, record: Path) -> None:
    cache = StatCache(record)
    assert cache.digest(str(file)) == cache.digest(file) == digest_bytes(b"one")


@pytest.mark.parametrize("name", ["/nul\0", "/surrogate\ud800"], ids=ascii)
def test_what_cannot_be_a_path_has_no_digest(record: Path, name: str) -> None:
    assert StatCache(record).digest(name) is None


def test_what_is_no_regular_file_has_no_digest(tmp_path: Path, record: Path) -> None:
    cache = StatCache(record)
    assert cache.digest(tmp_path / "absent") is None
    assert cache.digest(tmp_path) == "directory"
    assert cache.digest(Path("/dev/null")) is None


@pytest.mark.usefixtures("_no_racy_files")
def test_a_deleted_file_has_no_digest_any_more(file: Path, record: Path) -> None:
    time.sleep(TICK)
    remember(record, file)
    file.unlink()
    assert StatCache(record).digest(file) is None


STEPS = st.lists(
    st.sampled_from(
        [
            "write one",
            "write two",
            "write longer",
            "keep time",
            "age",
            "look",
            "restart",
            "delete",
            "forget",
        ]
    ),
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_it_always_gives_the_digest_that_reading_gives(steps: list[str]) -> None:
    """Files age within the test, so entries are both kept and refused. Racy here means half a
    tick's time."""
    with tempfile.TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        patch.setattr(stat_cache, "RACY_NS", int(TICK * 0.5e9))
        file, record = Path(directory) / "file", Path(directory) / "record"
        cache = StatCache(record)
        for step in steps:
            cache = do(step, file, record, cache)
            assert cache.digest(file) == (digest_file(file) if file.exists() else None)


def do(step: str, file: Path, record: Path, cache: StatCache) -> StatCache:
    if step.startswith("write"):
        file.write_text(step.removeprefix("write "))
    elif step == "keep time" and file.exists():
        before = file.stat()
        file.write_text(file.read_text()[::-1])
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    elif step == "age":
        time.sleep(TICK)
    elif step == "restart":
        cache.save()
        return StatCache(record)
    elif step == "delete":
        file.unlink(missing_ok=True)
    elif step == "forget":
        record.unlink(missing_ok=True)
    return cache


def remember(record: Path, file: Path) -> None:
    cache = StatCache(record)
    cache.digest(file)
    cache.save()
