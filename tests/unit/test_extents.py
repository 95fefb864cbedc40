"""Files that share blocks on the disk. The file system that tests run on mostly cannot, so those
that need one make it: an image in a file, mounted, which takes root and mkfs."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packages import BLOB, here, members
from small_projects import publish_fake

from aoti_build.artifact.manifest import MODEL, REFERENCE_DATA, FileRecord
from aoti_build.common.extents import SHAREABLE, Stretch, share_equal
from aoti_build.common.writing import copy_atomic
from aoti_build.models_file import Project
from aoti_build.store.local import LocalStore
from aoti_build.store.shared_weights import named_weights

SIZE = 8 << 20


def test_a_copy_is_whole_whatever_the_file_system_can(tmp_path: Path) -> None:
    content = os.urandom(100_000)
    (tmp_path / "one").write_bytes(content)
    copy_atomic(tmp_path / "one", tmp_path / "two")
    (tmp_path / "one").write_bytes(b"")
    assert (tmp_path / "two").read_bytes() == content


def test_what_differs_is_never_shared(tmp_path: Path) -> None:
    for number in range(2):
        (tmp_path / str(number)).write_bytes(bytes([number]) * SIZE)
    assert shared(tmp_path / "0", tmp_path / "1") == 0
    assert (tmp_path / "1").read_bytes() == b"\1" * SIZE


def test_weights_that_do_not_begin_at_a_block_are_left_alone(tmp_path: Path) -> None:
    assert named_weights(package(tmp_path / "a.pt2", b"code", bytes(SIZE))) is not None
    assert named_weights(package(tmp_path / "b.pt2", b"code", bytes(SIZE), aligned=False)) is None
    (tmp_path / "c.pt2").write_bytes(b"no package")
    assert named_weights(tmp_path / "c.pt2") is None


def test_a_stored_package_is_found_by_its_weights(
    tmp_path: Path, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On any file system: equal bytes count as shared here, without a call of the system."""
    monkeypatch.setattr("aoti_build.store.shared_weights.share_equal", equal_bytes)
    weights = os.urandom(SIZE)
    store = LocalStore(tmp_path / "store")
    first = artifact(tmp_path / "first", weights)
    put(store, project, first)
    noted = [path for path in (store.root / "weights").rglob("*") if path.is_file()]
    name = f"{zlib.crc32(weights):08x}-{SIZE}"
    assert noted == [store.root / "weights" / name[:2] / name]
    assert noted[0].read_text() == FileRecord.of(first / MODEL).sha256
    second = artifact(tmp_path / "second", weights, code=b"other code")
    assert store.share_weights(second / MODEL) == SIZE
    other = artifact(tmp_path / "other", os.urandom(SIZE))
    assert store.share_weights(other / MODEL) == 0
    small = artifact(tmp_path / "small", weights[: SHAREABLE * 2])
    assert store.share_weights(small / MODEL) == 0
    (store.root.parent / "outside").write_bytes((first / MODEL).read_bytes())
    noted[0].write_text("../outside")
    assert store.share_weights(second / MODEL) == 0


def test_gc_forgets_weights_whose_object_is_gone(tmp_path: Path, project: Project) -> None:
    store = LocalStore(tmp_path / "store")
    package = artifact(tmp_path / "artifact", os.urandom(SIZE))
    put(store, project, package)
    (noted,) = (store.root / "weights").rglob("*-*")
    store.remove([])
    assert noted.exists()
    store.object_path(FileRecord.of(package / MODEL).sha256).unlink()
    store.remove([])
    assert not noted.exists()


@pytest.mark.slow
def test_a_stored_file_and_its_copies_take_the_room_of_one(sharing: Path, project: Project) -> None:
    content = os.urandom(SIZE)
    directory = artifact(sharing / "artifact", content)
    before = used(sharing)
    store = LocalStore(sharing / "store")
    manifest = publish_fake(project, files=records(directory))
    store.put(manifest, directory)
    assert store.get(manifest.files[MODEL], sharing / "fetched")
    assert (sharing / "fetched").read_bytes() == (directory / MODEL).read_bytes()
    assert used(sharing) - before < SIZE // 4
    with (directory / MODEL).open("r+b") as file:
        file.write(b"something else")
    assert store.get(manifest.files[MODEL], sharing / "again")


