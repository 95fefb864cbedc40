"""The first part of every command for received releases: all files are compared, and none is used.

The order matters. The signature comes first. Then every file is compared with it, and the files
with each other. Nothing here imports torch or loads anything of the release. A command loads
packages only after that.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from aoti_build.artifact.bundle import layout
from aoti_build.artifact.bundle.described import target_of
from aoti_build.artifact.bundle.opened import OpenBundle, open_bundle, refuse_imports_from
from aoti_build.artifact.bundle.record import ReleaseRecord, parse_release
from aoti_build.artifact.bundle.signed import signed_bundle
from aoti_build.artifact.bundle.structure import require_agreement, sums_text
from aoti_build.artifact.manifest import Manifest
from aoti_build.artifact.signing.compare import compare_files
from aoti_build.artifact.signing.trust import (
    SYSTEM_KEYS,
    TrustedKeys,
    read_trusted_keys,
    revoked_file,
    system_trusted_keys,
)
from aoti_build.artifact.signing.verify import Signer, Trusted
from aoti_build.commands.received.identity import trusted_identity
from aoti_build.commands.received.options import ReceiverOptions
from aoti_build.commands.received.release import ReceivedRelease
from aoti_build.common.archives import GZIP, ZSTD
from aoti_build.common.digests import digest_bytes
from aoti_build.errors import UsageError
from aoti_build.models_file.project import Target
from aoti_build.models_file.select import select


@dataclass(frozen=True)
class ExaminedBundle:
    """An open bundle whose files were compared with its signature and with each other.

    Attributes:
        bundle: its open directory.
        release: what it is, and who signed it.
        files: the sha256 of each file but the signature, by its path.
        manifests: those of all targets, by their names.
    """

    bundle: OpenBundle
    release: ReceivedRelease
    files: Mapping[str, str]
    manifests: Mapping[str, Manifest]

    def targets(self, pattern: str) -> tuple[Target, ...]:
        """The targets that globs select, all without any. Raises `UsageError` for other globs.

        Raises `ArtifactError` if a manifest does not describe its target.
        """
        described = tuple(target_of(manifest) for manifest in self.manifests.values())
        return select(described, pattern or None)

    def require_unchanged(self) -> None:
        """Compare all files once more. A result about files that are others by now would mislead.

        Raises `SignatureError` if anything differs.
        """
        compare_files(self.files, self.bundle.opened, listed=_listed(self.release.signer))


@contextlib.contextmanager
def examined_bundle(options: ReceiverOptions) -> Iterator[ExaminedBundle]:
    """Open a bundle, and compare all of its files. Errors of the block name it as the caller did.

    Raises:
        SignatureError: the signature is refused, or the files are not what was signed.
        ArtifactError: the bundle cannot be read.
        UsageError: an option is wrong, or there is no usable key.
        ToolchainError: cryptography is not installed.
    """
    _refuse_archive(options.directory)
    # Libraries that verify signatures are imported below.
    refuse_imports_from(options.directory)
    trusted = trusted_identity(options) or _trusted_keys(options)
    path = options.directory.absolute()
    with open_bundle(path) as bundle, bundle.shown_in_errors():
        yield _examined(bundle, trusted, options)


def _refuse_archive(directory: Path) -> None:
    if directory.name.endswith((GZIP, ZSTD)):
        raise UsageError(
            f"--release {directory} is an archive",
            hint="unpack it with tar --preserve-permissions, and name its directory",
        )


def _trusted_keys(options: ReceiverOptions) -> TrustedKeys | None:
    """Whose signature is required. None with ``--unsigned``."""
    if options.unsigned:
        _refuse_with_unsigned(options)
        return None
    revoked = revoked_file(options.revoked)
    if options.keys:
        _require_names(options.keys)
        paths = [Path(key).absolute() for key in options.keys]
        return read_trusted_keys(paths, revoked=revoked, release=options.directory)
    if SYSTEM_KEYS.exists():
        return system_trusted_keys(revoked=revoked, release=options.directory)
    raise UsageError(
        "no key says whose signature the release must have",
        cause=f"there is no --public-key, and no {SYSTEM_KEYS}",
        hint="name the public key of whoever signs releases with --public-key FILE; --unsigned"
        " verifies no signature, and then nothing proves who made the release; --identity NAME"
        " --identity-provider URL require a keyless signature",
    )


def _refuse_with_unsigned(options: ReceiverOptions) -> None:
    given = {
        "--public-key": options.keys,
        "--revoked": options.revoked,
        "--min-version": options.min_version,
    }
    for option, value in given.items():
        if value not in (None, ()):
            raise UsageError(
                f"--unsigned and {option} exclude each other",
                cause="nothing proves what a release says that is not signed",
                hint=f"omit one of --unsigned and {option}",
            )


def _require_names(keys: tuple[str, ...]) -> None:
    # The value of a variable that is not set would mean the current directory.
    if "" in keys:
        raise UsageError(
            "--public-key names no file",
            cause="its value is empty",
            hint="name a PEM file with the public key of whoever signs releases",
        )


def _examined(
    bundle: OpenBundle, trusted: Trusted | None, options: ReceiverOptions
) -> ExaminedBundle:
    """Compare all files with the signature, and with each other. Nothing is loaded."""
    files: Mapping[str, str]
    signer: Signer | None = None
    if trusted is None:
        record, files = _listed_files(bundle)
    else:
        signed = signed_bundle(bundle, trusted, options.min_version)
        record, files, signer = signed.record, signed.listing.files, signed.listing.signer
    compare_files(files, bundle.opened, listed=_listed(signer))
    manifests = require_agreement(bundle, record, files)
    release = ReceivedRelease(
        path=str(options.directory),
        record=record,
        sha256=files[layout.RELEASE],
        file_count=len(files),
        signer=signer,
    )
    return ExaminedBundle(bundle, release, files, manifests)


def _listed(signer: Signer | None) -> str:
    """What errors say of the files of a bundle: whether a signature was verified."""
    return "signed" if signer else "listed"


def _listed_files(bundle: OpenBundle) -> tuple[ReleaseRecord, dict[str, str]]:
    """The record of a release whose signature is not verified, and the digests that follow."""
    content = bundle.read(layout.RELEASE)
    record = parse_release(content, str(bundle.path / layout.RELEASE))
    files = {path: file.sha256 for path, file in record.files.items()}
    files[layout.RELEASE] = digest_bytes(content)
    files[layout.SUMS] = digest_bytes(sums_text(files).encode())
    return record, files
