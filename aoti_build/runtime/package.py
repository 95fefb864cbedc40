"""From an artifact's directory to a path that the raw loader may be given: checked, unpacked once
for all processes.

`verify` decides what is compared before that:

- "full": every byte that will be loaded, against digests. Those of a package are the manifest's;
  those of its unpacked files were taken while a package with the manifest's digest was being
  unpacked. The package behind unpacked files is read again only if its stat is not what it was
  then.
- "stat": size, modification time, change time and inode of the package and of each unpacked file,
  against what they were after a full check by this user; without a record of one, or after any
  change, the package is read.
- "off": nothing of the package but its size. What was unpacked after a check is used if its stat is
  right.

From torch 2.14 on the raw loader takes a directory. A package is then unpacked once into the
private directory (`aoti_build.runtime.private`), named by its sha256, and every process loads from
there. The bytes that are digested are those that are unpacked, so nobody can exchange them between
the check and the load. What cannot be loaded as a directory is copied there as a file in the same
way.

Without a private directory a process keeps such copies for itself, one for each package: the loader
never lets go of a library, so another path at each load would make the process grow.

Where there is no room for any copy, the loader reads the very file that was digested (through its
descriptor): a replaced file has no effect, one that is written to in place between check and load
has. No torch here.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from aoti_build.artifact.damage import open_recorded, read_damage, require_digest
from aoti_build.artifact.manifest import MODEL, Manifest
from aoti_build.common.digests import digest_json
from aoti_build.common.directories import temporary_directory
from aoti_build.common.reading import read_bytes
from aoti_build.common.records import read_json
from aoti_build.common.stat_cache import StatCache, stat_key
from aoti_build.errors import UsageError
from aoti_build.host import compatibility
from aoti_build.runtime import private, unpack

Verify = Literal["full", "stat", "off"]
FORMAT = "aoti-build/unpacked"
FORMAT_VERSION = 2
_RECORD = "unpacked.json"
_STAT_CACHE = "stat-cache.json"
# The first torch whose raw loader was seen to take an unpacked package.
_LOADS_DIRECTORIES = (
    2,
    14,
)
# Seconds after which this process' own copy of a package goes, when it needs room for another.
_UNUSED_BY_THIS_PROCESS = 3600.0
_own: tuple[int, Path | None] | None = None
_own_lock = threading.Lock()


@dataclass
class Admitted:
    """A package that may be loaded from `path`, as long as this is not closed. `how` it was
    checked: "full", "stat" or "off", after what was really done; `unpacked` tells a directory that
    processes share from anything else."""

    path: str
    how: str
    unpacked: bool
    _held: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def close(self) -> None:
        self._held.close()


def admit(directory: Path, manifest: Manifest, verify: Verify = "full") -> Admitted:
    """Check the package of an artifact against its manifest, as `verify` says.

    Raises: ArtifactError: it is not there, cannot be read, or is not what the manifest says.
        UsageError: `verify` is another word. DirectoryError: AOTI_BUILD_RUNTIME_CACHE names an
        unfit directory, or the package must be unpacked in the
            temporary one and that is unfit.
    """
    if verify not in get_args(Verify):
        raise UsageError(
            f"verify is {verify!r}", hint=f"it is one of {', '.join(get_args(Verify))}"
        )
    # A signature of a release is checked here, before anything that the manifest says is relied on.
    path = directory / MODEL
    with contextlib.ExitStack() as held:
        package = _open(path, manifest)
        held.callback(os.close, package)
        if verify == "off":
            entry, how = _unverified(package, manifest, held), "off"
        else:
            entry = _entry(manifest.files[MODEL].sha256, held)
            how = _checked(path, package, manifest, verify, entry)
        if entry and entry.usable:
            return Admitted(str(entry.package), how, entry.is_shared_directory, held.pop_all())
        return Admitted(f"/proc/self/fd/{package}", how, False, held.pop_all())


def _open(path: Path, manifest: Manifest) -> int:
    """A descriptor of the package. Its size is looked at in any case: it costs nothing."""
    try:
        return open_recorded(path, manifest.files[MODEL].size)
    except OSError as error:
        raise read_damage(MODEL, error).error(manifest.target, str(path)) from error


def _entry(sha256: str, held: contextlib.ExitStack) -> _Entry | None:
    """The entry of a package whose digest will be compared: in the private directory, else in this
    process' own. None if neither can be had."""
    loads = _loads_directories()
    name = sha256 if loads else f"{sha256}-file"
    shared = private.private_directory()
    if shared is not None:
        with contextlib.suppress(OSError):  # a full disk, or one that became read-only
            return _Entry.of(shared / name, held, unpacks=loads, shared=True)
    return _own_entry(name, held, unpacks=loads)


