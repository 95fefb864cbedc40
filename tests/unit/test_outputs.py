"""What a person named is written as a shell would write it: pipes, devices and links stay what they
are."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
from small_projects import REAL_PYTHON, contents, inv

from aoti_build.common.outputs import check_output, start_log, write_output
from aoti_build.errors import UsageError
from aoti_build.models_file import Project

# Words of a task, and what its report begins with.
WRITERS = [("schema --output", "{"), ("verify --junit", "<?xml"), ("verify --html", "<!doctype")]


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


@pytest.fixture
def full(tmp_path: Path) -> Path:
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


@pytest.mark.parametrize("through_a_link", [False, True])
def test_a_full_device_is_an_error_and_stays(full: Path, through_a_link: bool) -> None:
    path = full
    if through_a_link:
        path = full.with_name("link")
        path.symlink_to(full)
    with pytest.raises(UsageError, match="cannot be written") as caught:
        write_output(path, b"content")
    assert caught.value.cause == "No space left on device"
    assert stat.S_ISCHR(full.stat().st_mode)
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


@pytest.mark.parametrize(("words", "beginning"), WRITERS)
def test_stdout_can_be_named(project: Project, words: str, beginning: str) -> None:
    """As a pipe, and as a file that the table goes into as well. The link is what /dev/stdout
    is."""
    (project.root / "stdout").symlink_to("/proc/self/fd/1")
    piped = inv(*words.split(), "stdout", cwd=project.root)
    assert beginning in piped.stdout.lower()
    command = [REAL_PYTHON, "-m", "invoke", *words.split(), "stdout"]
    with (project.root / "out").open("wb") as out:
        subprocess.run(command, cwd=project.root, stdout=out, check=False, timeout=60)
    printed = (project.root / "out").read_text()
    assert beginning in printed.lower()
    assert ("1 artifact: " in printed) == words.startswith("verify")
    assert (project.root / "stdout").is_symlink()


@pytest.mark.parametrize(("words", "beginning"), WRITERS)
def test_links_and_pipes_of_each_task_stay(project: Project, words: str, beginning: str) -> None:
    (project.root / "link").symlink_to("target")
    os.mkfifo(project.root / "pipe")
    reader = os.open(project.root / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    for name in ("link", "pipe"):
        assert inv(*words.split(), name, cwd=project.root).returncode in (0, 3)
    assert os.read(reader, 20).decode().lower().startswith(beginning)
    os.close(reader)
    assert (project.root / "link").is_symlink()
    assert (project.root / "target").read_text().lower().startswith(beginning)
    assert stat.S_ISFIFO((project.root / "pipe").lstat().st_mode)


@pytest.mark.parametrize(("words", "_beginning"), WRITERS)
def test_what_cannot_be_written_is_wrong_usage(
    project: Project, full: Path, words: str, _beginning: str
) -> None:
    for name, said in ((".", "is a directory"), (str(full), "No space left on device")):
        answer = inv(*words.split(), name, cwd=project.root)
        assert answer.returncode == 2
        assert said in answer.stderr
        assert "Traceback" not in answer.stderr


def test_a_directory_is_told_before_anything_is_verified(project: Project) -> None:
    before = contents(project.root)
    answer = inv("verify", "--json", "--junit", ".", cwd=project.root, PYTHONDONTWRITEBYTECODE="1")
    assert json.loads(answer.stdout)["error"]["kind"] == "usage"
    assert contents(project.root) == before


def test_a_report_into_a_process(project: Project) -> None:
    """As `--junit >(cat)` of a shell does it."""
    shell = (
        f"{REAL_PYTHON} -m invoke verify --junit >(cat >report) 2>/dev/null >/dev/null; wait;"
        " sleep 1"
    )
    subprocess.run(["bash", "-c", shell], cwd=project.root, check=True, timeout=60)
    assert ElementTree.parse(project.root / "report").getroot().tag == "testsuites"  # noqa: S314
