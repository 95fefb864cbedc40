"""What is done to a package before torch may load it: each way of checking, and what it finds."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from packages import OPAQUE, publish_zip, write
from small_projects import REAL_PYTHON, write_project

from aoti_build.artifact.manifest import MODEL, Manifest
from aoti_build.common import directories, stat_cache
from aoti_build.errors import ArtifactError, DirectoryError, UsageError
from aoti_build.host import compatibility
from aoti_build.runtime import cache_entry, package, private, process_directory, unpack
from aoti_build.runtime.package import Verify, admit

Artifact = tuple[Path, Manifest]
SMALL = {name: content[:100] for name, content in OPAQUE.items()}
PREAMBLE = """
import sys
from pathlib import Path
from aoti_build.host import compatibility
compatibility.torch_version = lambda: "2.14"
from aoti_build.common import directories
directories.code_fault = lambda path: ""
from aoti_build.artifact.manifest import read_manifest
from aoti_build.runtime.package import admit
directory = Path(sys.argv[1])
def load(verify):
    return admit(directory, read_manifest(directory), verify).path
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A private directory, a torch that loads directories, and no file too young to be
    remembered."""
    tmp_path.chmod(0o700)
    monkeypatch.setenv(private.VARIABLE, str(tmp_path / "cache"))
    # Whatever the test's own temporary directory is like.
    monkeypatch.setattr(directories, "code_fault", lambda path: "")
    monkeypatch.setattr(compatibility, "torch_version", lambda: "2.14.1")
    monkeypatch.setattr(stat_cache, "RACY_NS", -(10**12))
    return tmp_path / "cache" / "unpacked"


@pytest.fixture(autouse=True)
def _own_copies_of_this_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_directory, "_current", None)


def _write_over(path: Path) -> None:
    """Other bytes in the very file."""
    with path.open("r+b") as file:
        file.seek(5000)
        byte = file.read(1)
        file.seek(5000)
        file.write(bytes([byte[0] ^ 1]))


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


def test_a_package_is_unpacked_once_and_every_byte_of_it(
    artifact: Artifact, reads: list[int]
) -> None:
    first, second = admit(*artifact), admit(*artifact)
    assert first.path == second.path
    assert unpacked(first.path) == OPAQUE
    assert (first.unpacked, first.how, second.how) == (True, "full", "full")
    assert len(reads) == 1
    assert all(
        not os.access(path, os.W_OK) or os.geteuid() == 0 for path in Path(first.path).rglob("*.so")
    )


@pytest.mark.parametrize("verify", ["full", "stat"])
def test_one_changed_byte_is_refused(artifact: Artifact, cache: Path, verify: Verify) -> None:
    directory, manifest = artifact
    content = bytearray((directory / MODEL).read_bytes())
    content[len(content) // 2] ^= 1
    (directory / MODEL).write_bytes(content)
    with pytest.raises(ArtifactError, match="does not match the manifest") as caught:
        admit(directory, manifest, verify)
    assert caught.value.target == manifest.target
    assert "digest" in str(caught.value.cause)
    assert not [path for path in cache.iterdir() if path.is_dir()], "nothing of it stays behind"


@pytest.mark.parametrize("verify", ["full", "stat"])
def test_a_byte_changed_after_a_good_load_is_refused(artifact: Artifact, verify: Verify) -> None:
    directory, manifest = artifact
    admit(directory, manifest, verify).close()
    status = (directory / MODEL).stat()
    _write_over(directory / MODEL)
    os.utime(
        directory / MODEL, ns=(status.st_atime_ns, status.st_mtime_ns)
    )  # the change time still tells
    with pytest.raises(ArtifactError, match="does not match the manifest"):
        admit(directory, manifest, verify)


@pytest.mark.parametrize("verify", ["full", "stat", "off"])
def test_another_size_or_no_package_is_refused_in_any_case(
    artifact: Artifact, verify: Verify
) -> None:
    directory, manifest = artifact
    with (directory / MODEL).open("ab") as file:
        file.write(b"x")
    with pytest.raises(ArtifactError, match="does not match the manifest"):
        admit(directory, manifest, verify)
    (directory / MODEL).unlink()
    with pytest.raises(ArtifactError, match="cannot be read"):
        admit(directory, manifest, verify)


def test_stat_reads_a_package_once_and_again_when_it_was_touched(
    artifact: Artifact, reads: list[int]
) -> None:
    said = [admit(*artifact, "stat").how for _ in range(3)]
    assert (said, len(reads)) == (["full", "stat", "stat"], 1)
    os.utime(artifact[0] / MODEL)
    assert admit(*artifact, "stat").how == "full"
    assert len(reads) == 2


def test_off_digests_nothing(artifact: Artifact, reads: list[int]) -> None:
    admitted = admit(*artifact, "off")
    assert (unpacked(admitted.path), admitted.how, admitted.unpacked) == (OPAQUE, "off", False)
    assert not reads
    again = admit(*artifact, "off")
    assert again.path == admitted.path, "a path for each load would make the process grow"
    checked = admit(*artifact)
    assert checked.path != admitted.path, "what was not checked never counts as checked"
    assert admit(*artifact, "off").path == checked.path, (
        "what a checked package was unpacked to is used"
    )


def test_off_sees_that_a_file_is_another_one(artifact: Artifact) -> None:
    directory, manifest = artifact
    before = admit(directory, manifest, "off")
    shutil.copyfile(directory / MODEL, directory / "copy")
    os.replace(directory / "copy", directory / MODEL)
    after = admit(directory, manifest, "off")
    assert before.path != after.path
    assert unpacked(after.path) == OPAQUE


@pytest.mark.parametrize("verify", ["full", "stat", "off"])
def test_unpacked_files_that_were_changed_are_not_loaded(
    artifact: Artifact, verify: Verify
) -> None:
    path = Path(admit(*artifact, "stat").path)
    code = next(path.rglob("*.so"))
    content = code.read_bytes()
    code.chmod(0o600)
    code.write_bytes(b"evil" + content[4:])
    admitted = admit(*artifact, verify)
    assert not admitted.unpacked if verify == "off" else unpacked(admitted.path) == OPAQUE


def test_full_finds_rot_that_no_stat_shows(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
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


def test_a_record_that_lacks_digests_is_none_by_stat_either(
    artifact: Artifact, reads: list[int]
) -> None:
    record = Path(admit(*artifact, "stat").path).parent / "unpacked.json"
    document = json.loads(record.read_text())
    del next(iter(document["files"].values()))["blocks"]
    record.write_text(json.dumps(document))
    assert unpacked(admit(*artifact, "stat").path) == OPAQUE
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
    monkeypatch.setattr(
        shutil, "rmtree", lambda path, **how: real(path, **how) if ".unpack-" in str(path) else None
    )
    admitted = admit(*artifact, verify)
    assert not admitted.unpacked
    assert Path(admitted.path).read_bytes() == (artifact[0] / MODEL).read_bytes()


def test_unpacked_files_that_came_from_a_backup_are_read_once(
    artifact: Artifact, reads: list[int]
) -> None:
    path = Path(admit(*artifact, "stat").path)
    for file in path.rglob("*"):
        os.utime(file)
    assert [admit(*artifact, "stat").path for _ in range(2)] == [str(path)] * 2
    assert len(reads) == 2


@pytest.mark.parametrize("verify", ["full", "stat", "off"])
def test_without_a_private_directory_a_process_keeps_one_copy(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch, verify: Verify
) -> None:
    monkeypatch.setenv(private.VARIABLE, "off")
    admitted = admit(*artifact, verify)
    assert (unpacked(admitted.path), admitted.unpacked) == (OPAQUE, False)
    admitted.close()
    assert admit(*artifact, verify).path == admitted.path
    _write_over(artifact[0] / MODEL)
    assert unpacked(admitted.path) == OPAQUE
    if verify != "off":
        with pytest.raises(ArtifactError, match="does not match the manifest"):
            admit(*artifact, verify)


def test_a_processs_own_copies_go_with_it_and_not_with_its_forks(artifact: Artifact) -> None:
    script = (
        PREAMBLE + "import multiprocessing, os\n"
        "def again(): print(load('off'), flush=True)\n"
        "print(load('off'), flush=True)\n"
        "child = multiprocessing.get_context('fork').Process(target=again)\n"
        "child.start(); child.join(); assert child.exitcode == 0\n"
        "if os.fork() == 0: raise SystemExit\n"
        "os.wait(); assert os.path.isdir(load('off'))\n"
    )
    done = subprocess.run(
        [REAL_PYTHON, "-c", script, str(artifact[0])],
        env={**os.environ, private.VARIABLE: "off"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    mine, childs = done.stdout.split()
    assert mine != childs
    assert not Path(mine).exists()
    assert not Path(childs).exists()


def test_copies_that_were_not_used_for_long_make_room_for_others(
    artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(private.VARIABLE, "off")
    monkeypatch.setattr(cache_entry, "_UNUSED_BY_THIS_PROCESS", -10.0)
    kept, closed = admit(*artifact), admit(*artifact, "off")
    other = publish_zip(write_project(tmp_path / "other"), {**OPAQUE, "model/more": b"1"})
    closed.close()
    held = admit(*other)
    assert unpacked(kept.path) == OPAQUE, "it is in use"
    kept.close()
    admit(*publish_zip(write_project(tmp_path / "third"), {**OPAQUE, "model/more": b"2"}))
    assert not Path(kept.path).exists()
    assert Path(held.path).exists()


@pytest.mark.parametrize("own", [False, True], ids=["private directory", "own copies"])
@pytest.mark.parametrize("kind", ["older torch", "compressed"])
def test_what_torch_cannot_load_unpacked_is_copied_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, own: bool
) -> None:
    artifact = publish_zip(write_project(tmp_path / "project"), OPAQUE)
    if own:
        monkeypatch.setenv(private.VARIABLE, "off")
    if kind == "older torch":
        monkeypatch.setattr(compatibility, "torch_version", lambda: "2.11.0+cu128")
    else:
        monkeypatch.setattr(unpack, "contents_of", lambda descriptor, **how: None)
    content = (artifact[0] / MODEL).read_bytes()
    admitted = admit(*artifact)
    assert (admitted.how, admitted.unpacked) == ("full", False)
    again = [admit(*artifact, "full").how, admit(*artifact, "stat").how]
    assert again == ["full", "stat"]
    _write_over(artifact[0] / MODEL)
    assert Path(admitted.path).read_bytes() == content, "who writes to the file has no effect"
    with pytest.raises(ArtifactError):
        admit(*artifact)


BLOB = "model/data/aotinductor/model/code.wrapper_weights.blob"
SOURCE = "model/data/aotinductor/model/code.wrapper.cpp"
# The source says that the blob is one constant.
TABLE = f"""
    constants_info_[0].name = "all";
    constants_info_[0].dtype = cached_torch_dtype_uint8;
    constants_info_[0].offset = 0;
    constants_info_[0].data_size = {len(OPAQUE[BLOB])};
    constants_info_[0].from_folded = false;
    constants_info_[0].shape = {{{len(OPAQUE[BLOB])}}};
    constants_info_[0].stride = {{1}};
    constants_info_[0].layout = static_cast<int32_t>(cached_torch_layout_strided);
    constants_info_[0].original_fqn = "all";
