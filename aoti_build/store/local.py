"""A store in a directory, addressed by content.

Layout below the root of the store (``artifacts/.store/v1``, or ``v1`` in the directory that
``AOTI_BUILD_STORE`` names):

- ``objects/<aa>/<sha256>``: files by the digest of their bytes.
- ``keys/<aa>/<key>.json``: artifact key -> the manifest of an artifact with it.
- ``graphs/<aa>/<key>.json``: graph key -> the manifest of an artifact with external weights.
- ``weights/<aa>/<crc>-<size>``: the weights in a package -> the digest of an object that has them;
  see `share_weights`.
- ``traces/<identity>/<key>.json``: source key -> the manifest. `identity` covers what is known
  without any source.
- ``roots/<digest>.json``: the directories of artifacts that use this store, which `gc` keeps.
- ``kernels/<toolchain>/``: compiled GPU kernels and autotuning results; see `kernels`.

Objects are digested at every read. A corrupted one is removed and counts as a miss. Writes are
atomic and idempotent, so builds and checkouts share a store without a lock.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

from aoti_build.artifact import integrity
from aoti_build.artifact.fingerprint import KEY_VERSION, Parts
from aoti_build.artifact.manifest import MODEL, REFERENCE_DATA, FileRecord, Manifest, read_record
from aoti_build.common.digests import Block, all_cores, copy_block, digest_bytes, digest_json
from aoti_build.common.fields import MAX_PATH, integer, is_digest, loads, matching, one_of, table
from aoti_build.common.locks import lock
from aoti_build.common.reading import RECORD_LIMIT, read_bytes
from aoti_build.common.records import write_json
from aoti_build.common.writing import (
    NO_SPACE,
    begin_writing,
    clone_file,
    copy_atomic,
    reserve,
    write_at,
    write_atomic,
)
from aoti_build.host.toolchain import ENVIRONMENT_OF_SOURCES
from aoti_build.store.interface import StoredObject

ROOT_FORMAT, ROOT_VERSION = "aoti-build/store-root", 1
STORE_VERSION = "v1"
STORED = (MODEL, REFERENCE_DATA)
# Groups of the source key that are read off models.yaml and the host; the others name files to look
# at.
_IDENTITY_GROUPS = ("spec", "config", "toolchain", "environment")
_DIGEST = 64  # bytes of a sha256 as text
_ABANDONED_SECONDS = 86400.0
_ROOT = table(
    {
        "format": one_of(ROOT_FORMAT),
        "format_version": integer(),
        "artifacts": matching(r"/[^\0]*", MAX_PATH),
    }
)


class LocalStore:
    """A store in a directory, which may be on a network file system. See `Store` for what each
    method promises."""

    def __init__(self, root: Path) -> None:
        self.root = root / STORE_VERSION

    def put(self, manifest: Manifest, directory: Path) -> None:
        """Keep the artifact in `directory`. A full or read-only disk loses the next build's
        shortcut, not this build."""
        try:
            for name in STORED:
                self._put(directory / name, manifest.files[name].sha256)
            paths = [self._trace_directory(manifest.source) / f"{source_key(manifest.source)}.json"]
            paths.append(self._shard("keys", manifest.key))
            if manifest.weights.get("external"):
                paths.append(self._shard("graphs", manifest.graph_key))
                self._note_weights(directory / MODEL, manifest.files[MODEL].sha256)
            record = manifest.as_json()
            for path in paths:
                # What was compared with eager stays known where another host could not compare it.
                known = _read(path) if manifest.unverified else None
                if known is None or known.unverified or not self.has(known):
                    write_json(path, record)
        except OSError:
            return

    def is_empty(self) -> bool:
        """Whether nothing can come from here."""
        return not any((self.root / "keys").glob("??/*.json"))

    def by_key(self, key: str) -> Manifest | None:
        found = _read(self._shard("keys", key))
        return found if found and found.key == key else None

    def by_graph(self, graph_key: str) -> Manifest | None:
        found = _read(self._shard("graphs", graph_key))
        fits = found is not None and found.graph_key == graph_key and found.weights["external"]
        return found if fits else None

    def by_sources(self, parts: Parts) -> Manifest | None:
        """The artifact made from exactly these parts."""
        return _read(self._trace_directory(parts) / f"{source_key(parts)}.json")

    def candidates(self, parts: Parts) -> Iterator[Manifest]:
        """Artifacts made from the same spec, config, toolchain and environment, newest first,
        whatever their sources."""
        directory = self._trace_directory(parts)
        for path in sorted(directory.glob("*.json"), key=_modified, reverse=True):
            if (manifest := _read(path)) is not None:
                yield manifest

    def manifests(self) -> Iterator[Manifest]:
        """Every artifact the store knows, in no order."""
        for path in sorted((self.root / "traces").glob("*/*.json")):
            if (manifest := _read(path)) is not None:
                yield manifest

    def get(self, file: FileRecord, destination: Path) -> bool:
        """`get_all` of one file."""
        return self.get_all({destination: file})

    def get_all(self, wanted: Mapping[Path, FileRecord], *, to_publish: bool = False) -> bool:
        """Copy the objects of files to their destinations. False, and none of them is there, if one
        is absent or corrupted. They are digested on the way: no other bytes can get into a copy.

        With `to_publish` the disk is told of each file before and begins to write it while it is
        copied, since publishing is to wait for that. Raises OSError where there is no room for a
        copy: that is no miss, and whoever took it for one would compile in vain.
        """
        objects = {file: self.object_path(file.sha256) for file in wanted.values()}
        try:
            copies = _copy_checked(wanted, objects, to_publish)
        except OSError as error:
            _remove(wanted)
            if error.errno in NO_SPACE:
                raise
            return False
        if copies.right:
            for path in objects.values():
                self._touch(path)
            return True
        _remove(wanted)
        for file in copies.corrupted:
            with contextlib.suppress(OSError):  # a read-only store keeps it, and it stays a miss
                for path in self._own("objects", file.sha256[:2], file.sha256):
                    path.unlink()
        return False

    def has(self, manifest: Manifest) -> bool:
        """Whether the objects of an artifact are there (their bytes are checked when they are
        fetched)."""
        try:
            found = {name: self.object_path(manifest.files[name].sha256).stat() for name in STORED}
        except OSError:
            return False
        return all(
            stat.S_ISREG(status.st_mode) and manifest.files[name].size == status.st_size
            for name, status in found.items()
        )

    def share_weights(self, package: Path) -> int:
        """Let a package that is about to be published have the blocks of a stored one with the same
        weights, where the file system can do that: targets of one model differ in their code alone.
        The bytes that are shared now."""
        # Imported here to keep it off the no-op path.
        from aoti_build.store.shared_weights import named_weights, share_weights

        try:
            name = named_weights(package)
            digest = read_bytes(self._weights_path(name), _DIGEST).decode("ascii") if name else ""
            return share_weights(self.object_path(digest), package) if is_digest(digest) else 0
        except (OSError, ValueError):
            return 0

    def _note_weights(self, package: Path, digest: str) -> None:
        from aoti_build.store.shared_weights import named_weights  # not on the no-op path

        if name := named_weights(package):
            write_atomic(self._weights_path(name), digest.encode(), sync=False)

    def _weights_path(self, name: str) -> Path:
        return self.root / "weights" / name[:2] / name

    def object_path(self, digest: str) -> Path:
        return self.root / "objects" / digest[:2] / digest

    def list_objects(self) -> Iterator[StoredObject]:
        """Every object and every kernel, in no order."""
        from aoti_build.store.kernels import kept_files  # not on the no-op path

        for path in (*self._own("objects", "??", "[0-9a-f]*"), *kept_files(self.root / "kernels")):
            try:
                status = path.lstat()
            except OSError:
                continue  # another process removed it
            if not stat.S_ISDIR(status.st_mode):
                yield StoredObject(path, status.st_size, status.st_mtime)

    def remove(self, objects: Iterable[StoredObject]) -> None:
        """Remove objects, the records that lead to objects which are not there, and what killed
        writers left."""
        from aoti_build.common.removal import remove  # not on the no-op path

        for stored in objects:
            remove(stored.path)
        for left in (*self._own("objects", "??", ".*"), *self._own("kernels", "*", "*", ".*")):
            if _modified(left) < time.time() - _ABANDONED_SECONDS:
                remove(left)
        for kind in ("keys", "graphs", "traces"):
            for path in self._own(kind, "*", "*.json"):
                manifest = _read(path)
                if manifest is None or not self.has(manifest):
                    remove(path)
        for path in self._own("weights", "??", "*"):
            if not self._leads_to_object(path):
                remove(path)

    def roots(self) -> Iterator[Path]:
        """The directories of artifacts that use this store and still exist."""
        for path in (self.root / "roots").glob("*.json"):
            try:
                document = loads(read_bytes(path, RECORD_LIMIT))
                _ROOT(document)
            except (OSError, ValueError):
                continue
            directory = Path(document["artifacts"])
            if document["format_version"] == ROOT_VERSION and directory.is_dir():
                yield directory

    def lock(self, graph_key: str, on_wait: Callable[[], None]) -> AbstractContextManager[None]:
        return lock(self.root / "locks" / f"{graph_key[:32]}.lock", on_wait)

    def kernels(self, parts: Parts) -> Path:
        """The directory of what the toolchain and environment in `parts` compiled and measured; see
        `kernels`."""
        environment = {
            n: v for n, v in parts["environment"].items() if n not in ENVIRONMENT_OF_SOURCES
        }
        # Fat binaries are made of kernels, and change none.
        toolchain = {name: fact for name, fact in parts["toolchain"].items() if name != "fatbin"}
        return self.root / "kernels" / digest_json([toolchain, environment])[:32]

    def register(self, artifacts: Path) -> None:
        """Remember that the artifacts below `artifacts` use this store."""
        path = self.root / "roots" / f"{digest_bytes(os.fsencode(artifacts.absolute()))[:32]}.json"
        if not path.exists():
            try:
                root = {
                    "format": ROOT_FORMAT,
                    "format_version": ROOT_VERSION,
                    "artifacts": str(artifacts.absolute()),
                }
                write_json(path, root)
            except OSError:
                return

    def _leads_to_object(self, path: Path) -> bool:
        try:
            return self.object_path(read_bytes(path, _DIGEST).decode("ascii")).is_file()
        except (OSError, ValueError):
            return False

    def _put(self, file: Path, digest: str) -> None:
        path = self.object_path(digest)
        if path.is_file() and path.stat().st_size == file.stat().st_size:
            self._touch(path)
            return
        copy_atomic(file, path)

    def _own(self, *patterns: str) -> Iterator[Path]:
        """Entries of the store that may be removed. The directory that `AOTI_BUILD_STORE` names may
        be a link; in it none is followed."""
        from aoti_build.common.removal import own_entries  # not on the no-op path

        return own_entries(self.root.parent, self.root.name, *patterns)

    def _shard(self, kind: str, key: str) -> Path:
        return self.root / kind / key[:2] / f"{key}.json"

    def _trace_directory(self, parts: Parts) -> Path:
        return self.root / "traces" / identity(parts)

    def _touch(self, path: Path) -> None:
        """Note the use, for `gc`'s order."""
        try:
            os.utime(path)
        except OSError:
            return


