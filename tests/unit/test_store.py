"""The store gives back exactly what was put in, or nothing."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_projects import (
    ONE_MODEL,
    REAL_PYTHON,
    TWO_MODELS,
    FakeWorker,
    action_of,
    contents,
    inv,
    plan_of,
    publish_fake,
    sealed,
    store_of,
    write_project,
)

from aoti_build.artifact import integrity
from aoti_build.artifact.manifest import MODEL, REFERENCE_DATA, FileRecord, Manifest
from aoti_build.artifact.paths import artifact_directory
from aoti_build.commands.build import build
from aoti_build.common.digests import digest_bytes, digest_file
from aoti_build.host import distributions, toolchain
from aoti_build.models_file import Project
from aoti_build.store.interface import Store
from aoti_build.store.local import LocalStore
from aoti_build.work.host_checks import quick_checks

WITH_WEIGHTS = ONE_MODEL + "    weights: weights.safetensors\n"
EXTERNAL = {"external": True, "alignment": 64}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return LocalStore(tmp_path / "store")


@pytest.fixture
def kept(project: Project, published: Path, store: Store) -> Manifest:
    """The manifest of an artifact that is in the store."""
    manifest = publish_fake(project, weights=EXTERNAL)
    store.put(manifest, published)
    return manifest


def test_what_was_added_is_found_and_given_back(
    kept: Manifest, store: Store, published: Path, tmp_path: Path
) -> None:
    assert store.by_key(kept.key) == kept
    assert store.by_graph(kept.graph_key) == kept
    assert list(store.candidates(kept.source)) == [kept]
    assert list(store.manifests()) == [kept]
    assert store.has(kept)
    for name in (MODEL, REFERENCE_DATA):
        assert store.get(kept.files[name], tmp_path / name)
        assert (tmp_path / name).read_bytes() == (published / name).read_bytes()
    assert {stored.digest: stored.size for stored in store.list_objects()} == {
        file.sha256: file.size for file in kept.files.values()
    }


def test_adding_twice_changes_nothing(kept: Manifest, store: Store, published: Path) -> None:
    before = contents(store.root)
    store.put(kept, published)
    assert contents(store.root) == before


def test_an_empty_store_has_nothing(kept: Manifest, tmp_path: Path) -> None:
    empty = LocalStore(tmp_path / "empty")
    assert (empty.by_key(kept.key), empty.by_graph(kept.graph_key), empty.has(kept)) == (
        None,
        None,
        False,
    )
    assert (list(empty.candidates(kept.source)), list(empty.manifests())) == ([], [])
    assert (list(empty.list_objects()), list(empty.roots())) == ([], [])
    assert not empty.get(kept.files[MODEL], tmp_path / "file")
    assert not empty.root.exists()


def test_a_graph_is_only_offered_for_code_that_can_take_other_weights(
    project: Project, published: Path, store: Store
) -> None:
    manifest = publish_fake(project, weights={"external": False, "why": "folded"})
    store.put(manifest, published)
    assert store.by_key(manifest.key) == manifest
    assert store.by_graph(manifest.graph_key) is None


def test_of_one_key_the_latest_artifact_counts(
    kept: Manifest, store: Store, published: Path
) -> None:
    later = replace(kept, action="reused")
    store.put(later, published)
    assert store.by_key(kept.key) == later


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"x")


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[3] ^= 1
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def make_a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("harm", [truncate, lengthen, flip_a_bit, empty, Path.unlink])
def test_a_damaged_object_is_a_miss_and_replaced(
    kept: Manifest, store: Store, published: Path, tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    digest = kept.files[MODEL].sha256
    harm(store.object_path(digest))
    assert not store.get(kept.files[MODEL], tmp_path / "file")
    assert not (tmp_path / "file").exists()
    assert not store.has(kept)
    store.put(kept, published)
    assert store.get(kept.files[MODEL], tmp_path / "file")
    assert digest_file(tmp_path / "file") == digest


GOOD, EVIL = b"good" * (5 << 20), b"evil" * (5 << 20)


def large_object(
    store: Store, tmp_path: Path, named: bytes, content: bytes
) -> tuple[FileRecord, Path]:
    """The true record of `named`, in whose object lies `content`."""
    (tmp_path / "large").write_bytes(named)
    record = FileRecord.of(tmp_path / "large")
    path = store.object_path(record.sha256)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return record, path


def test_blocks_of_other_bytes_do_not_bring_them_out_of_the_store(
    store: Store, tmp_path: Path
) -> None:
    """Whoever writes to a store can write an object and a record whose blocks agree."""
    record, path = large_object(store, tmp_path, GOOD, EVIL)
    (tmp_path / "large").write_bytes(EVIL)
    crafted = replace(FileRecord.of(tmp_path / "large"), sha256=record.sha256)
    assert not store.get(crafted, tmp_path / "file")
    assert not (tmp_path / "file").exists()
    assert not path.exists()


def test_a_record_that_lies_of_its_blocks_is_a_miss_and_costs_no_object(
    store: Store, tmp_path: Path
) -> None:
    record, path = large_object(store, tmp_path, GOOD, GOOD)
    crafted = replace(record, blocks=(*record.blocks[1:], record.blocks[0][::-1]))
    assert not store.get(crafted, tmp_path / "file")
    assert path.exists()
    assert store.get(record, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == GOOD


def test_blocks_count_once_they_were_seen_to_be_true(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, path = large_object(store, tmp_path, GOOD, GOOD)
    read_in_full: list[Path] = []
    real = FileRecord.copied

    def counting(self: FileRecord, path: Path, destination: int) -> FileRecord:
        read_in_full.append(path)
        return real(self, path, destination)

    monkeypatch.setattr(FileRecord, "copied", counting)
    assert not integrity.is_agreed(record)
    assert store.get(record, tmp_path / "one")
    assert integrity.is_agreed(record)
    assert store.get(record, tmp_path / "two")
    assert read_in_full == [path]
    assert (tmp_path / "two").read_bytes() == GOOD
    path.write_bytes(EVIL)
    assert not store.get(record, tmp_path / "three")
    assert not path.exists()


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o777])
def test_agreement_is_remembered_where_nobody_else_can_write(tmp_path: Path, mode: int) -> None:
    (tmp_path / "large").write_bytes(GOOD)
    record = FileRecord.of(tmp_path / "large")
    integrity.note(record)
    assert integrity.is_agreed(record)
    Path(os.environ["XDG_STATE_HOME"], "aoti_build", "agreed").chmod(mode)
    assert not integrity.is_agreed(record)


def test_a_record_under_another_key_is_a_miss(kept: Manifest, store: Store) -> None:
    for kind in ("keys", "graphs"):
        (record,) = store.root.glob(f"{kind}/*/*.json")
        other = store.root / kind / "00" / f"{'0' * 64}.json"
        other.parent.mkdir()
        other.write_bytes(record.read_bytes())
    assert store.by_key("0" * 64) is None
    assert store.by_graph("0" * 64) is None
    assert store.by_key(kept.key) == kept


def test_an_object_that_is_a_directory_is_a_miss(
    kept: Manifest, store: Store, tmp_path: Path
) -> None:
    make_a_directory(store.object_path(kept.files[MODEL].sha256))
    assert not store.has(kept)
    assert not store.get(kept.files[MODEL], tmp_path / "file")


def rewrite(
    change: Callable[[dict[str, Any]], object], *, stamped: bool = False
) -> Callable[[Path], None]:
    """Change a record; `stamped`: with the digest of the changed document."""

    def harm(path: Path) -> None:
        document = json.loads(path.read_text())
        change(document)
        path.write_text(json.dumps(sealed(document) if stamped else document))

    return harm


def write(content: bytes) -> Callable[[Path], None]:
    def harm(path: Path) -> None:
        path.write_bytes(content)

    return harm


RECORD_HARMS = {
    "missing": Path.unlink,
    "empty": empty,
    "cut": lambda path: path.write_bytes(path.read_bytes().rstrip()[:-1]),
    "garbage": write(b"\xff\xfe\x00"),
    "a list": write(b"[]"),
    "null": write(b"null"),
    "deeply nested": write(b'{"body":' * 100_000),
    "a directory": make_a_directory,
    "another format": rewrite(
        lambda document: document.update(format="aoti-build/index"), stamped=True
    ),
    "a later version": rewrite(lambda document: document.update(format_version=99), stamped=True),
    "an earlier version": rewrite(lambda document: document.update(format_version=1), stamped=True),
    "another target": rewrite(lambda document: document.update(target="other/cpu")),
    "another digest": rewrite(lambda document: document.update(sha256="0" * 64)),
    "a number more": rewrite(lambda document: document["source"]["spec"].update(seed=1)),
    "infinity": rewrite(lambda document: document["source"]["spec"].update(seed=float("inf"))),
    "no digest": rewrite(lambda document: document.pop("sha256")),
    "no manifest": rewrite(lambda document: document.update(source=[]), stamped=True),
    "a digest that is a path": rewrite(
        lambda document: document["files"][MODEL].update(sha256="../../../outside"), stamped=True
    ),
    "a digest that is an absolute path": rewrite(
        lambda document: document["files"][REFERENCE_DATA].update(sha256="/etc/passwd"),
        stamped=True,
    ),
    "a file name that is a path": rewrite(
        lambda document: document["files"].update({"../x": {"sha256": "0" * 64, "size": 1}}),
        stamped=True,
    ),
}


@pytest.mark.parametrize("harm", RECORD_HARMS.values(), ids=RECORD_HARMS)
def test_a_damaged_record_is_a_miss(
    kept: Manifest, store: Store, harm: Callable[[Path], object]
) -> None:
    paths = records(store)
    assert len(paths) == 3
    for path in paths:
        harm(path)
    assert store.by_key(kept.key) is None
    assert store.by_graph(kept.graph_key) is None
    assert list(store.candidates(kept.source)) == []
    assert list(store.manifests()) == []


def test_a_record_that_is_damaged_is_written_again(
    kept: Manifest, store: Store, published: Path
) -> None:
    for path in records(store):
        path.write_bytes(b"")
    store.put(kept, published)
    assert store.by_key(kept.key) == store.by_graph(kept.graph_key) == kept
    assert list(store.candidates(kept.source)) == [kept]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_changed_byte_gives_another_manifest(
    record: tuple[Store, Manifest], data: st.DataObject
) -> None:
    store, manifest = record
    (path,) = (store.root / "keys").rglob("*.json")
    whole = path.read_bytes()
    changed = bytearray(whole)
    position = data.draw(st.integers(0, len(changed) - 1))
    changed[position] = data.draw(st.integers(0, 255))
    path.write_bytes(changed)
    try:
        assert store.by_key(manifest.key) in (None, manifest)
    finally:
        path.write_bytes(whole)


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Manifest]:
    project = write_project(tmp_path_factory.mktemp("project"))
    manifest, store = publish_fake(project), LocalStore(tmp_path_factory.mktemp("store"))
    store.put(manifest, artifact_directory(project, project.targets[0]))
    return store, manifest


DEEP = b"[" * 100_000


@pytest.mark.parametrize(
    "content", [b"", b"[]", b'{"artifacts": 3}', DEEP], ids=lambda text: repr(text[:20])
)
@pytest.mark.usefixtures("published")
def test_a_damaged_root_is_passed_over(project: Project, store: Store, content: bytes) -> None:
    store.register(project.artifacts)
    (store.root / "roots" / "bad.json").write_bytes(content)
    assert list(store.roots()) == [project.artifacts]


def test_a_root_that_is_gone_is_no_root(project: Project, store: Store, tmp_path: Path) -> None:
    store.register(tmp_path / "absent")
    assert list(store.roots()) == []


def test_a_trace_is_found_under_another_targets_name(tmp_path: Path) -> None:
    keep_in_own_store(write_project(tmp_path))
    step = plan_of(write_project(tmp_path, ONE_MODEL.replace("small:", "renamed:")))
    assert (step.action, step.target.name) == ("restore", "renamed/cpu")
    assert step.stored is not None
    assert step.stored.target == "small/cpu"


def edit_source(root: Path) -> Callable[[], object]:
    before = (root / "helper.py").read_text()
    (root / "helper.py").write_text("edited = 1\n")
    return lambda: (root / "helper.py").write_text(before)


def remove_source(root: Path) -> Callable[[], object]:
    before = (root / "helper.py").read_text()
    (root / "helper.py").unlink()
    return lambda: (root / "helper.py").write_text(before)


def edit_weights(root: Path) -> Callable[[], object]:
    (root / "weights.safetensors").write_text("weights, version 2")
    return lambda: (root / "weights.safetensors").write_text("weights, version 1")


def other_version(root: Path) -> Callable[[], object]:
    patch, real = pytest.MonkeyPatch(), distributions.version_of
    patch.setattr(
        distributions, "version_of", lambda name: "0.0" if name == "sympy" else real(name)
    )
    return patch.undo


def other_variable(root: Path) -> Callable[[], object]:
    patch = pytest.MonkeyPatch()
    patch.setenv("TORCHINDUCTOR_SOMETHING", "1")
    return patch.undo


def other_compiler(root: Path) -> Callable[[], object]:
    patch, facts = pytest.MonkeyPatch(), toolchain.facts("cpu")
    patch.setattr(toolchain, "facts", lambda *_, **__: {**facts, "cxx.version": "another"})
    return patch.undo


@pytest.mark.parametrize(
    "change",
    [edit_source, remove_source, edit_weights, other_version, other_variable, other_compiler],
)
def test_a_trace_counts_only_if_everything_is_as_recorded(
    tmp_path: Path, change: Callable[[Path], Callable[[], object]]
) -> None:
    project = write_project(tmp_path, WITH_WEIGHTS)
    keep_in_own_store(project)
    assert action_of(project) == "restore"
    undo = change(tmp_path)
    try:
        assert action_of(project) == "build"
    finally:
        undo()
    assert action_of(project) == "restore"


@pytest.mark.parametrize("edited", ["width: 5", "width: 4, depth: 1", "width: 4.0", "width: true"])
def test_a_trace_of_another_spec_does_not_count(tmp_path: Path, edited: str) -> None:
    keep_in_own_store(write_project(tmp_path))
    assert action_of(write_project(tmp_path, ONE_MODEL.replace("width: 4", edited))) == "build"


@pytest.mark.parametrize("name", [MODEL, REFERENCE_DATA])
def test_records_go_with_their_objects(kept: Manifest, store: Store, name: str) -> None:
    """A record without its objects costs a miss each time it is read."""
    before = contents(store.root)
    store.remove([])
    assert contents(store.root) == before
    gone = kept.files[name].sha256
    store.remove([stored for stored in store.list_objects() if stored.digest == gone])
    assert records(store) == []
    assert [stored.digest for stored in store.list_objects()] == [
        file.sha256 for file in kept.files.values() if file.sha256 != gone
    ]


def test_damaged_records_are_removed_and_others_stay(kept: Manifest, store: Store) -> None:
    (store.root / "keys" / "00").mkdir()
    (store.root / "keys" / "00" / "damaged.json").write_text("{")
    before = records(store)
    store.remove([])
    assert len(records(store)) == len(before) - 1
    assert store.by_key(kept.key) == kept


def test_what_a_killed_writer_left_goes_after_a_day(kept: Manifest, store: Store) -> None:
    toolchain = store.root / "kernels" / "toolchain" / "ab"
    toolchain.mkdir(parents=True)
    objects = store.object_path(kept.files[MODEL].sha256).parent
    left = [directory / name for directory in (objects, toolchain) for name in (".old", ".new")]
    for path in left:
        path.write_bytes(b"half")
    long_ago = time.time() - 90_000
    for path in left[::2]:
        os.utime(path, (long_ago, long_ago))
    store.remove([])
    assert [path.name for path in left if path.exists()] == [".new", ".new"]


@pytest.mark.parametrize("name", [MODEL, REFERENCE_DATA])
@pytest.mark.parametrize("harm", [truncate, Path.unlink])
def test_a_trace_whose_objects_are_not_there_does_not_count(
    project: Project, name: str, harm: Callable[[Path], None]
) -> None:
    manifest = keep_in_own_store(project)
    harm(store_of(project).object_path(manifest.files[name].sha256))
    assert action_of(project) == "build"


def test_one_of_many_traces_is_found(project: Project) -> None:
    kept = []
    for number in range(3):
        (project.root / "helper.py").write_text(f"number = {number}\n")
        kept.append(keep_in_own_store(project, key=digest_bytes(str(number).encode())))
        time.sleep(0.01)
    assert list(store_of(project).candidates(kept[0].source)) == kept[::-1]
    (project.root / "helper.py").write_text("number = 1\n")
    assert plan_of(project).stored == kept[1]


def test_force_does_not_look_into_the_store(project: Project) -> None:
    keep_in_own_store(project)
    step = plan_of(project, force=True)
    assert (step.action, step.stored) == ("build", None)


# Adds the artifacts of the project in argv[1] to the store in argv[2], again and again.
ADDER = """
import sys
from pathlib import Path
from aoti_build.artifact.paths import artifact_directory
from aoti_build.artifact.manifest import read_manifest
from aoti_build.models_file import load_project
from aoti_build.store.local import LocalStore
project = load_project(Path(sys.argv[1]) / "models.yaml")
for _ in range(30):
    for target in project.targets:
        directory = artifact_directory(project, target)
        LocalStore(Path(sys.argv[2])).put(read_manifest(directory), directory)
