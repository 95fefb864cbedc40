"""The loadable copy of one package, unpacked once and used by many loads.

From torch 2.14 on the raw loader takes a directory. A package is unpacked once into the private
directory (`aoti_build.runtime.private`), under its sha256, and all processes load from there. The
digested bytes are the unpacked bytes, so they cannot change between check and load. A package that
cannot be loaded as a directory is copied as a file in the same way. Weights that will be mapped
(`aoti_build.runtime.mapped`) are a file beside the directory that torch loads.

Without a private directory each process has such copies of its own, one for each package. torch's
loader never releases a library, so another path at each load would make the process grow.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from aoti_build.common.reading import read_bytes
from aoti_build.common.stat_cache import stat_key
from aoti_build.host import compatibility
from aoti_build.runtime import private, unpack
from aoti_build.runtime.process_directory import process_directory
from aoti_build.runtime.unpacked_record import RECORD, encode_record, matching_files

# The first torch whose raw loader was seen to take an unpacked package.
_LOADS_DIRECTORIES = (2, 14)
# Seconds after which an unused copy of this process may be removed to make room for another.
_UNUSED_BY_THIS_PROCESS = 3600.0


@dataclass
class CacheEntry:
    """The files of a package that `unpacks`, else a copy of it, in `directory`.

    With `weights_apart` the weights are not where torch's loader finds them.
    Processes use a `shared` entry together. A lock keeps it from being removed. `read_package`
    makes a new entry in a staging directory next to `directory`. The caller compares the digest
    that it returns, and only then calls `publish`, which moves the entry into place. Only a
    `usable` entry may be loaded.
    """

    directory: Path
    unpacks: bool
    shared: bool
    weights_apart: bool = False
    usable: bool = False
    # Whether this load has read the whole package.
    has_read_package: bool = False
    # The files of a usable entry.
    _files: frozenset[str] = frozenset()
    _staging: Path | None = None
    _staged_blocks: dict[str, list[str]] = field(default_factory=dict)
    # The right record, after the files of the entry were found equal to the package.
    _new_record: bytes | None = None

    @classmethod
    def open(
        cls,
        directory: Path,
        resources: contextlib.ExitStack,
        *,
        unpacks: bool,
        shared: bool,
        weights_apart: bool,
    ) -> CacheEntry:
        """The entry at `directory`, locked until `resources` is closed. Raises OSError."""
        entry = cls(directory, unpacks, shared, weights_apart)
        lock = private.hold(directory.parent, directory.name)
        resources.callback(os.close, lock)
        resources.callback(entry._remove_staging)
        return entry

    @property
    def load_path(self) -> Path:
        """The path for the raw loader: the packed file, else the root of the unpacked files."""
        packed = self.directory / unpack.WHOLE
        if packed.exists():
            return packed
        # The other entry of the directory is the record.
        (root,) = (path for path in self.directory.iterdir() if path.is_dir())
        return root

    @property
    def weights(self) -> Path | None:
        """The file of the weights if they are apart. It was there when the files were compared."""
        if unpack.WEIGHTS not in self._files:
            return None
        return self.directory / unpack.WEIGHTS

    @property
    def is_shared_directory(self) -> bool:
        return self.shared and self.load_path.is_dir()

    def matches_record(self, *, by_digest: bool = False) -> bool:
        """Whether the files have the stat, and `by_digest` the digests, that they had when made."""
        self._files = matching_files(self.directory, by_digest=by_digest)
        return bool(self._files)

    def read_package(self, package: int) -> str:
        """Read the whole open package: compare the entry's files with it, or unpack it.

        Returns the digest of the package, as `unpack.digest` does. `publish` makes the result
        available.
        """
        self.has_read_package = True
        contents = self._contents_of(package) if self.unpacks else None
        if contents is None:
            contents = unpack.single_file_contents(os.fstat(package).st_size)
        if self._is_directory():
            comparer = unpack.Comparer(self.directory, contents, RECORD)
            with contextlib.closing(comparer):
                sha256 = unpack.digest(package, contents, comparer)
            if comparer.same:
                self.usable = True
                self._files = frozenset(comparer.stats)
                self._new_record = encode_record(comparer.stats, comparer.blocks())
                return sha256
        self._remove()
        return self._unpack(package, contents)

    def unpack_unverified(self, package: int) -> None:
        """Unpack the open package without a digest, unless its files are here already.

        The entry is not usable afterwards if it cannot be unpacked.
        """
        self.usable = self.matches_record()
        if self.usable:
            return
        contents = self._contents_of(package)
        if contents is None:
            return
        try:
            self._staging = self._make_room()
            with contextlib.closing(unpack.Writer(self._staging, contents)) as writer:
                unpack.unpack(package, contents, writer)
                self._staged_blocks = writer.blocks()
            self.publish()
        except OSError:  # there is no room
            pass

    def publish(self) -> None:
        """Make usable what `read_package` unpacked, or renew the record of files that agreed.

        Only for a package with the right digest. If another process published the same entry
        first, its files are used.
        """
        if self._new_record is not None:
            self._renew_record(self._new_record)
        if self._staging is None:
            return
        try:
            self._complete(self._staging)
            os.rename(self._staging, self.directory)
            self._files = frozenset(self._staged_blocks)
            self.usable = True
        except OSError:
            # The disk is full, or a directory is there already: another process made it, or it
            # could not be removed.
            self.usable = self.matches_record(by_digest=True)
        self._remove_staging()

    def _contents_of(self, package: int) -> unpack.Contents | None:
        return unpack.contents_of(package, weights_apart=self.weights_apart)

    def _is_directory(self) -> bool:
        return self.directory.is_dir() and not self.directory.is_symlink()

    def _unpack(self, package: int, contents: unpack.Contents) -> str:
        try:
            self._staging = self._make_room()
            with contextlib.closing(unpack.Writer(self._staging, contents)) as writer:
                sha256 = unpack.digest(package, contents, writer)
                self._staged_blocks = writer.blocks()
                return sha256
        except OSError:
            # Without room for a copy the open package itself can still be loaded.
            self._remove_staging()
            return unpack.digest(package)

    def _complete(self, staging: Path) -> None:
        """Make the staged files read-only, and add their record."""
        stats = {}
        for name in self._staged_blocks:
            path = staging / name
            path.chmod(0o400)  # changes the change time, so the stat is taken after it
            stats[name] = stat_key(path)
        record = encode_record(stats, self._staged_blocks)
        (staging / RECORD).write_bytes(record)

    def _remove(self) -> None:
        """Remove whatever has the name of the entry. Failure shows when `publish` renames."""
        if self._is_directory():
            shutil.rmtree(self.directory, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                self.directory.unlink()

    def _renew_record(self, record: bytes) -> None:
        """Replace the record if it differs. After a failure the next load reads the package."""
        with contextlib.suppress(OSError):
            if read_bytes(self.directory / RECORD, len(record)) == record:
                return
        with contextlib.suppress(OSError):
            self._staging = self._make_staging()
            (self._staging / RECORD).write_bytes(record)
            os.replace(self._staging / RECORD, self.directory / RECORD)
        self._remove_staging()

    def _make_room(self) -> Path:
        """An empty staging directory, made after entries that were long unused are removed."""
        unused = private.UNUSED_SECONDS if self.shared else _UNUSED_BY_THIS_PROCESS
        private.remove_unused(self.directory.parent, unused)
        return self._make_staging()

    def _make_staging(self) -> Path:
        # `private.remove_unused` knows this prefix.
        path = tempfile.mkdtemp(dir=self.directory.parent, prefix=".unpack-")
        return Path(path)

    def _remove_staging(self) -> None:
        if self._staging is not None:
            shutil.rmtree(self._staging, ignore_errors=True)
            self._staging = None


def open_entry(
    sha256: str,
    resources: contextlib.ExitStack,
    *,
    weights_apart: bool,
) -> CacheEntry | None:
    """The entry of the package with this digest, locked until `resources` is closed.

    It is in the private directory, else in this process's own. None if neither has room for it.
    """
    unpacks = torch_loads_directories()
    weights_apart = weights_apart and unpacks
    name = sha256
    if not unpacks:
        name = f"{sha256}-file"
    elif weights_apart:
        name = f"{sha256}-apart"
    root = private.private_directory()
    if root is not None:
        try:
            return CacheEntry.open(
                root / name,
                resources,
                unpacks=unpacks,
                shared=True,
                weights_apart=weights_apart,
            )
        except OSError:  # the disk is full or read-only
            pass
    return open_process_entry(name, resources, unpacks=unpacks, weights_apart=weights_apart)


def open_process_entry(
    name: str,
    resources: contextlib.ExitStack,
    *,
    unpacks: bool,
    weights_apart: bool,
) -> CacheEntry | None:
    """An entry that only this process uses; None if there is no room for it."""
    root = process_directory()
    if root is None:
        return None
    try:
        return CacheEntry.open(
            root / name,
            resources,
            unpacks=unpacks,
            shared=False,
            weights_apart=weights_apart,
        )
    except OSError:
        return None


def torch_loads_directories() -> bool:
    """Whether the raw loader of the installed torch takes an unpacked package."""
    numbers = re.findall(r"\d+", compatibility.torch_version() or "")
    version = tuple(int(number) for number in numbers[:2])
    return version >= _LOADS_DIRECTORIES
