"""What a person named is written as a shell would write it: pipes, devices and links stay what they
are."""

from __future__ import annotations

import os
import socket
import stat
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from small_projects import contents

from aoti_build.common import writing
from aoti_build.common.outputs import check_output, open_log, start_log, write_output
from aoti_build.errors import UsageError


def test_a_new_file_and_its_directories_are_made(tmp_path: Path) -> None:
    write_output(tmp_path / "new" / "file", b"content")
    assert contents(tmp_path) == {"new/file": b"content"}


def test_a_regular_file_is_replaced_in_one_step(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with path.open("rb") as reader:
        write_output(path, b"new")
        assert reader.read() == b"old"
    assert contents(tmp_path) == {"file": b"new"}


@pytest.mark.parametrize("there", [True, False], ids=["file", "nothing"])
@pytest.mark.parametrize("hops", [1, 3])
def test_a_link_stays_and_its_target_is_written(tmp_path: Path, there: bool, hops: int) -> None:
    target = tmp_path / "elsewhere" / "target"
    target.parent.mkdir()
    if there:
        target.write_bytes(b"old")
    links = [tmp_path / f"link{number}" for number in range(hops)]
    for link, leads_to in zip(links, ["elsewhere/target", *links], strict=False):
        link.symlink_to(leads_to)
    write_output(links[-1], b"new")
    assert target.read_bytes() == b"new"
    assert not target.is_symlink()
    assert all(link.is_symlink() for link in links)
    assert list(target.parent.iterdir()) == [target], "no litter"


def test_a_link_to_itself_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(UsageError, match="cannot be written"):
        write_output(tmp_path / "loop", b"")
    assert (tmp_path / "loop").is_symlink()


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    """A named pipe, and the end from which it is read."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    yield path, reader
    os.close(reader)


@pytest.mark.parametrize("through_a_link", [False, True])
def test_a_pipe_is_written_into(pipe: tuple[Path, int], through_a_link: bool) -> None:
    path, reader = pipe
    named = path
    if through_a_link:
        named = path.with_name("link")
        named.symlink_to(path)
    write_output(named, b"content")
    assert os.read(reader, 100) == b"content"
    assert stat.S_ISFIFO(path.lstat().st_mode)
    assert named.is_symlink() == through_a_link


def test_a_pipe_whose_reader_has_gone_is_an_error(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with pytest.raises(UsageError, match="cannot be written") as caught:
        write_output(Path(f"/dev/fd/{writer}"), b"content")
    os.close(writer)
    assert caught.value.cause == "Broken pipe"


@pytest.mark.parametrize("through_a_link", [False, True])
def test_a_full_device_is_an_error_and_stays(full_device: Path, through_a_link: bool) -> None:
    path = full_device
    if through_a_link:
        path = full_device.with_name("link")
        path.symlink_to(full_device)
    with pytest.raises(UsageError, match="cannot be written") as caught:
        write_output(path, b"content")
    assert caught.value.cause == "No space left on device"
    assert stat.S_ISCHR(full_device.stat().st_mode)
    assert path.is_symlink() or not through_a_link


def test_a_socket_is_an_error_and_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # an address has at most 108 bytes
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("socket")
        with pytest.raises(UsageError, match="cannot be written"):
            write_output(tmp_path / "socket", b"content")
    assert stat.S_ISSOCK((tmp_path / "socket").stat().st_mode)


def test_a_directory_is_wrong_usage(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(".")
    for path in (tmp_path, tmp_path / "link"):
        with pytest.raises(UsageError, match="is a directory"):
            check_output(path)
        with pytest.raises(UsageError, match="is a directory"):
            write_output(path, b"content")


@pytest.mark.parametrize("name", ["/dev/fd/{}", "/proc/self/fd/{}", "link"])
def test_an_open_file_is_written_where_it_is(tmp_path: Path, name: str) -> None:
    """Behind what was written before, and whoever holds it open goes on behind that."""
    path = tmp_path / "file"
    with path.open("wb", buffering=0) as file:
        file.write(b"before, ")
        (tmp_path / "link").symlink_to(f"/dev/fd/{file.fileno()}")
        write_output(tmp_path / name.format(file.fileno()), b"content")
        file.write(b", after")
    assert path.read_bytes() == b"before, content, after"


def test_a_log_begins_anew_in_the_same_file(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"of the last build")
    followed = path.stat().st_ino
    start_log(path)
    assert (path.read_bytes(), path.stat().st_ino) == (b"", followed)


def test_what_was_printed_before_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "file").open("w") as file:
        monkeypatch.setattr(sys, "stdout", file)
        monkeypatch.setattr(sys, "stderr", None)  # as in a process without a terminal
        sys.stdout.write("before, ")
        write_output(Path(f"/dev/fd/{file.fileno()}"), b"content")
    assert (tmp_path / "file").read_bytes() == b"before, content"


def test_a_full_pipe_is_waited_for_and_not_tried_without_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Many tries would take a processor while the reader takes nothing."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    content = os.urandom(1 << 20)
    waits: list[int] = []
    wait = writing._wait_for_room

    def counted(descriptor: int) -> None:
        waits.append(descriptor)
        wait(descriptor)

    monkeypatch.setattr(writing, "_wait_for_room", counted)
    with ThreadPoolExecutor(1) as threads, open(reader, "rb") as file:
        written = threads.submit(write_output, Path(f"/dev/fd/{writer}"), content)
        time.sleep(0.2)
        first = file.read(len(content))
        written.result()
        os.close(writer)
        assert first + file.read() == content
    assert 1 <= len(waits) <= len(content) // 4096


def test_more_than_a_pipe_takes_at_once_is_written_whole() -> None:
    """Also into one that does not wait, as some programs leave a shared stdout."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    content = os.urandom(1 << 20)
    with ThreadPoolExecutor(1) as threads, open(reader, "rb") as file:
        received = threads.submit(file.read)
        try:
            write_output(Path(f"/dev/fd/{writer}"), content)
        finally:
            os.close(writer)
        assert received.result() == content


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_a_log_takes_the_place_of_what_is_not_a_file(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "log"
    (tmp_path / "theirs").write_bytes(b"not a log")
    if kind == "link":
        path.symlink_to("theirs")
    else:
        os.mkfifo(path)
    for piece in (b"one, ", b"two"):
        with open(open_log(path), "wb") as file:
            file.write(piece)
    assert path.read_bytes() == b"one, two"
    assert not path.is_symlink()
    assert (tmp_path / "theirs").read_bytes() == b"not a log"


def test_a_log_in_the_place_of_a_directory_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    with pytest.raises(IsADirectoryError):
        open_log(tmp_path / "log")
