"""Checks the package of an artifact before the raw loader may load it.

`verify` selects the check:

- "full": the digest of every byte that will be loaded. The digest of a package comes from the
  manifest. The digests of its unpacked files were made while a package with that digest was
  unpacked. A package with unpacked files is read again only if its stat has changed since.
- "stat": size, modification time, change time and inode of the package and of each unpacked file,
  compared with an earlier full check by this user. Without a record of one, or after a change, the
  package is read.
- "off": only the size of the package. Files from an earlier checked package are used if their stat
  is right.

Without room for a copy (`aoti_build.runtime.cache_entry`) the loader reads the digested file itself
through its open descriptor. Replacing that file then has no effect, but writing to it between check
and load does. This module does not import torch.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from aoti_build.artifact.damage import open_recorded, read_damage, require_digest
from aoti_build.artifact.manifest import MODEL, Manifest
from aoti_build.common.digests import digest_json
from aoti_build.common.stat_cache import StatCache
from aoti_build.errors import ToolchainError, UsageError
from aoti_build.runtime import unpack
from aoti_build.runtime.cache_entry import (
    CacheEntry,
    open_entry,
    open_process_entry,
    torch_loads_directories,
)

Verify = Literal["full", "stat", "off"]
_STAT_CACHE = "stat-cache.json"


@dataclass
class Admitted:
    """A checked package, which may be loaded from `path` until `close`.

    `how` is the check that was made, which can be a fuller one than was requested. `unpacked` says
    whether `path` is a directory that processes share. `weights` is the file of weights that are
    not in that directory.
    """

    path: str
    how: Verify
    unpacked: bool
    weights: Path | None = None
    _resources: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def close(self) -> None:
        self._resources.close()

    def on_close(self, callback: Callable[[], None]) -> None:
        """Call `callback` when the package is closed."""
        self._resources.callback(callback)

    @contextlib.contextmanager
    def closed_on_error(self) -> Iterator[None]:
        """Close the package if the block raises."""
        try:
            yield
        except BaseException:
            self.close()
            raise


def admit(
    directory: Path,
    manifest: Manifest,
    verify: Verify = "full",
    *,
    signed: Path | None = None,
) -> Admitted:
    """Check the package in an artifact's directory against its manifest.

    `signed` leads into the opened directory of an artifact of a signed release, whose path is
    `directory`. Such a package is loaded from a private copy and from nowhere else.

    Raises:
        ArtifactError: the package is absent, cannot be read, or differs from the manifest.
        UsageError: `verify` is not "full", "stat" or "off".
        DirectoryError: AOTI_BUILD_RUNTIME_CACHE names an unfit directory. Or the package must be
            unpacked in the temporary directory, and that is unfit.
        ToolchainError: the package is `signed`, and there is no room for a private copy.
    """
    require_verify(verify)
    path = directory / MODEL
    with contextlib.ExitStack() as resources:
        package = _open_package((signed or directory) / MODEL, path, manifest)
        resources.callback(os.close, package)
        checked: Verify = verify
        if verify == "off":
            entry = _unverified_entry(package, manifest, resources)
        else:
            entry = _open_entry(manifest, resources)
            checked = _check(path, package, manifest, verify, entry)
        if signed and (entry is None or not entry.usable):
            raise _no_private_copy(manifest)
        load_path = f"/proc/self/fd/{package}"
        unpacked = False
        weights = None
        if entry is not None and entry.usable:
            load_path = str(entry.load_path)
            unpacked = entry.is_shared_directory
            weights = entry.weights
        return Admitted(
            path=load_path,
            how=checked,
            unpacked=unpacked,
            weights=weights,
            _resources=resources.pop_all(),
        )


def require_verify(verify: str) -> None:
    """Raise `UsageError` unless `verify` is one of the checks."""
    if verify not in get_args(Verify):
        raise UsageError(
            f"verify is {verify!r}", hint=f"it is one of {', '.join(get_args(Verify))}"
        )


def weights_can_be_mapped(manifest: Manifest) -> bool:
    """Whether the weights may be used where they lie in the unpacked package.

    Those for a GPU are copied to it. Those that the compiler changed can have any form.
    """
    listed = "weights" in manifest.signature
    return manifest.requires["device"] == "cpu" and manifest.weights["external"] and listed


def _open_entry(manifest: Manifest, resources: contextlib.ExitStack) -> CacheEntry | None:
    return open_entry(
        manifest.files[MODEL].sha256,
        resources,
        weights_apart=weights_can_be_mapped(manifest),
    )


def _open_package(opened: Path, path: Path, manifest: Manifest) -> int:
    """A descriptor of the package at `opened`, which errors call `path`.

    Its size is checked whatever `verify` says: that is free.
    """
    try:
        return open_recorded(opened, manifest.files[MODEL].size)
    except OSError as error:
        raise read_damage(MODEL, error).error(manifest.target, str(path)) from error


def _no_private_copy(manifest: Manifest) -> ToolchainError:
    # Whoever may write to the file could change it between check and load.
    return ToolchainError(
        "a signed package is loaded from a private copy only, and there is no room for one",
        target=manifest.target,
        hint="let AOTI_BUILD_RUNTIME_CACHE or TMPDIR name a directory of your own with room for it,"
        " on a file system that allows execution",
    )


def _unverified_entry(
    package: int,
    manifest: Manifest,
    resources: contextlib.ExitStack,
) -> CacheEntry | None:
    """An entry for `verify="off"`: that of a checked package if its stat is right, else this
    process's own, which is unpacked without a check."""
    if not torch_loads_directories():
        return None
    entry = _open_entry(manifest, resources)
    if entry is not None and entry.matches_record():
        entry.usable = True
        return entry
    # Named by the stat of the file, so that a replaced package gets another entry.
    status = os.fstat(package)
    identity = [
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    ]
    name = f"unverified-{digest_json(identity)}"
    unverified = open_process_entry(
        name,
        resources,
        unpacks=True,
        weights_apart=weights_can_be_mapped(manifest),
    )
    if unverified is not None:
        unverified.unpack_unverified(package)
    return unverified


def _check(
    path: Path,
    package: int,
    manifest: Manifest,
    verify: Verify,
    entry: CacheEntry | None,
) -> Verify:
    """Compare the sha256 of the open package with its manifest, and make the entry usable.

    Returns the check that was made: "full" if the whole package was read, else `verify`.
    """
    try:
        if entry is None:
            sha256: str | None = unpack.digest(package)
        else:
            sha256 = _package_digest(path, package, verify, entry)
        require_digest(sha256, manifest.files[MODEL].sha256)
    except OSError as error:
        raise read_damage(MODEL, error).error(manifest.target, str(path)) from error
    if entry is None:
        return "full"
    entry.publish()
    return "full" if entry.has_read_package else verify


def _package_digest(
    path: Path,
    package: int,
    verify: Verify,
    entry: CacheEntry,
) -> str | None:
    """The sha256 of the open package; None if it cannot be read.

    The package is read unless its stat is unchanged since an earlier read and the entry's files
    are right.
    """
    digests = StatCache(entry.directory.parent / _STAT_CACHE)
    sha256 = digests.remember(
        str(path),
        f"/proc/self/fd/{package}",  # the open file, whatever now has its name
        lambda _: entry.read_package(package),
    )
    digests.save()
    if entry.has_read_package:
        return sha256
    entry.usable = entry.matches_record(by_digest=verify == "full")
    if entry.usable:
        return sha256
    return entry.read_package(package)
