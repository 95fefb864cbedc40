"""From an artifact's directory to a path that the raw loader may be given: checked, unpacked once for all processes.

`verify` decides what is compared before that:

- "full": every byte that will be loaded, against digests. Those of a package are the manifest's; those of its unpacked
  files were taken while a package with the manifest's digest was being unpacked. The package behind unpacked files is
  read again only if its stat is not what it was then.
- "stat": size, modification time, change time and inode of the package and of each unpacked file, against what they
  were after a full check by this user; without a record of one, or after any change, the package is read.
- "off": nothing of the package but its size. What is unpacked is used if its stat is right, else the package.

From torch 2.14 on the raw loader takes a directory. A package is then unpacked once into the private directory
(`aoti_build.runtime.private`), named by its sha256, and every process loads from there; otherwise each process unpacks
it into a directory of its own in /tmp, which stays if the process is killed. The bytes that are digested are those that
are unpacked, so nobody can exchange them between the check and the load. Where there is no unpacked directory, the
loader reads the very file that was digested (through its descriptor): a replaced file has no effect, one that is
written to in place between check and load has. No torch here.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from aoti_build import host
from aoti_build.archive.directory import Member
from aoti_build.errors import ArtifactError, UsageError
from aoti_build.files import open_regular, read_bytes, read_json
from aoti_build.manifest import MODEL, FileRecord, Manifest
from aoti_build.runtime import private, unpack
from aoti_build.stat_cache import StatCache, stat_key

Verify = Literal["full", "stat", "off"]
FORMAT = "aoti-build/unpacked"
FORMAT_VERSION = 2
_RECORD = "unpacked.json"
_STAT_CACHE = "stat-cache.json"
_LOADS_DIRECTORIES = (2, 14)  # the first torch whose raw loader was seen to take an unpacked package


@dataclass
class Admitted:
    """A package that may be loaded from `path`, as long as this is not closed. `how` it was checked: "full", "stat"
    or "off", after what was really done; `unpacked` tells a shared directory from the package itself."""

    path: str
    how: str
    unpacked: bool
    _descriptors: list[int] = field(default_factory=list)

    def close(self) -> None:
        while self._descriptors:
            os.close(self._descriptors.pop())


def admit(directory: Path, manifest: Manifest, verify: Verify = "full") -> Admitted:
    """Check the package of an artifact against its manifest, as `verify` says.

    Raises:
        ArtifactError: it is not there, cannot be read, or is not what the manifest says.
        UsageError: `verify` is another word, or AOTI_BUILD_RUNTIME_CACHE names an unfit directory.
    """
    if verify not in get_args(Verify):
        raise UsageError(f"verify is {verify!r}", hint=f"it is one of {', '.join(get_args(Verify))}")
    # A signature of a release is checked here, before anything that the manifest says is relied on.
    with contextlib.ExitStack() as undo:
        package = _open(directory / MODEL, manifest)
        undo.callback(os.close, package)
        admitted = _admit(directory / MODEL, package, manifest, verify)
        if not admitted.unpacked:
            undo.pop_all()
            admitted._descriptors.append(package)
    return admitted


def _open(path: Path, manifest: Manifest) -> int:
    """A descriptor of the package. Its size is looked at in any case: it costs nothing."""
    try:
        descriptor = open_regular(path)
    except OSError as error:
        raise _damaged(manifest, path, f"{MODEL} cannot be read", str(error)) from error
    size, wanted = os.fstat(descriptor).st_size, manifest.files[MODEL].size
    if size != wanted:
        os.close(descriptor)
        said = f"it has {size} bytes, the manifest says {wanted}"
        raise _damaged(manifest, path, f"{MODEL} is not the file that was built", said)
    return descriptor


def _admit(path: Path, package: int, manifest: Manifest, verify: Verify) -> Admitted:
    root = private.private_directory()
    loads_directories = root is not None and _version(host.torch_version()) >= _LOADS_DIRECTORIES
    entry = _Entry.of(root, manifest.files[MODEL]) if root and loads_directories else None
    with contextlib.ExitStack() as undo:
        if entry:
            undo.callback(entry.release)
        how = _checked(path, package, manifest, verify, root, entry)
        undo.pop_all()
    held = [entry.lock] if entry else []
    if entry and entry.usable:
        return Admitted(str(entry.package), how, True, held)
    return Admitted(str(path) if verify == "off" else f"/proc/self/fd/{package}", how, False, held)


def _checked(
    path: Path, package: int, manifest: Manifest, verify: Verify, root: Path | None, entry: _Entry | None
) -> str:
    """What was done to be sure of the package: the word for it."""
    if verify == "off":
        if entry:
            entry.usable = entry.is_as_recorded()
        return "off"
    read = False

    def read_all(_: str = "") -> str:
        nonlocal read
        read = True
        if entry:
            return entry.bring_up(package)
        if manifest.files[MODEL].matches(Path(f"/proc/self/fd/{package}")):  # on all cores
            return manifest.files[MODEL].sha256
        return unpack.digest(package)

    try:
        if root is None or (verify == "full" and entry is None):
            found: str | None = read_all()
        else:
            digests = StatCache(root / _STAT_CACHE)
            found = digests.remember(str(path), f"/proc/self/fd/{package}", read_all)
            digests.save()
            if entry and not read:
                entry.usable = entry.is_as_recorded(by_digest=verify == "full")
                found = found if entry.usable else read_all()
    except OSError as error:
        raise _damaged(manifest, path, f"{MODEL} cannot be read", str(error)) from error
    if found != manifest.files[MODEL].sha256:
        raise _damaged(manifest, path, f"{MODEL} is not the file that was built", "its sha256 is another")
    if entry:
        entry.publish()
    return "full" if read else verify


@dataclass
class _Entry:
    """The unpacked form of one package in the private directory, shared by processes and held by `lock`.

    It is made beside its place and appears there only after the package's digest was found right.
    """

    directory: Path
    lock: int
    usable: bool = False
    _staged: Path | None = None
    _blocks: dict[str, list[str]] = field(default_factory=dict)
    _record: bytes | None = None

    @classmethod
    def of(cls, root: Path, file: FileRecord) -> _Entry | None:
        try:
            return cls(root / file.sha256, private.hold(root, file.sha256))
        except OSError:
            return None  # a full disk, or one that became read-only: each process unpacks for itself

    @property
    def package(self) -> Path:
        (root,) = (path for path in self.directory.iterdir() if path.is_dir())
        return root

    def bring_up(self, package: int) -> str:
        """Read the whole package: compare what is unpacked with it, or unpack it aside. Returns the package's
        digest."""
        found = unpack.members(package)
        if found is None:
            return unpack.digest(package)
        if self.directory.is_dir():
            comparer = unpack.Comparer(self.directory, found, ignore=_RECORD)
            sha256 = unpack.digest(package, found, comparer)
            if comparer.same:
                self.usable = True
                self._record = _record(comparer.stats, comparer.blocks())
                return sha256
            shutil.rmtree(self.directory, ignore_errors=True)
        return self._unpack(package, found)

    def _unpack(self, package: int, found: tuple[Member, ...]) -> str:
        try:
            private.remove_unused(self.directory.parent)
            self._staged = self._aside()
            with contextlib.closing(unpack.Writer(self._staged, found)) as writer:
                sha256 = unpack.digest(package, found, writer)
                self._blocks = writer.blocks()
                return sha256
        except OSError:
            self._drop()
            return unpack.digest(package)  # no room: the package can be loaded all the same

    def publish(self) -> None:
        """Put what was unpacked in its place, with a record of the files' stat. If another process was faster, its
        files are used. Files that are right get a new record if theirs is not."""
        if self._record is not None:
            self._renew(self._record)
        if self._staged is None:
            return
        try:
            for name in self._blocks:
                (self._staged / name).chmod(0o400)
            stats = {name: stat_key(self._staged / name) for name in self._blocks}
            (self._staged / _RECORD).write_bytes(_record(stats, self._blocks))
            os.rename(self._staged, self.directory)
            self.usable = True
        except OSError:  # no room; or something is there: made by a faster process, or what could not be removed
            self.usable = self.is_as_recorded(by_digest=True)
        self._drop()

    def is_as_recorded(self, *, by_digest: bool = False) -> bool:
        """Whether the unpacked files are there and have the stat (and digests) that they had when they were made."""
        document = read_json(self.directory / _RECORD)
        try:
            if (document["format"], document["format_version"]) != (FORMAT, FORMAT_VERSION):
                return False
            files = document["files"]
            if unpack.names(self.directory) != {_RECORD, *files}:
                return False
            if any(stat_key(self.directory / name) != file["stat"] for name, file in files.items()):
                return False
            blocks = {name: file["blocks"] for name, file in files.items()}
            return not by_digest or (document["block"] == unpack.CHUNK and unpack.agree(self.directory, blocks))
        except (OSError, LookupError, TypeError, AttributeError, ValueError):
            return False  # none, or garbled: the package is read

    def release(self) -> None:
        self._drop()
        os.close(self.lock)

    def _renew(self, record: bytes) -> None:
        """Replace the record unless it says the same. Where it cannot be, the next load reads the package again."""
        with contextlib.suppress(OSError):
            if read_bytes(self.directory / _RECORD, len(record)) == record:
                return
        with contextlib.suppress(OSError):
            self._staged = self._aside()
            (self._staged / _RECORD).write_bytes(record)
            os.replace(self._staged / _RECORD, self.directory / _RECORD)
        self._drop()

    def _aside(self) -> Path:
        return Path(tempfile.mkdtemp(dir=self.directory.parent, prefix=".unpack-"))

    def _drop(self) -> None:
        if self._staged is not None:
            shutil.rmtree(self._staged, ignore_errors=True)
            self._staged = None


def _record(stats: Mapping[str, list[int] | None], blocks: Mapping[str, list[str]]) -> bytes:
    files = {name: {"stat": stats[name], "blocks": found} for name, found in blocks.items()}
    document = {"format": FORMAT, "format_version": FORMAT_VERSION, "block": unpack.CHUNK, "files": files}
    return json.dumps(document).encode()


def _version(text: str | None) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text or "")[:2])


def _damaged(manifest: Manifest, path: Path, message: str, cause: str) -> ArtifactError:
    return ArtifactError(
        message,
        target=manifest.target,
        where=str(path),
        cause=cause,
        hint=f"it was not loaded; build it again (invoke build --target {manifest.target}) or copy it again",
    )
