"""A bundle whose signature was verified. Only signed bytes are parsed.

The signature is verified first. Then `release.json` and manifests are read from the opened
directory, and their bytes are digested before they are parsed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from aoti_build.artifact.bundle import layout
from aoti_build.artifact.bundle.opened import ASK_AGAIN, OpenBundle, open_bundle
from aoti_build.artifact.bundle.record import ReleasedTarget, ReleaseRecord, parse_release
from aoti_build.artifact.bundle.versions import read_version
from aoti_build.artifact.damage import manifest_damage
from aoti_build.artifact.manifest import MANIFEST, MODEL, Manifest, parse_record
from aoti_build.artifact.signing.refusals import ASK_SENDER, ListingMismatch
from aoti_build.artifact.signing.verify import (
    SignedListing,
    Trusted,
    read_signature,
    verify_signature,
)
from aoti_build.common.digests import digest_bytes
from aoti_build.errors import ArtifactError, SignatureError, UsageError


class OldRelease(SignatureError):
    """The release is signed, and older than the least version that the caller accepts."""


class ContradictoryRelease(SignatureError):
    """Files of one release say different things."""


@dataclass(frozen=True)
class SignedBundle:
    """A bundle, what a trusted key or identity signed of it, and its record."""

    bundle: OpenBundle
    listing: SignedListing
    record: ReleaseRecord

    @property
    def path(self) -> Path:
        return self.bundle.path

    def read(self, name: str) -> bytes:
        """The signed bytes of a file. Raises `ListingMismatch` for others, and `ArtifactError`."""
        return read_signed(self.bundle, self.listing, name)

    def released(self, target: str) -> ReleasedTarget | None:
        """What `release.json` says of a target. None if it is not in the release."""
        for released in self.record.targets:
            if released.target == target:
                return released
        return None

    def manifest(self, released: ReleasedTarget) -> Manifest:
        """The manifest of a target, from signed bytes.

        Raises:
            ListingMismatch: it is not the signed one.
            ArtifactError: it cannot be read.
            ContradictoryRelease: it is about another target or package than the release says.
        """
        name = f"{layout.artifact_path(released.target)}/{MANIFEST}"
        manifest = parse_manifest_of(released.target, self.read(name), str(self.path / name))
        package = f"{layout.artifact_path(released.target)}/{MODEL}"
        signed = self.listing.files.get(package)
        digests = (manifest.files[MODEL].sha256, released.package_sha256)
        if any(digest != signed for digest in digests):
            raise ContradictoryRelease(
                "the release names different packages",
                target=released.target,
                where=str(self.path),
                cause=f"signed is {signed}, the manifest and {layout.RELEASE} have"
                f" {' and '.join(digests)}",
                hint=ASK_SENDER,
            )
        return manifest


def parse_manifest_of(target: str, content: bytes, where: str) -> Manifest:
    """The manifest of a released target in the content of a file.

    Raises `ArtifactError` if it is none, or that of another target.
    """
    manifest = parse_record(content)
    damage = manifest_damage(manifest, target)
    if damage is not None:
        raise ArtifactError(damage.message, target=target, where=where, hint=ASK_AGAIN)
    assert isinstance(manifest, Manifest)
    return manifest


@contextlib.contextmanager
def open_signed(
    path: Path,
    trusted: Trusted,
    min_version: str | None = None,
) -> Iterator[SignedBundle]:
    """Open a bundle, verify its signature, and read its record.

    Other files of the bundle are not compared: `SignedBundle.read` compares what it reads.

    Raises:
        SignatureError: the signature or `release.json` is refused, or it is older than
            `min_version`.
        UsageError: there is no bundle, or `min_version` is no version.
        ArtifactError: the bundle or its record cannot be read.
        ToolchainError: cryptography is not installed.
    """
    with open_bundle(path) as bundle, bundle.shown_in_errors():
        yield signed_bundle(bundle, trusted, min_version)


def signed_bundle(
    bundle: OpenBundle, trusted: Trusted, min_version: str | None = None
) -> SignedBundle:
    """What `open_signed` gives, for a bundle that is open."""
    if min_version is not None:
        read_version(min_version)  # a slip is no fault of the release
    listing = verify_signature(read_signature(bundle.opened), trusted)
    if layout.RELEASE not in listing.files:
        raise ListingMismatch(
            f"what was signed is no release: it has no {layout.RELEASE}",
            where=str(bundle.path),
            hint="name the directory that `invoke release --sign` wrote",
        )
    content = read_signed(bundle, listing, layout.RELEASE)
    record = parse_release(content, str(bundle.path / layout.RELEASE))
    _require_distinct(record, bundle)
    require_version(record, min_version, str(bundle.path))
    return SignedBundle(bundle, listing, record)


def read_signed(bundle: OpenBundle, listing: SignedListing, name: str) -> bytes:
    """The bytes of a file that have the signed digest.

    Raises `ListingMismatch` if the file was never signed or has other bytes, and `ArtifactError` if
    it cannot be read.
    """
    signed = listing.files.get(name)
    if signed is None:
        raise _mismatch(bundle, "never signed", name)
    content = bundle.read(name)
    if digest_bytes(content) != signed:
        raise _mismatch(bundle, "changed since they were signed", name)
    return content


def require_version(record: ReleaseRecord, min_version: str | None, where: str) -> None:
    """Raise `OldRelease` if the release comes before `min_version`.

    Raises `ContradictoryRelease` if its version has no order, and `UsageError` if that is true of
    `min_version`.
    """
    if min_version is None:
        return
    least = read_version(min_version)
    try:
        version = read_version(record.version)
    except UsageError as error:
        raise ContradictoryRelease(
            "the version of the release cannot be compared",
            where=where,
            cause=error.message,
            hint=ASK_SENDER,
        ) from error
    if version < least:
        raise OldRelease(
            f"the release is {record.version[:64]}, and {min_version} or later is required",
            where=where,
            cause="an older release was put in the place of a newer one, or the limit is wrong",
            hint="get the present release; lower the least version only to go back on purpose",
        )


def _require_distinct(record: ReleaseRecord, bundle: OpenBundle) -> None:
    names = [released.target for released in record.targets]
    if len(set(names)) != len(names):
        raise ContradictoryRelease(
            f"{layout.RELEASE} has a target twice", where=str(bundle.path), hint=ASK_SENDER
        )


def _mismatch(bundle: OpenBundle, what: str, name: str) -> ListingMismatch:
    return ListingMismatch(
        f"the files are not the signed ones; {what}: {name!r}",
        where=str(bundle.path),
        hint=ASK_SENDER,
    )