def _own_entry(name: str, held: contextlib.ExitStack, *, unpacks: bool) -> _Entry | None:
    root = process_directory()
    if root is not None:
        with contextlib.suppress(OSError):
            return _Entry.of(root / name, held, unpacks=unpacks, shared=False)
    return None


def _unverified(package: int, manifest: Manifest, held: contextlib.ExitStack) -> _Entry | None:
    """What was unpacked after an earlier check, if it still has the stat that it had then; else
    what this process unpacks of the file as it is, named by its stat."""
    if not _loads_directories():
        return None
    entry = _entry(manifest.files[MODEL].sha256, held)
    if entry and entry.is_as_recorded():
        entry.usable = True
        return entry
    status = os.fstat(package)
    identity = [status.st_dev, status.st_ino, status.st_size]
    identity += [status.st_mtime_ns, status.st_ctime_ns]
    own = _own_entry(f"unverified-{digest_json(identity)}", held, unpacks=True)
    if own:
        own.bring_up_unverified(package)
    return own


def _checked(
    path: Path,
    package: int,
    manifest: Manifest,
    verify: Verify,
    entry: _Entry | None,
) -> str:
    """What was done to be sure of the package: the word for it."""
    read = False

    def read_all(_: str = "") -> str:
        nonlocal read
        read = True
        return entry.bring_up(package) if entry else unpack.digest(package)

    try:
        if entry is None:
            found: str | None = read_all()
        else:
            digests = StatCache(entry.directory.parent / _STAT_CACHE)
            found = digests.remember(str(path), f"/proc/self/fd/{package}", read_all)
            digests.save()
            if not read:
                entry.usable = entry.is_as_recorded(by_digest=verify == "full")
                found = found if entry.usable else read_all()
        require_digest(found, manifest.files[MODEL].sha256)
    except OSError as error:
        raise read_damage(MODEL, error).error(manifest.target, str(path)) from error
    if entry:
        entry.publish()
    return "full" if read else verify