"""
EXTERNAL = {**OPAQUE, SOURCE: TABLE.encode()}


def publish_external(root: Path, content: dict[str, bytes]) -> Artifact:
    """An artifact for the CPU whose weights are apart from its code."""
    signature = {
        "inputs": [],
        "outputs": [],
        "dims": {},
        "mutates": {"inputs": [], "buffers": []},
        "weights": [],
    }
    return publish_zip(
        write_project(root),
        content,
        weights={"external": True, "alignment": 64},
        signature=signature,
    )


@pytest.fixture
def external(tmp_path: Path) -> Artifact:
    return publish_external(tmp_path / "project", EXTERNAL)


@pytest.mark.parametrize("own", [False, True], ids=["private directory", "own copies"])
@pytest.mark.parametrize("verify", ["full", "stat", "off"])
def test_weights_that_can_be_mapped_are_not_where_torch_reads_them(
    external: Artifact, monkeypatch: pytest.MonkeyPatch, verify: Verify, own: bool
) -> None:
    if own:
        monkeypatch.setenv(private.VARIABLE, "off")
    admitted = admit(*external, verify)
    others = {name: content for name, content in EXTERNAL.items() if name != BLOB}
    assert unpacked(admitted.path) == others
    assert admitted.weights is not None
    assert admitted.weights.read_bytes() == OPAQUE[BLOB]
    assert not admitted.weights.is_relative_to(admitted.path)


@pytest.mark.parametrize("kind", ["changed by the compiler", "older torch", "on a GPU", "unlisted"])
def test_other_weights_are_left_to_torch(
    external: Artifact, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    directory, manifest = external
    if kind == "changed by the compiler":
        manifest = replace(manifest, weights={"external": False, "why": "folded"})
    elif kind == "older torch":
        monkeypatch.setattr(compatibility, "torch_version", lambda: "2.11.0")
    elif kind == "on a GPU":
        manifest = replace(manifest, requires={**manifest.requires, "device": "cuda"})
    else:
        signature = {key: value for key, value in manifest.signature.items() if key != "weights"}
        manifest = replace(manifest, signature=signature)  # type: ignore[arg-type]
    admitted = admit(directory, manifest)
    assert admitted.weights is None
    if kind == "older torch":
        assert Path(admitted.path).read_bytes() == (directory / MODEL).read_bytes()
    else:
        assert unpacked(admitted.path) == EXTERNAL


@pytest.mark.parametrize(
    "content",
    [
        OPAQUE,
        {
            **EXTERNAL,
            SOURCE: TABLE.replace("uint8", "uint8;").replace("data_size", "size").encode(),
        },
        {**EXTERNAL, SOURCE: b"\xff"},
        {**EXTERNAL, SOURCE.replace("code", "more"): TABLE.encode()},
    ],
    ids=["no source", "another table", "no text", "two sources"],
)
def test_weights_whose_places_are_unknown_are_left_to_torch(
    tmp_path: Path, content: dict[str, bytes]
) -> None:
    admitted = admit(*publish_external(tmp_path / "project", content))
    assert admitted.weights is None
    assert unpacked(admitted.path) == content


@pytest.mark.parametrize("again", [False, True], ids=["unpacked now", "unpacked before"])
def test_weights_that_vanish_after_the_check_are_missed(
    external: Artifact, monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    """A model without its weights would crash at the first call."""
    if again:
        admit(*external).close()
    real = package._check

    def vanishing(*arguments: Any) -> Any:
        checked = real(*arguments)
        entry = arguments[-1]
        (entry.directory / unpack.WEIGHTS).unlink()
        return checked

    monkeypatch.setattr(package, "_check", vanishing)
    admitted = admit(*external)
    assert admitted.weights is not None
    assert not admitted.weights.exists()  # to open it is an error


@pytest.mark.parametrize("verify", ["full", "stat"])
def test_damaged_weights_are_made_anew(external: Artifact, verify: Verify) -> None:
    with contextlib.closing(admit(*external)) as admitted:
        assert admitted.weights is not None
        admitted.weights.chmod(0o600)
        _write_over(admitted.weights)
    again = admit(*external, verify)
    assert again.weights is not None
    assert again.weights.read_bytes() == OPAQUE[BLOB]


def test_without_any_room_the_checked_file_itself_is_loaded(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(private.VARIABLE, "off")
    monkeypatch.setattr(cache_entry, "process_directory", lambda: None)
    admitted = admit(*artifact)
    content = (artifact[0] / MODEL).read_bytes()
    (artifact[0] / "other").write_bytes(b"something else")
    os.replace(artifact[0] / "other", artifact[0] / MODEL)
    assert Path(admitted.path).read_bytes() == content, "a file put in its place meanwhile is not"
    assert not admitted.unpacked
    admitted.close()


@pytest.mark.parametrize("verify", ["full", "stat"])
def test_the_zips_directory_is_that_of_the_bytes_that_were_digested(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch, cache: Path, verify: Verify
) -> None:
    """Somebody lets another directory be parsed, and puts the right bytes back before they are
    digested."""
    directory, manifest = artifact
    right = (directory / MODEL).read_bytes()
    names = [name.encode() for name in OPAQUE if name.endswith((".so", ".cpp"))]
    one, other = names[0], names[0][:-1] + b"X"
    (directory / MODEL).write_bytes(right.replace(one, other))
    real = unpack.read_directory

    def parsed(*arguments: Any) -> Any:
        found = real(*arguments)
        (directory / MODEL).write_bytes(right)
        return found

    monkeypatch.setattr(unpack, "read_directory", parsed)
    with pytest.raises(ArtifactError, match="does not match the manifest"):
        admit(directory, manifest, verify)
    assert not [path for path in cache.iterdir() if path.is_dir()]
    assert unpacked(admit(directory, manifest, verify).path) == OPAQUE


def _stray_folder(entry: Path) -> None:
    (entry / "stray").mkdir()


def _deep_folder(entry: Path) -> None:
    (entry / "model" / "data" / "stray").mkdir()


def _stray_file(entry: Path) -> None:
    (entry / "stray").write_text("")


def _stray_link(entry: Path) -> None:
    (entry / "stray").symlink_to("model")


def _link_for_a_file(entry: Path) -> None:
    code = next(entry.rglob("*.so"))
    code.rename(entry.parent / "moved")
    code.symlink_to(entry.parent / "moved")


def _pipe_for_a_file(entry: Path) -> None:
    code = next(entry.rglob("*.so"))
    code.unlink()
    os.mkfifo(code)


def _file_for_a_folder(entry: Path) -> None:
    shutil.rmtree(entry / "model" / "data")
    (entry / "model" / "data").write_text("")


def _nothing(entry: Path) -> None:
    shutil.rmtree(entry)
    entry.mkdir()


def _file_for_the_entry(entry: Path) -> None:
    shutil.rmtree(entry)
    entry.write_text("")


def _link_for_the_entry(entry: Path) -> None:
    entry.rename(entry.parent / "elsewhere")
    entry.symlink_to("elsewhere")


STRAYS = [
    _stray_folder, _deep_folder, _stray_file, _stray_link, _link_for_a_file, _pipe_for_a_file,
    _file_for_a_folder, _nothing, _file_for_the_entry, _link_for_the_entry,
]  # fmt: skip


@pytest.mark.parametrize("verify", ["full", "stat"])
@pytest.mark.parametrize("damage", STRAYS, ids=lambda damage: damage.__name__)
def test_a_damaged_entry_is_made_anew(
    tmp_path: Path,
    damage: Callable[[Path], None],
    verify: Verify,
) -> None:
    artifact = publish_zip(write_project(tmp_path / "project"), SMALL)
    entry = Path(admit(*artifact, verify).path).parent
    damage(entry)
    for _ in range(2):
        admitted = admit(*artifact, verify)
        assert (Path(admitted.path).parent, admitted.unpacked) == (entry, True)
        assert unpacked(admitted.path) == SMALL
        assert not entry.is_symlink()
        assert [path.name for path in entry.iterdir() if path.name != "unpacked.json"] == ["model"]


@pytest.mark.parametrize("damage", STRAYS, ids=lambda damage: damage.__name__)
def test_a_damaged_entry_is_not_loaded_unverified(
    tmp_path: Path,
    damage: Callable[[Path], None],
) -> None:
    artifact = publish_zip(write_project(tmp_path / "project"), SMALL)
    checked = admit(*artifact)
    damage(Path(checked.path).parent)
    admitted = admit(*artifact, "off")
    assert admitted.path != checked.path
    assert unpacked(admitted.path) == SMALL


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
    assert unpack.contents_of(descriptor) is None
    os.close(descriptor)


def test_another_word_for_verify_is_an_error(artifact: Artifact) -> None:
    with pytest.raises(UsageError, match="fast"):
        admit(*artifact, "fast")  # type: ignore[arg-type]


def test_entries_stay_while_a_process_holds_them_and_go_when_unused(
    artifact: Artifact, cache: Path
) -> None:
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


def test_staging_that_another_process_removes_first_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    removed = tmp_path / ".unpack-removed"
    monkeypatch.setattr(Path, "glob", lambda _, pattern: [removed] if "unpack" in pattern else [])
    private.remove_unused(tmp_path)


def test_processes_that_start_together_unpack_to_one_place(artifact: Artifact, cache: Path) -> None:
    script = PREAMBLE + "print(load('full'))"
    started = [
        subprocess.Popen(
            [REAL_PYTHON, "-c", script, str(artifact[0])], stdout=subprocess.PIPE, text=True
        )
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


def test_a_directory_that_others_can_write_to_is_not_used(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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


def test_a_home_that_cannot_be_made_is_done_without(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "file"))
    assert private.private_directory() is None
