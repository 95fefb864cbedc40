"""Holding a directory against a verified signature, and modes against a signed record of them."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

from aoti_build.artifact.signing.files import Contents, contents_of, digests_of, parents
from aoti_build.artifact.signing.names import SIGNATURE_NAME, name_fault
from aoti_build.artifact.signing.refusals import (
    ASK_SENDER,
    ListingMismatch,
    ModeMismatch,
    UnfitFiles,
    some,
)
from aoti_build.artifact.signing.verify import SignedListing


def compare_directory(
    listing: SignedListing,
    directory: Path,
    *,
    signature_name: str = SIGNATURE_NAME,
) -> None:
    """Raise an error unless a directory has exactly the signed files.

    Names are compared before any content is read. All files are digested on all cores.

    Raises:
        UnfitFiles: there is a link, a special file or an odd name, or something is unreadable.
        ListingMismatch: a file is missing, added or changed, or a directory is added.
    """
    compare_files(listing.files, directory, signature_name=signature_name)


def compare_files(
    files: Mapping[str, str],
    directory: Path,
    *,
    signature_name: str = SIGNATURE_NAME,
    listed: str = "signed",
) -> None:
    """As `compare_directory`, for the sha256 of each file by its relative name.

    `listed` is what errors say of these files.
    """
    contents = contents_of(directory, signature_name)
    _require_same_names(files, contents, directory, listed)
    digests = digests_of(directory, contents.files)
    changed = [name for name, digest in digests.items() if digest != files[name]]
    if changed:
        raise _mismatch(listed, f"changed since they were {listed}", changed, directory)


def modes_of(directory: Path, names: Iterable[str]) -> dict[str, int]:
    """The permission bits of the named files, such as 0o644, for a record of them.

    Raises `UnfitFiles` if a name leads out of the directory, or if there is no such file.
    """
    modes = {}
    for name in sorted(names):
        fault = name_fault(name)
        if fault:
            raise UnfitFiles(f"the name {name!a} {fault}", where=str(directory))
        try:
            status = os.lstat(directory / name)
        except OSError as error:
            raise UnfitFiles(
                f"{name!r} cannot be read", where=str(directory), cause=error.strerror
            ) from error
        modes[name] = stat.S_IMODE(status.st_mode)
    return modes


def compare_modes(modes: Mapping[str, int], directory: Path) -> None:
    """Raise `ModeMismatch` unless each file has the permission bits of a record, such as 0o644.

    The signature has no modes. A record of them counts if it is in a signed file. Raises
    `UnfitFiles` as `modes_of`.
    """
    present = modes_of(directory, modes)
    for name, mode in sorted(modes.items()):
        if present[name] != mode:
            raise ModeMismatch(
                f"{name!r} has mode {present[name]:04o}, and was released with {mode:04o}",
                where=str(directory),
                hint=f"chmod {mode:04o} {directory / name}, if you know who changed it;"
                " unpack archives with tar --preserve-permissions",
            )


def _require_same_names(
    files: Mapping[str, str], contents: Contents, directory: Path, listed: str
) -> None:
    signed = frozenset(files)
    missing = sorted(signed - contents.files)
    if missing:
        raise _mismatch(listed, "missing", missing, directory)
    extra = sorted(contents.files - signed)
    if extra:
        raise _mismatch(listed, f"never {listed}", extra, directory)
    signed_directories = {above for name in signed for above in parents(name)}
    added = sorted(contents.directories - signed_directories)
    if added:
        raise _mismatch(listed, f"directories without {listed} files", added, directory)


def _mismatch(listed: str, what: str, names: list[str], directory: Path) -> ListingMismatch:
    return ListingMismatch(
        f"the files are not the {listed} ones; {what}: {some(names)}",
        where=str(directory),
        hint=ASK_SENDER,
    )