@dataclass
class _Entry:
    """What one package is loaded from, in a private directory: its files where it `unpacks`, else a
    copy of it. It is shared by processes, or of this one alone, and held by a lock.

    It is made beside its place and appears there only after the package's digest was found right.
    """

    directory: Path
    unpacks: bool
    shared: bool
    usable: bool = False
    _staged: Path | None = None
    _blocks: dict[str, list[str]] = field(default_factory=dict)
    _record: bytes | None = None

    @classmethod
    def of(cls, place: Path, held: contextlib.ExitStack, *, unpacks: bool, shared: bool) -> _Entry:
        """The entry at `place`, held until `held` ends. Raises OSError if it cannot be."""
        entry = cls(place, unpacks, shared)
        held.callback(os.close, private.hold(place.parent, place.name))
        held.callback(entry._drop)
        return entry

    @property
    def package(self) -> Path:
        whole = self.directory / unpack.WHOLE
        if whole.exists():
            return whole
        (root,) = (path for path in self.directory.iterdir() if path.is_dir())
        return root

    @property
    def is_shared_directory(self) -> bool:
        return self.shared and self.package.is_dir()

    def bring_up(self, package: int) -> str:
        """Read the whole package: compare what is there with it, or unpack it aside. Returns the
        package's digest, as `unpack.digest`."""
        contents = unpack.contents_of(package) if self.unpacks else None
        if contents is None:
            contents = unpack.as_a_file(os.fstat(package).st_size)
        if self.directory.is_dir() and not self.directory.is_symlink():
            comparer = unpack.Comparer(self.directory, contents, record=_RECORD)
            sha256 = unpack.digest(package, contents, comparer)
            if comparer.same:
                self.usable = True
                self._record = _record(comparer.stats, comparer.blocks())
                return sha256
        self._remove()
        return self._unpack(package, contents)

    def bring_up_unverified(self, package: int) -> None:
        """Unpack the package as it is, unless that was done before; not usable if it cannot be."""
        self.usable = self.is_as_recorded()
        contents = None if self.usable else unpack.contents_of(package)
        if contents is None:
            return
        with contextlib.suppress(OSError):  # no room
            self._staged = self._make_room()
            with contextlib.closing(unpack.Writer(self._staged, contents)) as writer:
                unpack.unpack(package, contents, writer)
                self._blocks = writer.blocks()
            self.publish()

    def _unpack(self, package: int, contents: unpack.Contents) -> str:
        try:
            self._staged = self._make_room()
            with contextlib.closing(unpack.Writer(self._staged, contents)) as writer:
                sha256 = unpack.digest(package, contents, writer)
                self._blocks = writer.blocks()
                return sha256
        except OSError:
            self._drop()
            return unpack.digest(package)  # no room: the package can be loaded all the same

    def _remove(self) -> None:
        """Take away what is in the entry's place, as far as it can be."""
        if self.directory.is_dir() and not self.directory.is_symlink():
            shutil.rmtree(self.directory, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                self.directory.unlink()

    def _make_room(self) -> Path:
        """An empty directory beside the entry, once what nobody has used for long is gone."""
        unused = private.UNUSED_SECONDS if self.shared else _UNUSED_BY_THIS_PROCESS
        private.remove_unused(self.directory.parent, unused)
        return self._aside()

    def publish(self) -> None:
        """Put what was unpacked in its place, with a record of the files' stat. If another process
        was faster, its files are used. Files that are right get a new record if theirs is not."""
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
        except OSError:
            # There is no space, or a directory is there already: a faster process made it, or it
            # could not be removed.
            self.usable = self.is_as_recorded(by_digest=True)
        self._drop()

    def is_as_recorded(self, *, by_digest: bool = False) -> bool:
        """Whether the unpacked files are there and have the stat (and digests) that they had when
        they were made."""
        document = read_json(self.directory / _RECORD)
        try:
            if (document["format"], document["format_version"]) != (FORMAT, FORMAT_VERSION):
                return False
            files = document["files"]
            if self.directory.is_symlink() or not unpack.holds(self.directory, [_RECORD, *files]):
                return False
            if any(stat_key(self.directory / name) != file["stat"] for name, file in files.items()):
                return False
            blocks = {name: file["blocks"] for name, file in files.items()}
            return not by_digest or (
                document["block"] == unpack.CHUNK and unpack.agree(self.directory, blocks)
            )
        except (OSError, LookupError, TypeError, AttributeError, ValueError):
            return False  # none, or garbled: the package is read

    def _renew(self, record: bytes) -> None:
        """Replace the record unless it says the same. Where it cannot be, the next load reads the
        package again."""
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
    document = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "block": unpack.CHUNK,
        "files": files,
    }
    return json.dumps(document).encode()


def process_directory() -> Path | None:
    """A directory of this process alone, made at first need and removed when the process ends; None
    where there is no room for one. Raises `DirectoryError` if the temporary directory is unfit."""
    global _own  # noqa: PLW0603 - there is one for each process, however many models it loads
    with _own_lock:
        if _own is None or _own[0] != os.getpid():  # a fork must not remove its parent's
            _own = os.getpid(), _make_own()
        return _own[1]


def _make_own() -> Path | None:
    from multiprocessing.util import Finalize  # not needed where there is a private directory

    temporary = temporary_directory()
    with contextlib.suppress(OSError):
        path = Path(tempfile.mkdtemp(dir=temporary, prefix="aoti_build-")).resolve()
        # Unlike atexit it runs at the end of a process that multiprocessing forked too, and of no
        # other one's fork.
        Finalize(None, shutil.rmtree, (path,), {"ignore_errors": True}, exitpriority=0)
        return path
    return None


def _loads_directories() -> bool:
    return _version(compatibility.torch_version()) >= _LOADS_DIRECTORIES


def _version(text: str | None) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text or "")[:2])