@pytest.mark.slow
def test_other_code_with_the_same_weights_shares_them(sharing: Path, project: Project) -> None:
    weights = os.urandom(SIZE)
    store = LocalStore(sharing / "store")
    first = artifact(sharing / "first", weights, code=b"a" * 9000)
    put(store, project, first)
    second = artifact(sharing / "second", weights, code=b"b" * 50_000)
    content = (second / MODEL).read_bytes()
    assert store.share_weights(second / MODEL) == SIZE
    assert (second / MODEL).read_bytes() == content
    other = artifact(sharing / "other", os.urandom(SIZE), code=b"b" * 50_000)
    assert store.share_weights(other / MODEL) == 0


@pytest.fixture(params=["btrfs", "xfs"])
def sharing(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A directory on a file system of a kind that can share blocks."""
    make = shutil.which(f"mkfs.{request.param}", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if os.geteuid() != 0 or make is None:
        pytest.skip(f"mounting {request.param} takes root and mkfs.{request.param}")
    image, directory = tmp_path / "image", tmp_path / "mounted"
    directory.mkdir()
    with image.open("wb") as file:
        file.truncate(512 << 20)
    subprocess.run([make, "-q", str(image)], check=True, capture_output=True)
    mounted = subprocess.run(
        ["mount", "-o", "loop", str(image), str(directory)], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount {request.param}: {mounted.stderr.decode(errors='replace')}")
    try:
        yield directory
    finally:
        subprocess.run(["umount", str(directory)], check=True)


def package(path: Path, code: bytes, weights: bytes, *, aligned: bool = True) -> Path:
    """A package whose weights begin at a block, as torch's writer is told to make them, or do
    not."""
    files = {**members(here()), "more.cpp": code}
    del files[BLOB]
    root = BLOB.split("/")[0]
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name if name.startswith(root) else f"{root}/{name}", content)
        entry = zipfile.ZipInfo(BLOB)
        start = archive.fp.tell() + 30 + len(BLOB) + 4  # type: ignore[union-attr]
        padding = -start % SHAREABLE if aligned else -start % SHAREABLE + 64
        entry.extra = struct.pack("<HH", 0x4246, padding) + bytes(padding)
        archive.writestr(entry, weights)
    return path


def artifact(directory: Path, weights: bytes, code: bytes = b"code") -> Path:
    directory.mkdir()
    package(directory / MODEL, code, weights)
    (directory / REFERENCE_DATA).write_bytes(b"reference data")
    return directory


def put(store: LocalStore, project: Project, directory: Path) -> None:
    """Keep an artifact with external weights."""
    weights = {"external": True, "alignment": 64}
    store.put(publish_fake(project, files=records(directory), weights=weights), directory)


def equal_bytes(source: Stretch, target: Stretch) -> int:
    """The size of both stretches; 0 if they differ."""
    one, other = (os.pread(part.descriptor, part.size, part.start) for part in (source, target))
    return len(one) if one == other else 0


def records(directory: Path) -> dict[str, FileRecord]:
    return {name: FileRecord.of(directory / name) for name in (MODEL, REFERENCE_DATA)}


def shared(one: Path, other: Path) -> int:
    with one.open("rb") as source, other.open("r+b") as destination:
        return share_equal(
            Stretch(source.fileno(), 0, SIZE), Stretch(destination.fileno(), 0, SIZE)
        )


def used(directory: Path) -> int:
    """Bytes of the file system that are taken, once all that was freed is."""
    subprocess.run(["sync", "-f", str(directory)], check=True)
    status = os.statvfs(directory)
    return (status.f_blocks - status.f_bfree) * status.f_frsize
