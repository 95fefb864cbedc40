"""A store in a directory, addressed by content.

Layout below the root of the store (``artifacts/.store/v1``, or ``v1`` in the directory that
``AOTI_BUILD_STORE`` names):

- ``objects/<aa>/<sha256>``: files, by the digest of their bytes.
- ``keys/<aa>/<key>.json``: the manifest of an artifact, by the artifact key.
- ``graphs/<aa>/<key>.json``: the manifest of an artifact with external weights, by the graph key.
- ``weights/<aa>/<crc>-<size>``: the digest of an object that has these weights; see
  `shared_weights`.
- ``traces/<identity>/<key>.json``: the manifest of an artifact, by the source key. `identity`
  covers the parts that are known without any source.
- ``roots/<digest>.json``: the directories of artifacts that use this store, which `gc` keeps.
- ``kernels/<toolchain>/``: compiled GPU kernels and autotuning results; see `kernels`.

Objects are digested at every read. A corrupted one is removed and counts as a miss. Writes are
atomic and idempotent, so builds and checkouts share a store without a lock.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from aoti_build.artifact.fingerprint import Fingerprint, Parts
from aoti_build.artifact.manifest import MODEL, REFERENCE_DATA, FileRecord, Manifest, read_record
from aoti_build.common.digests import digest_bytes, digest_json
from aoti_build.common.fields import MAX_PATH, integer, is_digest, loads, matching, one_of, table
from aoti_build.common.locks import lock
from aoti_build.common.reading import RECORD_LIMIT, read_bytes
from aoti_build.common.records import write_json
from aoti_build.common.stat_cache import file_size
from aoti_build.common.writing import NO_SPACE, copy_atomic, write_atomic
from aoti_build.store.interface import StoredObject

if TYPE_CHECKING:
    from aoti_build.host.checks.finding import Finding

ROOT_FORMAT = "aoti-build/store-root"
ROOT_VERSION = 1
STORE_VERSION = "v1"
STORED = (MODEL, REFERENCE_DATA)
# The groups of the source key that follow from models.yaml and the host. The others have the names
# of files that only a build finds out.
_IDENTITY_GROUPS = ("spec", "config", "toolchain", "environment")
_DIGEST_SIZE = 64  # bytes of a sha256 as text
_SHORT_DIGEST = 32  # digits that name a lock, a root or a toolchain
# Age of a temporary file whose writer was killed.
_ABANDONED_SECONDS = 86400.0
_ROOT = table(
    {
        "format": one_of(ROOT_FORMAT),
        "format_version": integer(),
        "artifacts": matching(r"/[^\0]*", MAX_PATH),
    }
)


class LocalStore:
    """A store in a directory, which may be on a network file system.

    `Store` describes the methods.
    """

    def __init__(self, root: Path) -> None:
        self.root = root / STORE_VERSION

    @property
    def address(self) -> str:
        return str(self.root.parent)

    def check(self) -> Finding:
        from aoti_build.host.checks.directories import check_store  # not on the no-op path

        return check_store(self.root.parent)

    def put(self, manifest: Manifest, directory: Path) -> None:
        """Keep the artifact in `directory`.

        On a full or read-only disk nothing is kept, and the next build is slower.
        """
        with suppress(OSError):
            for name in STORED:
                self._put_object(directory / name, manifest.files[name].sha256)
            paths = [
                self._trace_path(manifest.source),
                self._shard("keys", manifest.key),
            ]
            if manifest.weights["external"]:
                paths.append(self._shard("graphs", manifest.graph_key))
                package = manifest.files[MODEL]
                self._note_weights(directory / MODEL, package.sha256)
            record = manifest.as_json()
            for path in paths:
                # A verified artifact stays, also if another host could not verify the same one.
                if not (manifest.unverified and self._has_verified(path)):
                    write_json(path, record)

    def is_empty(self) -> bool:
        keys = self.root / "keys"
        return not any(keys.glob("??/*.json"))

    def by_key(self, key: str) -> Manifest | None:
        manifest = _read(self._shard("keys", key))
        if manifest is None or manifest.key != key:
            return None
        return manifest

    def by_graph(self, graph_key: str) -> Manifest | None:
        manifest = _read(self._shard("graphs", graph_key))
        if manifest is None or manifest.graph_key != graph_key:
            return None
        return manifest if manifest.weights["external"] else None

    def by_sources(self, parts: Parts) -> Manifest | None:
        return _read(self._trace_path(parts))

    def candidates(self, parts: Parts) -> Iterator[Manifest]:
        """Artifacts made from the same spec, config, toolchain and environment, newest first."""
        paths = self._trace_directory(parts).glob("*.json")
        return _read_all(sorted(paths, key=_modified, reverse=True))

    def manifests(self) -> Iterator[Manifest]:
        traces = self.root / "traces"
        return _read_all(sorted(traces.glob("*/*.json")))

    def get(self, file: FileRecord, destination: Path) -> bool:
        return self.get_all({destination: file})

    def get_all(self, files: Mapping[Path, FileRecord], *, to_publish: bool = False) -> bool:
        # Not on the no-op path.
        from aoti_build.store.copies import ObjectCopies

        objects = {file: self.object_path(file.sha256) for file in files.values()}
        copies = ObjectCopies(to_publish=to_publish)
        try:
            copies.copy(files, objects)
        except OSError as error:
            _remove(files)
            # A full disk is not a miss: the compile after a miss would fail in the end.
            if error.errno in NO_SPACE:
                raise
            return False
        if copies.complete:
            for path in objects.values():
                self._touch(path)
            return True
        _remove(files)
        for file in copies.corrupted:
            self._remove_object(file.sha256)
        return False

    def has(self, manifest: Manifest) -> bool:
        for name in STORED:
            file = manifest.files[name]
            path = self.object_path(file.sha256)
            if file_size(path) != file.size:
                return False
        return True

    def share_weights(self, package: Path) -> int:
        """Let a package share the blocks of a stored one with the same weights.

        Targets of one model differ in their code only. Returns the number of shared bytes, which is
        0 if the file system cannot share blocks.
        """
        # Not on the no-op path.
        from aoti_build.store.shared_weights import named_weights, share_weights

        try:
            name = named_weights(package)
            if name is None:
                return 0
            digest = self._read_digest(self._weights_path(name))
            return share_weights(self.object_path(digest), package)
        except (OSError, ValueError):
            return 0

    def _note_weights(self, package: Path, digest: str) -> None:
        from aoti_build.store.shared_weights import named_weights  # not on the no-op path

        name = named_weights(package)
        if name is not None:
            write_atomic(self._weights_path(name), digest.encode(), sync=False)

    def _weights_path(self, name: str) -> Path:
        return self.root / "weights" / name[:2] / name

    def object_path(self, digest: str) -> Path:
        return self.root / "objects" / digest[:2] / digest

    def list_objects(self) -> Iterator[StoredObject]:
        from aoti_build.store.kernels import kernel_files  # not on the no-op path

        objects = self._removable("objects", "??", "[0-9a-f]*")
        for path in chain(objects, kernel_files(self.root / "kernels")):
            try:
                status = path.lstat()
            except OSError:
                continue  # another process removed it
            if not stat.S_ISDIR(status.st_mode):
                yield StoredObject(path, status.st_size, status.st_mtime)

    def remove(self, objects: Iterable[StoredObject]) -> None:
        """Remove objects, records without their objects, and files of killed writers."""
        from aoti_build.common.removal import remove  # not on the no-op path

        for stored in objects:
            remove(stored.path)
        newest_abandoned = time.time() - _ABANDONED_SECONDS
        temporary_files = chain(
            self._removable("objects", "??", ".*"),
            self._removable("kernels", "*", "*", ".*"),
        )
        for path in temporary_files:
            if _modified(path) < newest_abandoned:
                remove(path)
        for kind in ("keys", "graphs", "traces"):
            for path in self._removable(kind, "*", "*.json"):
                manifest = _read(path)
                if manifest is None or not self.has(manifest):
                    remove(path)
        for path in self._removable("weights", "??", "*"):
            if not self._leads_to_object(path):
                remove(path)

    def roots(self) -> Iterator[Path]:
        for path in (self.root / "roots").glob("*.json"):
            try:
                document = loads(read_bytes(path, RECORD_LIMIT))
                _ROOT(document)
            except (OSError, ValueError):
                continue
            directory = Path(document["artifacts"])
            if document["format_version"] == ROOT_VERSION and directory.is_dir():
                yield directory

    def lock(
        self,
        graph_key: str,
        on_wait: Callable[[], None],
    ) -> AbstractContextManager[None]:
        name = f"{graph_key[:_SHORT_DIGEST]}.lock"
        return lock(self.root / "locks" / name, on_wait)

    def kernels(self, parts: Parts) -> Path:
        toolchain = dict(parts["toolchain"])
        # The tool that packs kernels into fat binaries changes no kernel.
        toolchain.pop("fatbin", None)
        digest = digest_json([toolchain, parts["environment"]])
        return self.root / "kernels" / digest[:_SHORT_DIGEST]

    def register(self, artifacts: Path) -> None:
        address = artifacts.absolute()
        digest = digest_bytes(os.fsencode(address))
        path = self.root / "roots" / f"{digest[:_SHORT_DIGEST]}.json"
        if path.exists():
            return
        root = {
            "format": ROOT_FORMAT,
            "format_version": ROOT_VERSION,
            "artifacts": str(address),
        }
        with suppress(OSError):
            write_json(path, root)

    def _has_verified(self, path: Path) -> bool:
        """Whether a record leads to an artifact that was compared with eager mode."""
        manifest = _read(path)
        return manifest is not None and manifest.unverified is None and self.has(manifest)

    def _leads_to_object(self, path: Path) -> bool:
        try:
            return self.object_path(self._read_digest(path)).is_file()
        except (OSError, ValueError):
            return False

    def _read_digest(self, path: Path) -> str:
        """The digest of an object in the file `path`. Raises OSError or ValueError."""
        digest = read_bytes(path, _DIGEST_SIZE).decode("ascii")
        if not is_digest(digest):
            raise ValueError("not a digest")
        return digest

    def _put_object(self, file: Path, digest: str) -> None:
        path = self.object_path(digest)
        if path.is_file() and path.stat().st_size == file.stat().st_size:
            self._touch(path)
            return
        copy_atomic(file, path)

    def _removable(self, *patterns: str) -> Iterator[Path]:
        """Entries of the store that may be removed.

        The directory that `AOTI_BUILD_STORE` names may be a link. Links in it are not followed.
        """
        from aoti_build.common.removal import own_entries  # not on the no-op path

        return own_entries(self.root.parent, self.root.name, *patterns)

    def _shard(self, kind: str, key: str) -> Path:
        return self.root / kind / key[:2] / f"{key}.json"

    def _trace_directory(self, parts: Parts) -> Path:
        return self.root / "traces" / identity(parts)

    def _trace_path(self, parts: Parts) -> Path:
        return self._trace_directory(parts) / f"{source_key(parts)}.json"

    def _touch(self, path: Path) -> None:
        """Note the use of an object: `gc` removes first what was not used for longest."""
        with suppress(OSError):
            os.utime(path)

    def _remove_object(self, digest: str) -> None:
        # A read-only store keeps a corrupted object, which stays a miss.
        with suppress(OSError):
            for path in self._removable("objects", digest[:2], digest):
                path.unlink()


def _remove(files: Iterable[Path]) -> None:
    for file in files:
        file.unlink(missing_ok=True)


def _read(path: Path) -> Manifest | None:
    record = read_record(path)
    return record if isinstance(record, Manifest) else None


def _read_all(paths: Iterable[Path]) -> Iterator[Manifest]:
    for path in paths:
        manifest = _read(path)
        if manifest is not None:
            yield manifest


def _modified(path: Path) -> float:
    """Seconds since the epoch; 0 for a file that another process just removed."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def identity(parts: Parts) -> str:
    """The digest of the parts that are known before any source is read."""
    chosen = {group: parts.get(group, {}) for group in _IDENTITY_GROUPS}
    return Fingerprint(chosen).key


def source_key(parts: Parts) -> str:
    """The digest of all parts."""
    return Fingerprint(parts).key