class _Copies:
    """What became of copies: whether all are as recorded, and the files whose objects are not what
    their names say."""

    def __init__(self, *, to_publish: bool) -> None:
        self.to_publish = to_publish
        self.right = True
        self.corrupted: set[FileRecord] = set()

    def block(self, file: FileRecord, block: Block, destination: int | None) -> None:
        if not copy_block(block, destination):
            self.right = False
            self.corrupted.add(file)
        if destination is not None and self.to_publish:
            begin_writing(destination, block.start, block.size)

    def whole(self, file: FileRecord, path: Path, destination: int | None) -> None:
        found = file.copied(path, None if destination is None else partial(write_at, destination))
        if found == file:
            integrity.note(file)
        else:
            self.right = False
        if found.sha256 != file.sha256:
            self.corrupted.add(file)
        if destination is not None and self.to_publish:
            begin_writing(destination, 0, found.size)


def _copy_checked(
    wanted: Mapping[Path, FileRecord], objects: Mapping[FileRecord, Path], to_publish: bool
) -> _Copies:
    """Copy objects to where their files are wanted. Raises OSError."""
    copies = _Copies(to_publish=to_publish)
    if any(path.stat().st_size != file.size for file, path in objects.items()):
        copies.right = False  # nobody knows yet whether the record or the object is wrong
        return copies
    with contextlib.ExitStack() as opened, all_cores() as executor:
        asked = []
        for destination, file in sorted(wanted.items(), key=lambda one: -one[1].size):
            descriptor = opened.enter_context(destination.open("wb", buffering=0)).fileno()
            path = objects[file]
            target: int | None = descriptor
            if _is_cloned(path, descriptor, file.size):
                # The clone is digested: other processes cannot write to it.
                path, target = destination, None
            elif to_publish:
                reserve(descriptor, file.size)
            if integrity.is_agreed(file):
                blocks = file.blocks_in(path)
                asked += [executor.submit(copies.block, file, block, target) for block in blocks]
            else:
                asked.append(executor.submit(copies.whole, file, path, target))
        for done in asked:
            done.result()
    return copies


def _is_cloned(path: Path, destination: int, size: int) -> bool:
    """Whether the open file now shares the blocks of an object. One that has grown meanwhile is
    copied as far as it is recorded."""
    if not clone_file(path, destination):
        return False
    if os.fstat(destination).st_size == size:
        return True
    os.ftruncate(destination, 0)
    return False


def _remove(files: Iterable[Path]) -> None:
    for file in files:
        file.unlink(missing_ok=True)


def _read(path: Path) -> Manifest | None:
    record = read_record(path)
    return record if isinstance(record, Manifest) else None


def _modified(path: Path) -> float:
    """Seconds since the epoch; 0 for a file that another process has just removed."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def identity(parts: Parts) -> str:
    """Digest of the parts that are known before any source is looked at."""
    chosen = {group: dict(parts.get(group, {})) for group in _IDENTITY_GROUPS}
    return digest_json({"key_version": KEY_VERSION, "parts": chosen})


def source_key(parts: Parts) -> str:
    return digest_json(
        {
            "key_version": KEY_VERSION,
            "parts": {group: dict(values) for group, values in parts.items()},
        }
    )
