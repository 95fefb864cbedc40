"""Pipes, sockets, devices, directories and huge files in the place of every file that is read:
nothing waits for them, nothing reads them, and each is an error or a miss as its place has it."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from packages import publish_package
from small_projects import (
    FakeWorker,
    action_of,
    contents,
    inv,
    store_of,
    write_project,
)

from aoti_build.artifact.manifest import (
    MANIFEST,
    MODEL,
    REFERENCE_DATA,
    Manifest,
    NoManifest,
    read_manifest,
)
from aoti_build.artifact.paths import (
    artifact_directory,
    log_path,
    project_cache_path,
    stat_cache_path,
)
from aoti_build.artifact.pt2.package import open_archive
from aoti_build.commands.build import build
from aoti_build.commands.inspect.command import inspect
from aoti_build.commands.status import status
from aoti_build.common.digests import digest_file, digest_with_blocks
from aoti_build.common.locks import lock
from aoti_build.common.outputs import open_log
from aoti_build.common.reading import TEXT_LIMIT, open_regular, read_bytes
from aoti_build.common.records import read_cache_record, read_json
from aoti_build.common.stat_cache import StatCache
from aoti_build.common.writing import write_program
from aoti_build.errors import ArtifactError, SpecError, UsageError
from aoti_build.models_file import Project, check_files, load_project
from aoti_build.models_file.cache import read_cache
from aoti_build.planning.index import Index
from aoti_build.runtime.package import admit
from aoti_build.store.kernels import KernelCache
from aoti_build.work import host_checks
from aoti_build.work.opened import fit_artifact

HUGE = 200 << 30
Put = Callable[[Path], Path]


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


def make_socket(path: Path) -> None:
    """Bound by a short name: an address has at most 108 bytes."""
    here = os.getcwd()
    os.chdir(path.parent)
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(path.name)
    os.chdir(here)


def make_link_to_a_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def make_huge_file(path: Path) -> None:
    path.touch()
    os.truncate(path, HUGE)


@pytest.fixture(
    params=[make_pipe, make_socket, make_link_to_a_device, Path.mkdir, make_huge_file],
    ids=["pipe", "socket", "device", "directory", "huge"],
)
def put(request: pytest.FixtureRequest) -> Iterator[Put]:
    """Puts something that is not to be read in the place of a file. Whoever waits for a pipe goes
    on at the end."""
    made: list[Path] = []

    def put_there(path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        request.param(path)
        made.append(path)
        return path

    yield put_there
    for path in made:
        with contextlib.suppress(OSError):
            os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))


def soon(call: Callable[[], Any]) -> Any:
    """What the call returns or raises; it must not take long, let alone for ever."""
    found: list[Any] = []
    raised: list[BaseException] = []

    def body() -> None:
        try:
            found.append(call())
        except BaseException as error:  # noqa: BLE001
            raised.append(error)

    thread = threading.Thread(target=body, daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive(), "it waits"
    if raised:
        raise raised[0]
    return found[0]


def test_the_reader_refuses_it_and_opens_nothing(
    put: Put, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = put(tmp_path / "file")
    opened: list[Path] = []
    real = os.open
    monkeypatch.setattr(
        os,
        "open",
        lambda name, *rest, **named: opened.append(Path(name)) or real(name, *rest, **named),
    )
    with pytest.raises(OSError, match=r"a pipe|a socket|a device|a directory|exceeds") as caught:
        soon(lambda: read_bytes(path, TEXT_LIMIT))
    assert caught.value.errno in (errno.EINVAL, errno.EISDIR, errno.EFBIG)
    assert opened == ([path] if path.is_file() else [])


def test_a_pipe_that_appears_after_the_look_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").touch()
    regular = os.stat(tmp_path / "file")
    monkeypatch.setattr(os, "stat", lambda *_, **__: regular)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(OSError, match="a pipe"):
        soon(lambda: open_regular(tmp_path / "pipe"))
    assert os.listdir("/proc/self/fd") == before


def test_a_file_that_grows_while_it_is_read_is_read_to_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    taken: list[int] = []
    real = os.read

    def read(descriptor: int, count: int) -> bytes:
        with path.open("ab") as file:
            file.write(b"more than before")
        piece = real(descriptor, count)
        taken.append(len(piece))
        return piece

    monkeypatch.setattr(os, "read", read)
    with pytest.raises(OSError, match="exceeds the 100-byte limit"):
        read_bytes(path, 100)
    assert sum(taken) == 101


@pytest.mark.parametrize("size", [0, 1, 99, 100, 1 << 16, (1 << 16) + 1])
def test_a_file_up_to_the_limit_is_read_whole(tmp_path: Path, size: int) -> None:
    (tmp_path / "file").write_bytes(os.urandom(size))
    assert read_bytes(tmp_path / "file", size) == (tmp_path / "file").read_bytes()
    if size:
        with pytest.raises(OSError, match=f"its size of {size} bytes"):
            read_bytes(tmp_path / "file", size - 1)


def test_files_of_the_system_that_tell_no_size_are_read() -> None:
    assert b"Name:" in read_bytes("/proc/self/status", TEXT_LIMIT)
    assert digest_file(Path("/proc/version")) == digest_file(Path("/proc/version"))


def test_links_to_files_are_followed(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    assert read_bytes(tmp_path / "link", 10) == b"content"


READERS: dict[str, tuple[Callable[[Path], Any], Any]] = {
    "json": (read_json, None),
    "kept": (lambda path: read_cache_record(path, "kind", 1, "table"), {}),
    "stat cache": (lambda path: StatCache(path).digest(__file__) is not None, True),
    "index": (
        lambda path: Index(path, Project(path, ()), StatCache(path)).look_up("a/cpu", "", ""),
        None,
    ),
    "passed checks": (host_checks.read_passed_keys, []),
    "tuning": (lambda path: KernelCache(path.parent.parent).tuning(path.stem), {}),
}


@pytest.mark.parametrize("name", READERS)
def test_in_place_of_working_state_it_is_a_miss(put: Put, tmp_path: Path, name: str) -> None:
    read, miss = READERS[name]
    path = put(tmp_path / "tuning" / "record.json")
    assert soon(lambda: read(path)) == miss


def test_in_place_of_a_kernel_it_is_a_miss(put: Put, tmp_path: Path) -> None:
    put(tmp_path / "ab" / "abc.kernel")
    assert soon(lambda: KernelCache(tmp_path).fetch("abc")) is None


def test_in_place_of_a_kept_parse_the_file_is_parsed(put: Put, project: Project) -> None:
    content = project.file.read_bytes()
    cache = project_cache_path(project)
    cache.parent.mkdir()
    load_project(project.file, cache)
    (record,) = cache.iterdir()
    put(record)
    assert soon(lambda: read_cache(cache, project.file, content)) is None
    assert soon(lambda: load_project(project.file, cache)) == project


def test_in_place_of_the_directory_of_parses(put: Put, project: Project) -> None:
    cache = project_cache_path(project)
    put(cache)
    assert soon(lambda: load_project(project.file, cache)) == project


def test_as_models_yaml_it_is_wrong_usage(put: Put, project: Project) -> None:
    put(project.file)
    with pytest.raises(UsageError, match="cannot be read") as caught:
        soon(lambda: load_project(project.file))
    assert caught.value.cause
    assert "Errno" not in caught.value.cause


def test_as_a_file_that_models_yaml_names_it_is_wrong_usage(put: Put, tmp_path: Path) -> None:
    project = write_project(
        tmp_path,
        "version: 1\nmodels:\n  m:\n    source: odd.py:build\n    inputs: [{shape: [1]}]\n",
    )
    path = put(tmp_path / "odd.py")
    if path.is_file():
        return  # it may be of any size
    with pytest.raises(SpecError) as caught:
        soon(lambda: check_files(project, project.targets))
    assert "not a regular file: odd.py" in str(caught.value)


def test_as_a_manifest_it_is_a_damaged_artifact(
    put: Put, project: Project, published: Path
) -> None:
    put(published / MANIFEST)
    found = soon(lambda: read_manifest(published))
    assert isinstance(found, NoManifest)
    assert found.damaged
    with pytest.raises(ArtifactError, match="damaged"):
        soon(lambda: fit_artifact(project, project.targets[0]).__enter__())
    assert soon(lambda: inspect(project, project.targets)).exit_code == 4
    assert soon(lambda: action_of(project)) == "build"


@pytest.mark.parametrize("name", [MODEL, REFERENCE_DATA])
def test_as_a_file_of_an_artifact_it_is_refused_unread(
    put: Put, project: Project, published: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert action_of(project) == "up-to-date"
    put(published / name)
    monkeypatch.setattr(os, "preadv", forbidden_for(published / name))
    with pytest.raises(ArtifactError, match=f"{name} does not match the manifest"):
        soon(lambda: fit_artifact(project, project.targets[0]).__enter__())
    assert soon(lambda: inspect(project, project.targets)).exit_code == 4
    (reason,) = soon(lambda: status(project)).plan.steps[0].reasons
    assert (reason.reason, reason.what) == ("artifact-damaged", name)
    if (published / name).is_file():
        assert reason.new == f"{HUGE} bytes"
    assert soon(lambda: action_of(project)) == "build"


def test_as_a_package_it_is_refused(put: Put, tmp_path: Path) -> None:
    path = put(tmp_path / "model.pt2")
    with pytest.raises(ArtifactError):
        soon(lambda: open_archive(path))


def test_as_a_package_to_load_it_is_refused(put: Put, project: Project) -> None:
    publish_package(project)
    directory = artifact_directory(project, project.targets[0])
    manifest = read_manifest(directory)
    assert isinstance(manifest, Manifest)
    put(directory / MODEL)
    with pytest.raises(ArtifactError):
        soon(lambda: admit(directory, manifest))


def test_digests_of_it_are_refused(put: Put, tmp_path: Path) -> None:
    path = put(tmp_path / "file")
    if path.is_file():
        return
    for digest in (lambda: digest_file(path), lambda: digest_with_blocks(path, 1)):
        with pytest.raises(OSError, match=r"a pipe|a socket|a device|a directory"):
            soon(digest)


def test_as_an_object_of_the_store_it_is_a_miss(
    put: Put, project: Project, fake_worker: FakeWorker, tmp_path: Path
) -> None:
    build(project, project.targets)
    (manifest,) = store_of(project).manifests()
    put(store_of(project).object_path(manifest.files[MODEL].sha256))
    assert not soon(lambda: store_of(project).has(manifest))
    assert not soon(lambda: store_of(project).get(manifest.files[MODEL], tmp_path / "copy"))
    (artifact_directory(project, project.targets[0]) / MODEL).unlink()
    outcomes = soon(lambda: build(project, project.targets)).outcomes
    assert [outcome.action for outcome in outcomes] == ["compiled"]


def test_as_records_of_the_store_they_are_misses(
    put: Put, project: Project, fake_worker: FakeWorker
) -> None:
    build(project, project.targets)
    store = store_of(project)
    for name in contents(store.root):
        if name.endswith(".json"):
            put(store.root / name)
    assert soon(lambda: list(store.manifests())) == []
    assert soon(lambda: list(store.roots())) == []
    (artifact_directory(project, project.targets[0]) / MODEL).unlink()
    assert soon(lambda: action_of(project)) == "build"


def test_as_the_root_of_the_store_a_build_goes_without(
    put: Put,
    project: Project,
    fake_worker: FakeWorker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AOTI_BUILD_STORE", str(put(tmp_path / "store")))
    report = soon(lambda: build(project, project.targets))
    assert [(outcome.action, outcome.error) for outcome in report.outcomes] == [("compiled", None)]
    assert soon(lambda: action_of(project)) == "up-to-date"


def test_as_a_log_it_is_replaced(put: Put, project: Project, fake_worker: FakeWorker) -> None:
    path = put(log_path(project, project.targets[0]))
    if path.is_dir():
        return
    report = soon(lambda: build(project, project.targets))
    assert [(outcome.action, outcome.error) for outcome in report.outcomes] == [("compiled", None)]
    assert path.is_file()
    assert not path.is_symlink()


def test_a_log_is_never_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(b"precious")
    (tmp_path / "log").symlink_to("precious")
    with open(open_log(tmp_path / "log"), "wb") as log:
        log.write(b"said")
    assert contents(tmp_path) == {"precious": b"precious", "log": b"said"}


def test_as_a_lock_it_is_an_error(put: Put, tmp_path: Path) -> None:
    path = put(tmp_path / "target.lock")
    if path.is_file():
        return

    def take() -> None:
        with lock(path):
            pass

    with pytest.raises(
        OSError, match=r"a pipe|a socket|a device|directory|No such device|symbolic link"
    ):
        soon(take)


def test_as_a_program_it_is_replaced(put: Put, tmp_path: Path) -> None:
    path = put(tmp_path / "program")
    if not path.is_dir():
        soon(lambda: write_program(path, "#!/bin/sh\n"))
        assert path.read_text() == "#!/bin/sh\n"


def test_as_working_state_of_a_published_project_nothing_is_built_anew(
    put: Put, project: Project, published: Path
) -> None:
    build(project, project.targets)
    for name in (".stat-cache.json", ".index.json", ".passed-checks.json"):
        put(project.artifacts / name)
    outcomes = soon(lambda: build(project, project.targets)).outcomes
    assert [outcome.action for outcome in outcomes] == ["up-to-date"]
    assert stat_cache_path(project).is_dir() or not stat_cache_path(project).is_symlink()


@pytest.mark.parametrize("kind", [make_pipe, make_huge_file])
@pytest.mark.parametrize(
    ("words", "place", "code"),
    [
        ("status --file odd.yaml", "odd.yaml", 2),
        ("build --file odd.yaml --json", "odd.yaml", 2),
        ("inspect --path odd.pt2", "odd.pt2", 4),
        ("verify", f"artifacts/small/cpu/{MODEL}", 4),
        ("verify --json", f"artifacts/small/cpu/{REFERENCE_DATA}", 4),
        ("run", f"artifacts/small/cpu/{MANIFEST}", 4),
    ],
)
def test_the_exit_code_tells_the_kind(
    project: Project,
    published: Path,
    kind: Callable[[Path], None],
    words: str,
    place: str,
    code: int,
) -> None:
    path = project.root / place
    path.unlink(missing_ok=True)
    kind(path)
    answer = inv(*words.split(), cwd=project.root)
    assert answer.returncode == code, answer.stderr
    assert "Traceback" not in answer.stderr
    if "--json" in words:
        assert json.loads(answer.stdout)["ok"] is False


def test_a_pipe_given_as_input_of_a_run(project: Project, published: Path) -> None:
    os.mkfifo(project.root / "input.npz")
    answer = inv("run", "--input", "input.npz", cwd=project.root)
    assert (answer.returncode, "not a regular file" in answer.stderr) == (2, True)


def forbidden_for(path: Path) -> Callable[..., int]:
    """`os.preadv` that fails if it reads the file `path`."""
    real = os.preadv

    def read(descriptor: int, *rest: Any) -> int:
        assert os.readlink(f"/proc/self/fd/{descriptor}") != str(path)
        return real(descriptor, *rest)

    return read
