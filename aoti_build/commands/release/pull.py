"""`release-pull`: downloads a release from a registry, whole or not at all.

The first downloads are the signature, if a public key is named, and `release.json`. Both must list
the files of the manifest before any other is downloaded. Each file is compared with the manifest
while it arrives, and with the signature before the directory gets its name.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from aoti_build.artifact.bundle import layout
from aoti_build.artifact.bundle.record import ReleaseRecord
from aoti_build.artifact.bundle.signed import require_version
from aoti_build.artifact.bundle.versions import read_version
from aoti_build.artifact.signing.compare import compare_directory
from aoti_build.artifact.signing.refusals import ASK_SENDER, ListingMismatch, NoSignature, some
from aoti_build.artifact.signing.trust import TrustedKeys, read_trusted_keys, revoked_file
from aoti_build.artifact.signing.verify import SignedListing, read_signature, verify_signature
from aoti_build.commands.conclusion import head
from aoti_build.commands.release.files import read_record, recorded_modes, require_recorded
from aoti_build.commands.release.stored import StoredRelease
from aoti_build.common.digests import digest_bytes
from aoti_build.common.json_object import JsonObject
from aoti_build.common.publication import publish_new_directory, staging
from aoti_build.common.reading import RECORD_LIMIT
from aoti_build.common.writing import NO_SPACE
from aoti_build.errors import ArtifactError, UsageError
from aoti_build.registry.client import PULL, Registry
from aoti_build.registry.oci_manifest import ReleaseLayer, parse_manifest
from aoti_build.registry.reference import Reference, parse_reference

# Receives a line for each file.
OnLine = Callable[[str], None]


@dataclass(frozen=True)
class PullReport(StoredRelease):
    """A release that was pulled.

    Attributes:
        directory: as the user named it.
        signed: whether it has a signature.
        signer: the name of the trusted key whose signature was verified. None if none was asked
            for.
    """

    directory: str
    signed: bool
    signer: str | None

    def as_json(self) -> JsonObject:
        return {
            **head("aoti-build/release-pull", 1),
            **self.facts(),
            "directory": self.directory,
            "signed": self.signed,
            "signer": self.signer,
        }


@dataclass(frozen=True)
class _Required:
    """What a release must fulfil: a signature by one of these keys, and a least version."""

    trusted: TrustedKeys
    min_version: str | None


def pull(
    address: str,
    directory: str,
    *,
    public_keys: Sequence[str] = (),
    revoked: str | None = None,
    min_version: str | None = None,
    insecure: bool = False,
    on_line: OnLine = lambda line: None,
) -> PullReport:
    """Download the release at `address` to `directory`, which must not exist.

    `public_keys` are files, and directories of files, with keys and certificates of which one must
    have signed the release. `revoked` is a file with fingerprints of keys that may not.
    `min_version` is the oldest version that is accepted. Both need public keys. With `insecure` the
    registry is asked over http.

    Raises:
        UsageError: the address, a key or an option is wrong, there is nothing at the address, the
            registry refuses access, or `directory` exists or cannot be written.
        ArtifactError: what is there is no release, or not what its manifest says.
        SignatureError: no trusted key signed it, or it is older than `min_version`.
        NetworkError: the registry cannot be reached, or fails.
    """
    reference = parse_reference(address)
    final = Path(os.path.abspath(directory))
    if os.path.lexists(final):
        raise UsageError(
            f"{directory} is there already, and a pull replaces nothing",
            hint="remove it, or name another directory with --out",
        )
    required = _required(public_keys, revoked, min_version, final)
    registry = Registry(reference, PULL, insecure=insecure)
    content = _manifest(registry, reference)
    layers = {layer.path: layer for layer in parse_manifest(content, str(reference))}
    puller = _Puller(registry, reference, layers, on_line)
    try:
        with staging(final.parent, f".{final.name}.") as staged:
            fetched = puller.fetch(staged, required)
            puller.publish(staged, final, fetched.record)
    except OSError as error:
        if error.errno in NO_SPACE:
            raise
        raise UsageError(
            f"{directory} cannot be written",
            cause=error.strerror or str(error),
            hint="name another directory with --out",
        ) from error
    return PullReport(
        reference=reference,
        digest=f"sha256:{digest_bytes(content)}",
        record=fetched.record,
        files=len(layers),
        size=sum(layer.size for layer in layers.values()),
        directory=directory,
        signed=layout.SIGNATURE in layers,
        signer=fetched.signer,
    )


def _required(
    public_keys: Sequence[str],
    revoked: str | None,
    min_version: str | None,
    release: Path,
) -> _Required | None:
    """What the release must fulfil. None without public keys."""
    if public_keys:
        if min_version is not None:
            read_version(min_version)  # a slip is no fault of the release
        paths = [Path(name) for name in public_keys]
        trusted = read_trusted_keys(paths, revoked=revoked_file(revoked), release=release)
        return _Required(trusted, min_version)
    for option, value in (("--revoked", revoked), ("--min-version", min_version)):
        if value is not None:
            raise UsageError(
                f"{option} needs --public-key",
                cause="nothing proves what a release says that is not signed",
                hint="name the public key of whoever signs releases with --public-key FILE",
            )
    return None


def _manifest(registry: Registry, reference: Reference) -> bytes:
    """The manifest at an address. A digest counts more than a tag."""
    content = registry.manifest(reference.digest or reference.tag or "")
    if content is None:
        raise UsageError(
            "the registry has nothing there",
            where=str(reference),
            hint="see that the repository and the tag are right",
        )
    return content


class _Fetched(NamedTuple):
    """The record of a release whose files were downloaded, and the name of its signer."""

    record: ReleaseRecord
    signer: str | None = None


@dataclass(frozen=True)
class _Puller:
    """Downloads the files that a manifest lists, by their paths."""

    registry: Registry
    reference: Reference
    layers: Mapping[str, ReleaseLayer]
    on_line: OnLine

    def fetch(self, staged: Path, required: _Required | None) -> _Fetched:
        """Download all files into a private directory.

        The signature and the record are the first, so that a release that is refused costs no
        more. Without `required` no signature is verified.
        """
        self._require_small()
        listing = self._signed(staged, required.trusted) if required is not None else None
        record = self._record(staged)
        if required is not None:
            require_version(record, required.min_version, str(self.reference))
        for layer in self.layers.values():
            if not (staged / layer.path).exists():
                self._download(layer, staged)
        if listing is None:
            return _Fetched(record)
        compare_directory(listing, staged)
        return _Fetched(record, listing.signer.name)

    def publish(self, staged: Path, final: Path, record: ReleaseRecord) -> None:
        """Give the directory its name, and its files the modes in the record."""
        modes = recorded_modes(record, str(self.reference))
        publish_new_directory(staged, final, umask=layout.UMASK, modes=modes)

    def _require_small(self) -> None:
        """Refuse sizes that no file has whose size is not in the record. Raises `ArtifactError`."""
        for path in sorted(layout.UNLISTED & self.layers.keys()):
            size = self.layers[path].size
            if size > RECORD_LIMIT:
                raise ArtifactError(
                    f"{path} of the release is too large",
                    where=str(self.reference),
                    cause=f"the registry lists it with {size} bytes; {RECORD_LIMIT} are the most",
                    hint=ASK_SENDER,
                )

    def _record(self, staged: Path) -> ReleaseRecord:
        """Download the record, and hold the manifest against it."""
        where = str(self.reference)
        layer = self.layers.get(layout.RELEASE)
        if layer is not None:
            self._download(layer, staged)
        record = read_record(staged, where)
        require_recorded(record, self.layers.values(), where)
        return record

    def _signed(self, staged: Path, trusted: TrustedKeys) -> SignedListing:
        """Download the signature alone, and verify that it is one of the files in the manifest."""
        where = str(self.reference)
        if layout.SIGNATURE not in self.layers:
            raise NoSignature(
                "the release is not signed",
                where=where,
                cause=f"it has no {layout.SIGNATURE}",
                hint="pull a signed release, or omit --public-key if you trust the registry",
            )
        self._download(self.layers[layout.SIGNATURE], staged)
        listing = verify_signature(read_signature(staged), trusted)
        listed = {path: layer.sha256 for path, layer in self.layers.items()}
        del listed[layout.SIGNATURE]
        differing = sorted(
            path
            for path in listed.keys() | listing.files.keys()
            if listed.get(path) != listing.files.get(path)
        )
        if differing:
            raise ListingMismatch(
                f"the manifest lists other files than the signed ones: {some(differing)}",
                where=where,
                hint=ASK_SENDER,
            )
        return listing

    def _download(self, layer: ReleaseLayer, staged: Path) -> None:
        self.on_line(f"download {layer.path}")
        path = staged / layer.path
        path.parent.mkdir(parents=True, exist_ok=True)
        self.registry.download(layer, path)
