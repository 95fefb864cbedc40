"""`release-pull`: downloads a release from a registry, whole or not at all.

Each file is compared with the manifest while it arrives. With a public key the signature is checked
before any other file is downloaded, and the files against it before the directory gets its name.
`release.json` comes next. Its sizes are those of the signer, so that no registry can have more
written than the release has.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from aoti_build.artifact.bundle import layout
from aoti_build.artifact.bundle.record import ReleaseRecord
from aoti_build.artifact.signing.compare import compare_directory
from aoti_build.artifact.signing.refusals import ASK_SENDER, ListingMismatch, NoSignature, some
from aoti_build.artifact.signing.trust import TrustedKeys, read_trusted_keys
from aoti_build.artifact.signing.verify import SignedListing, read_signature, verify_signature
from aoti_build.commands.conclusion import code_of, head
from aoti_build.commands.release.files import read_record, recorded_modes, require_recorded
from aoti_build.common.digests import digest_bytes
from aoti_build.common.json_object import JsonObject
from aoti_build.common.publication import publish_new_directory, staging
from aoti_build.common.reading import RECORD_LIMIT
from aoti_build.common.writing import NO_SPACE
from aoti_build.errors import AotiBuildError, ArtifactError, UsageError
from aoti_build.registry.client import PULL, Registry
from aoti_build.registry.oci_manifest import ReleaseLayer, parse_manifest
from aoti_build.registry.reference import Reference, parse_reference

# Receives a line for each file.
OnLine = Callable[[str], None]


@dataclass(frozen=True)
class PullReport:
    """A release that was downloaded.

    Attributes:
        reference: as the user named it.
        digest: of its manifest, with ``sha256:``.
        directory: as the user named it.
        record: of the release.
        files: how many files it has.
        size: the bytes of all.
        signed: whether it has a signature.
        signer: the name of the trusted key whose signature was verified. None if none was asked
            for.
    """

    reference: Reference
    digest: str
    directory: str
    record: ReleaseRecord
    files: int
    size: int
    signed: bool
    signer: str | None

    @property
    def error(self) -> AotiBuildError | None:
        """None: a pull that fails raises an error."""
        return None

    @property
    def exit_code(self) -> int:
        return code_of(self.error)

    def as_json(self) -> JsonObject:
        return {
            **head("aoti-build/release-pull", 1),
            "reference": str(self.reference),
            "digest": self.digest,
            "pinned": str(self.reference.pinned(self.digest)),
            "directory": self.directory,
            "version": self.record.version,
            "files": self.files,
            "size": self.size,
            "signed": self.signed,
            "signer": self.signer,
        }


def pull(
    address: str,
    directory: str,
    *,
    public_keys: Sequence[str] = (),
    insecure: bool = False,
    on_line: OnLine = lambda line: None,
) -> PullReport:
    """Download the release at `address` to `directory`, which must not exist.

    `public_keys` are files, and directories of files, with keys and certificates of which one must
    have signed the release. With `insecure` the registry is asked over http.

    Raises:
        UsageError: the address or a key is wrong, there is nothing at the address, the registry
            refuses access, or `directory` exists or cannot be written.
        ArtifactError: what is there is no release, or not what its manifest says.
        SignatureError: no trusted key signed it.
        NetworkError: the registry cannot be reached, or fails.
    """
    reference = parse_reference(address)
    final = Path(os.path.abspath(directory))
    if os.path.lexists(final):
        raise UsageError(
            f"{directory} is there already, and a pull replaces nothing",
            hint="remove it, or name another directory with --out",
        )
    trusted = None
    if public_keys:
        trusted = read_trusted_keys([Path(name) for name in public_keys], release=final)
    registry = Registry(reference, PULL, insecure=insecure)
    content = _manifest(registry, reference)
    layers = {layer.path: layer for layer in parse_manifest(content, str(reference))}
    puller = _Puller(registry, reference, layers, on_line)
    try:
        with staging(final.parent, f".{final.name}.") as staged:
            record, signer = puller.fetch(staged, trusted)
            puller.publish(staged, final, record)
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
        directory=directory,
        record=record,
        files=len(layers),
        size=sum(layer.size for layer in layers.values()),
        signed=layout.SIGNATURE in layers,
        signer=signer,
    )


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


@dataclass(frozen=True)
class _Puller:
    """Downloads the files that a manifest lists, by their paths."""

    registry: Registry
    reference: Reference
    layers: Mapping[str, ReleaseLayer]
    on_line: OnLine

    def fetch(self, staged: Path, trusted: TrustedKeys | None) -> tuple[ReleaseRecord, str | None]:
        """Download all files into a private directory. Returns the record and the name of the
        signer.

        Without `trusted` no signature is verified, and the name is None.
        """
        self._require_small()
        present: set[str] = set()
        listing = None
        if trusted is not None:
            listing = self._signed(staged, trusted)
            present.add(layout.SIGNATURE)
        record = self._record(staged)
        present.add(layout.RELEASE)
        for layer in self.layers.values():
            if layer.path not in present:
                self._download(layer, staged)
        if listing is None:
            return record, None
        compare_directory(listing, staged)
        return record, listing.signer.name

    def publish(self, staged: Path, final: Path, record: ReleaseRecord) -> None:
        """Give the directory its name, and the files the modes of the record."""
        modes = recorded_modes(record, str(self.reference))
        publish_new_directory(staged, final, umask=layout.UMASK, modes=modes)

    def _record(self, staged: Path) -> ReleaseRecord:
        """Download `release.json` alone, and compare the manifest with it."""
        where = str(self.reference)
        if layout.RELEASE in self.layers:
            self._download(self.layers[layout.RELEASE], staged)
        record = read_record(staged, where)
        require_recorded(record, self.layers.values(), where)
        return record

    def _require_small(self) -> None:
        """Raise `ArtifactError` if a file is too large of which the record has no size."""
        for path in sorted(layout.UNLISTED & self.layers.keys()):
            size = self.layers[path].size
            if size > RECORD_LIMIT:
                raise ArtifactError(
                    f"{path} of the release is too large",
                    where=str(self.reference),
                    cause=f"the manifest gives it {size} bytes",
                    hint="push the release again, or pull it from another registry",
                )

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