"""


def test_two_processes_may_add_at_once(tmp_path: Path, store: Store) -> None:
    project = write_project(tmp_path / "project", TWO_MODELS)
    made = [publish_fake(project, target, weights=EXTERNAL) for target in project.targets]
    command = [REAL_PYTHON, "-c", ADDER, str(project.root), str(store.root.parent)]
    adders = [subprocess.Popen(command) for _ in range(2)]
    assert [adder.wait(60) for adder in adders] == [0, 0]
    for manifest in made:
        assert store.by_key(manifest.key) == manifest
        assert list(store.candidates(manifest.source)) == [manifest]
        for file in manifest.files.values():
            assert store.get(file, tmp_path / "file")
    assert [path for path in store.root.rglob(".*") if path.is_file()] == []


def test_a_store_that_cannot_be_made_costs_speed_only(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    store = LocalStore(tmp_path / "file")
    manifest = publish_fake(project)
    store.put(manifest, artifact_directory(project, project.targets[0]))
    store.register(project.artifacts)
    assert (
        store.by_key(manifest.key),
        list(store.candidates(manifest.source)),
        list(store.roots()),
    ) == (None, [], [])
    monkeypatch.setenv("AOTI_BUILD_STORE", str(tmp_path / "file"))
    assert action_of(project) == "up-to-date"


def test_a_build_needs_no_store(
    project: Project, tmp_path: Path, fake_worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("AOTI_BUILD_STORE", str(tmp_path / "file"))
    for expected in ("compiled", "up-to-date"):
        assert [outcome.action for outcome in build(project, project.targets).outcomes] == [
            expected
        ]
    assert fake_worker.calls == ["build small", "check"]


def test_a_read_only_store_gives(
    kept: Manifest, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_read_only(monkeypatch, store.root)
    before = contents(store.root)
    for name in (MODEL, REFERENCE_DATA):
        assert store.get(kept.files[name], tmp_path / name)
    assert store.by_key(kept.key) == kept
    store.put(kept, tmp_path)
    assert contents(store.root) == before


def test_a_damaged_object_in_a_read_only_store_is_a_miss(
    kept: Manifest, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = kept.files[MODEL].sha256
    flip_a_bit(store.object_path(digest))
    make_read_only(monkeypatch, store.root)
    assert not store.get(kept.files[MODEL], tmp_path / "file")
    assert not (tmp_path / "file").exists()


def make_read_only(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    """Let the system refuse every change below `root`, as on a read-only mount."""
    for name in ("open", "unlink", "utime", "mkdir", "replace", "rename"):
        monkeypatch.setattr(os, name, refusing(getattr(os, name), root))


def refusing(real: Callable[..., Any], root: Path) -> Callable[..., Any]:
    def call(path: Any, *args: Any, **kwargs: Any) -> Any:
        reads = real.__name__ == "open" and not (args[0] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        if not reads and Path(os.fsdecode(path)).is_relative_to(root):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return real(path, *args, **kwargs)

    return call


def keep_in_own_store(project: Project, **changes: Any) -> Manifest:
    """Publish an artifact of the only target, put it into the project's store, and take it away."""
    directory = artifact_directory(project, project.targets[0])
    manifest = publish_fake(project, **changes)
    store_of(project).put(manifest, directory)
    for path in directory.iterdir():
        path.unlink()
    directory.rmdir()
    return manifest


def records(store: Store) -> list[Path]:
    return [
        path
        for kind in ("keys", "graphs", "traces")
        for path in (store.root / kind).rglob("*.json")
    ]


@pytest.mark.parametrize("command", ["build", "status", "gc --max-age 0", "doctor --quick"])
def test_a_store_that_is_no_directory_is_refused(project: Project, command: str) -> None:
    answer = inv(*command.split(), cwd=project.root, AOTI_BUILD_STORE="s3://bucket/models")
    assert answer.returncode == 2
    assert "AOTI_BUILD_STORE=s3://bucket/models is not a directory" in answer.stderr
    assert "next:" in answer.stderr
    assert not (project.root / "s3:").exists()


def test_doctor_checks_the_store_that_the_variable_names(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AOTI_BUILD_STORE", str(tmp_path / "shared"))
    findings = quick_checks([], project.artifacts)
    (finding,) = [finding for finding in findings if finding.check == "store"]
    assert str(tmp_path / "shared") in finding.message
    outside = quick_checks([], None)
    assert "store" not in {finding.check for finding in outside}
