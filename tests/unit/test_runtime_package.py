"""What is done to a package before torch may load it: each way of checking, and what it finds."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from packages import OPAQUE, publish_zip, write
from small_projects import REAL_PYTHON, write_project

from aoti_build import host, stat_cache
from aoti_build.errors import ArtifactError, DirectoryError, UsageError
from aoti_build.manifest import MODEL, Manifest
from aoti_build.runtime import private, unpack
from aoti_build.runtime.package import Verify, admit

Artifact = tuple[Path, Manifest]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A private directory, a torch that loads directories, and no file too young to be remembered."""
    tmp_path.chmod(0o700)
    monkeypatch.setenv(private.VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(private, "_fault", lambda path: "")  # whatever the test's own temporary directory is like
    monkeypatch.setattr(host, "torch_version", lambda: "2.14.1")
    monkeypatch.setattr(stat_cache, "RACY_NS", -(10**12))
    return tmp_path / "cache" / "unpacked"


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    return publish_zip(write_project(tmp_path / "project"), OPAQUE)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that grows with every time the whole package is read."""
    found: list[int] = []
    real = unpack.digest

    def counted(descriptor: int, *rest: object) -> str:
        found.append(descriptor)
        return real(descriptor, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(unpack, "digest", counted)
    return found


def unpacked(path: str) -> dict[str, bytes]:
    root = Path(path)
    return {
        f"{root.name}/{file.relative_to(root).as_posix()}": file.read_bytes()
        for file in root.rglob("*")
        if file.is_file()
    }


def test_a_package_is_unpacked_once_and_every_byte_of_it(artifact: Artifact, reads: list[int]) -> None:
    first, second = admit(*artifact), admit(*artifact)
    assert first.path == second.path
    assert unpacked(first.path) == OPAQUE
    assert (first.unpacked, first.how, second.how) == (True, "full", "full")
    assert len(reads) == 1
    assert all(not os.access(path, os.W_OK) or os.geteuid() == 0 for path in Path(first.path).rglob("*.so"))


@pytest.mark.parametrize("verify", ["full", "stat"])
def test_one_changed_byte_is_refused(artifact: Artifact, cache: Path, verify: Verify) -> None:
    directory, manifest = artifact
    content = bytearray((directory / MODEL).read_bytes())
    content[len(content) // 2] ^= 1
    (directory / MODEL).write_bytes(content)
    with pytest.raises(ArtifactError, match="not the file that was built") as caught:
        admit(directory, manifest, verify)
    assert caught.value.target == manifest.target
    assert "sha256" in str(caught.value.cause)
    assert not [path for path in cache.iterdir() if path.is_dir()], "nothing of it stays behind"


@pytest.mark.parametrize("verify", ["full", "stat"])
def test_a_byte_changed_after_a_good_load_is_refused(artifact: Artifact, verify: Verify) -> None:
    directory, manifest = artifact
    admit(directory, manifest, verify).close()
    status = (directory / MODEL).stat()
    with (directory / MODEL).open("r+b") as file:
        file.seek(5000)
        byte = file.read(1)
        file.seek(5000)
        file.write(bytes([byte[0] ^ 1]))
    os.utime(directory / MODEL, ns=(status.st_atime_ns, status.st_mtime_ns))  # the change time still tells
    with pytest.raises(ArtifactError, match="not the file that was built"):
        admit(directory, manifest, verify)


@pytest.mark.parametrize("verify", ["full", "stat", "off"])
def test_another_size_or_no_package_is_refused_in_any_case(artifact: Artifact, verify: Verify) -> None:
    directory, manifest = artifact
    with (directory / MODEL).open("ab") as file:
        file.write(b"x")
    with pytest.raises(ArtifactError, match="not the file that was built"):
        admit(directory, manifest, verify)
    (directory / MODEL).unlink()
    with pytest.raises(ArtifactError, match="cannot be read"):
        admit(directory, manifest, verify)


def test_stat_reads_a_package_once_and_again_when_it_was_touched(artifact: Artifact, reads: list[int]) -> None:
    said = [admit(*artifact, "stat").how for _ in range(3)]
    assert (said, len(reads)) == (["full", "stat", "stat"], 1)
    os.utime(artifact[0] / MODEL)
    assert admit(*artifact, "stat").how == "full"
    assert len(reads) == 2


def test_off_reads_nothing(artifact: Artifact, reads: list[int]) -> None:
    admitted = admit(*artifact, "off")
    assert (admitted.path, admitted.how, admitted.unpacked) == (str(artifact[0] / MODEL), "off", False)
    assert not reads
    checked = admit(*artifact)
    assert admit(*artifact, "off").path == checked.path, "what a checked package was unpacked to is used"


@pytest.mark.parametrize("verify", ["full", "stat", "off"])
def test_unpacked_files_that_were_changed_are_not_loaded(artifact: Artifact, verify: Verify) -> None:
    path = Path(admit(*artifact, "stat").path)
    code = next(path.rglob("*.so"))
    content = code.read_bytes()
    code.chmod(0o600)
    code.write_bytes(b"evil" + content[4:])
    admitted = admit(*artifact, verify)
    assert not admitted.unpacked if verify == "off" else unpacked(admitted.path) == OPAQUE


def test_full_finds_rot_that_no_stat_shows(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path(admit(*artifact).path)
    blob = next(path.rglob("*.blob"))
    blob.chmod(0o600)
    with blob.open("r+b") as file:
        file.seek(unpack.CHUNK + 3)
        file.write(b"?")
    record = path.parent / "unpacked.json"
    document = json.loads(record.read_text())
    document["files"][blob.relative_to(path.parent).as_posix()]["stat"] = stat_cache.stat_key(blob)
    record.write_text(json.dumps(document))
    assert unpacked(admit(*artifact, "stat").path) != OPAQUE
    assert unpacked(admit(*artifact, "full").path) == OPAQUE


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"format": "aoti-build/unpacked", "format_version": 1, "files": {}}',
        '{"format": "aoti-build/unpacked", "format_version": 2, "block": 4194304, "files": {}}',
    ],
)
@pytest.mark.parametrize("verify", ["full", "stat"])
def test_an_unreadable_record_costs_one_read_and_nothing_else(
    artifact: Artifact, reads: list[int], verify: Verify, text: str
) -> None:
    path = Path(admit(*artifact, verify).path)
    (path.parent / "unpacked.json").write_text(text)
    assert [admit(*artifact, verify).path for _ in range(2)] == [str(path)] * 2
    assert len(reads) == 2
    assert len(list(path.parent.parent.glob("*"))) == 3, "the entry, its lock, and the stat cache"


@pytest.mark.parametrize(
    "change",
    [
        lambda document: document.update(block=1),
        lambda document: next(iter(document["files"].values()))["blocks"].append("0" * 64),
        lambda document: document["files"].popitem(),
    ],
)
def test_a_record_of_other_digests_or_fewer_files_costs_one_read(
    artifact: Artifact, reads: list[int], change: Callable[[Any], object]
) -> None:
    record = Path(admit(*artifact).path).parent / "unpacked.json"
    document = json.loads(record.read_text())
    change(document)
    record.write_text(json.dumps(document))
    assert all(unpacked(admit(*artifact).path) == OPAQUE for _ in range(2))
    assert len(reads) == 2


@pytest.mark.parametrize("verify", ["full", "stat"])
def test_changed_files_that_cannot_be_removed_are_not_loaded(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch, verify: Verify
) -> None:
    code = next(Path(admit(*artifact).path).rglob("*.so"))
    content = code.read_bytes()
    code.chmod(0o600)
    code.write_bytes(b"evil" + content[4:])
    real = shutil.rmtree
    monkeypatch.setattr(shutil, "rmtree", lambda path, **how: real(path, **how) if ".unpack-" in str(path) else None)
    admitted = admit(*artifact, verify)
    assert not admitted.unpacked
    assert Path(admitted.path).read_bytes() == (artifact[0] / MODEL).read_bytes()


def test_unpacked_files_that_came_from_a_backup_are_read_once(artifact: Artifact, reads: list[int]) -> None:
    path = Path(admit(*artifact, "stat").path)
    for file in path.rglob("*"):
        os.utime(file)
    assert [admit(*artifact, "stat").path for _ in range(2)] == [str(path)] * 2
    assert len(reads) == 2


def test_without_a_private_directory_the_checked_file_itself_is_loaded(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(private.VARIABLE, "off")
    admitted = admit(*artifact)
    content = (artifact[0] / MODEL).read_bytes()
    (artifact[0] / "other").write_bytes(b"something else")
    os.replace(artifact[0] / "other", artifact[0] / MODEL)
    assert Path(admitted.path).read_bytes() == content, "a file put in its place meanwhile is not"
    assert not admitted.unpacked
    admitted.close()


def test_an_older_torch_is_given_the_package(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "torch_version", lambda: "2.11.0+cu128")
    assert not admit(*artifact).unpacked
    assert [admit(*artifact, "stat").how for _ in range(2)] == ["full", "stat"]


@pytest.mark.parametrize(
    ("members", "compression"),
    [
        (OPAQUE, zipfile.ZIP_DEFLATED),
        ({**OPAQUE, "model/data/constants/weight_0": b"w"}, zipfile.ZIP_STORED),
        ({**OPAQUE, "other/file": b"w"}, zipfile.ZIP_STORED),
        ({**OPAQUE, "model/../../escape": b"w"}, zipfile.ZIP_STORED),
    ],
    ids=["compressed", "constants apart", "two roots", "climbs out"],
)
def test_a_package_of_another_kind_is_checked_and_left_to_torch(
    tmp_path: Path, members: dict[str, bytes], compression: int
) -> None:
    write(tmp_path / "package", members, method=compression)
    descriptor = os.open(tmp_path / "package", os.O_RDONLY)
    assert unpack.members(descriptor) is None
    os.close(descriptor)


def test_another_word_for_verify_is_an_error(artifact: Artifact) -> None:
    with pytest.raises(UsageError, match="fast"):
        admit(*artifact, "fast")  # type: ignore[arg-type]


def test_entries_stay_while_a_process_holds_them_and_go_when_unused(artifact: Artifact, cache: Path) -> None:
    held = admit(*artifact)
    private.remove_unused(cache, seconds=-10)
    assert unpacked(held.path) == OPAQUE
    held.close()
    left = cache / ".unpack-of-a-killed-process"
    left.mkdir()
    os.utime(left, (0, 0))
    private.remove_unused(cache, seconds=100)
    assert Path(held.path).is_dir(), "used a moment ago"
    private.remove_unused(cache, seconds=-10)
    assert [path.name for path in cache.iterdir() if path.is_dir()] == []


def test_processes_that_start_together_unpack_to_one_place(artifact: Artifact, cache: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from aoti_build import host; host.torch_version = lambda: '2.14'\n"
        "from aoti_build.runtime import private; private._fault = lambda path: ''\n"
        "from aoti_build.manifest import read_manifest\n"
        "from aoti_build.runtime.package import admit; d = Path(sys.argv[1]); print(admit(d, read_manifest(d)).path)"
    )
    started = [
        subprocess.Popen([REAL_PYTHON, "-c", script, str(artifact[0])], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    paths = {process.communicate(timeout=60)[0].strip() for process in started}
    assert len(paths) == 1
    assert unpacked(paths.pop()) == OPAQUE
    assert not list(cache.glob(".unpack-*"))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory in the user's home, with the real rules."""
    monkeypatch.undo()
    monkeypatch.delenv(private.VARIABLE, raising=False)
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    return home


def test_a_directory_that_others_can_write_to_is_not_used(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "aoti_build").mkdir()
    (home / "aoti_build").chmod(0o777)
    assert private.private_directory() is None
    monkeypatch.setenv(private.VARIABLE, str(home / "aoti_build"))
    with pytest.raises(DirectoryError, match="this user's alone") as caught:
        private.private_directory()
    assert "written to by others" in str(caught.value.cause)
    assert f"{private.VARIABLE}=off" in str(caught.value.hint)
    (home / "aoti_build").chmod(0o700)
    assert private.private_directory() == (home / "aoti_build" / "unpacked").resolve()
    home.chmod(0o777)
    with pytest.raises(DirectoryError):
        private.private_directory()


def test_a_sticky_directory_above_is_fine(home: Path) -> None:
    home.chmod(0o1777)
    found = private.private_directory()
    assert found is not None
    assert found.stat().st_mode & 0o777 == 0o700


def test_a_home_that_cannot_be_made_is_done_without(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "file"))
    assert private.private_directory() is None
