"""Verifying a signature: what was signed, and by whom. No file of the release is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TypeAlias

from aoti_build.artifact.signing.bundle import (
    SIGNATURE_LIMIT,
    Bundle,
    ChainMaterial,
    KeylessMaterial,
    KeyMaterial,
    read_bundle,
)
from aoti_build.artifact.signing.certificates import certified_key
from aoti_build.artifact.signing.dsse import Envelope, signed_bytes
from aoti_build.artifact.signing.keyless import TrustedIdentity, require_signed_by
from aoti_build.artifact.signing.library import require_cryptography
from aoti_build.artifact.signing.names import SIGNATURE_NAME
from aoti_build.artifact.signing.public_keys import PublicKey
from aoti_build.artifact.signing.refusals import (
    ASK_SENDER,
    BadSignature,
    NoSignature,
    RevokedKey,
    UnknownIdentity,
    UnknownKey,
    UnreadableSignature,
    UnsupportedSignature,
    UntrustedCertificate,
)
from aoti_build.artifact.signing.statement import read_statement
from aoti_build.artifact.signing.trust import TrustedKeys
from aoti_build.common.reading import read_bytes

# Whose signature is required: one of these keys, or this identity.
Trusted: TypeAlias = "TrustedKeys | TrustedIdentity"


@dataclass(frozen=True)
class Signer:
    """Who signed. `kind` is ``key``, ``certificate`` or, for keyless signatures, ``sigstore``.

    `name` is that of the file with the trusted key or certificate, or the required identity.
    `fingerprint` is the sha256 of the signing key's SubjectPublicKeyInfo. A certificate also has a
    `subject`, and the time until which its signatures are accepted. An identity has the `provider`
    that vouched for it.
    """

    kind: str
    name: str
    fingerprint: str
    subject: str | None = None
    valid_until: datetime | None = None
    provider: str | None = None


@dataclass(frozen=True)
class SignedListing:
    """What a trusted key or identity signed: the sha256 of each file by its relative name.

    `name` is what the directory was called, which proves nothing. `root_digest` is one digest for
    all files, by which other documents may name this content.
    """

    name: str
    files: Mapping[str, str]
    root_digest: str
    signer: Signer


def read_signature(directory: Path, *, signature_name: str = SIGNATURE_NAME) -> bytes:
    """The content of the signature file in a directory.

    Raises:
        NoSignature: there is none.
        UnreadableSignature: it is a link, no regular file, too large, or cannot be read.
    """
    path = directory / signature_name
    try:
        if path.is_symlink():
            raise UnreadableSignature(
                "the signature file is a symbolic link", where=str(path), hint=ASK_SENDER
            )
        return read_bytes(path, SIGNATURE_LIMIT)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NoSignature(
            "the release is not signed",
            where=str(path),
            cause="there is no such file",
            hint="get a signed release, or sign this one if you made it",
        ) from error
    except OSError as error:
        raise UnreadableSignature(
            "the signature file cannot be read",
            where=str(path),
            cause=error.strerror,
            hint=ASK_SENDER,
        ) from error


def verify_signature(
    content: bytes,
    trusted: Trusted,
    *,
    now: datetime | None = None,
) -> SignedListing:
    """What a signature file says, after one of the trusted keys was found to have signed it.

    With a `TrustedIdentity` the signature must be a keyless one by it. The certificates of keys
    must be valid at `now`, or at the present time. `compare_directory` holds files against the
    result.

    Raises:
        MalformedSignature, UnsupportedSignature: the content is not in the format, or uses parts
            of it that are not accepted.
        UnknownKey, UnknownIdentity, UntrustedCertificate: no trusted key or identity signed.
        RevokedKey, ExpiredCertificate: the key is not to be trusted any more, or not at this time.
        BadSignature: the content is not what the key signed.
        ToolchainError: cryptography is not installed.
    """
    require_cryptography()
    bundle = read_bundle(content)
    if isinstance(trusted, TrustedIdentity):
        signer = _keyless_signer(bundle, trusted)
    else:
        signer = _key_signer(bundle, trusted, now)
    # The payload is parsed after it was verified.
    statement = read_statement(bundle.envelope.payload)
    return SignedListing(statement.name, statement.files, statement.root_digest, signer)


def _keyless_signer(bundle: Bundle, trusted: TrustedIdentity) -> Signer:
    """Who signed, which is the required identity. Raises as `verify_signature`."""
    if not isinstance(bundle.material, KeylessMaterial):
        raise UnknownIdentity(
            "the release is signed with a key, and a keyless signature is required",
            cause=f"required: {trusted.identity}, by {trusted.provider}",
            hint="name the public key of the publisher with --public-key instead of --identity",
        )
    key = require_signed_by(bundle.material, bundle.envelope, trusted)
    return Signer("sigstore", trusted.identity, key.fingerprint, provider=trusted.provider)


def _key_signer(bundle: Bundle, trusted: TrustedKeys, now: datetime | None) -> Signer:
    """Who signed, whose key is trusted. Raises as `verify_signature`."""
    if isinstance(bundle.material, KeylessMaterial):
        raise UnsupportedSignature(
            "this is a keyless Sigstore signature, and a signature by a key is required",
            cause=f"trusted: {trusted.described()}",
            hint="`invoke verify --release DIR --identity NAME --identity-provider URL` verifies"
            " it; what loads or pulls with keys needs a release that is signed with a key",
        )
    if isinstance(bundle.material, KeyMaterial):
        key = _trusted_key(bundle.material, trusted)
        signer = Signer("key", key.name, key.fingerprint)
    else:
        key, signer = _certified(bundle.material, trusted, now)
    _require_signed(bundle.envelope, key, signer)
    return signer


def _trusted_key(material: KeyMaterial, trusted: TrustedKeys) -> PublicKey:
    """The trusted key that a signature names. Raises `UnknownKey` or `RevokedKey`."""
    for key in trusted.keys:
        if _names(material, key):
            _require_not_revoked(key, trusted)
            return key
    if material.hint:
        name = f"signed by {material.hint[:128]}"
    else:
        name = "signed by the key that is in the signature"
    raise UnknownKey(
        "the release is signed with a key that is not trusted here",
        cause=f"{name}; trusted: {trusted.described()}",
        hint="if you trust who signed, get their public key on another way and name its file",
    )


def _names(material: KeyMaterial, key: PublicKey) -> bool:
    if material.hint:
        return material.hint in (key.hint, key.fingerprint)
    return material.raw in (key.pem, key.der)


def _certified(
    material: ChainMaterial,
    trusted: TrustedKeys,
    now: datetime | None,
) -> tuple[PublicKey, Signer]:
    if not trusted.certificates:
        raise UntrustedCertificate(
            "the release is signed with a certificate, and no certificate is trusted here",
            cause=f"trusted: {trusted.described()}",
            hint="name a PEM file with the certificate of the authority that issued it",
        )
    certified = certified_key(material.certificates, trusted.certificates, now)
    for on_the_way in certified.way:
        _require_not_revoked(on_the_way, trusted)
    key = certified.key
    signer = Signer(
        kind="certificate",
        name=certified.anchor,
        fingerprint=key.fingerprint,
        subject=certified.subject,
        valid_until=certified.valid_until,
    )
    return key, signer


def _require_not_revoked(key: PublicKey, trusted: TrustedKeys) -> None:
    for name in key.names:
        if name in trusted.revoked:
            raise RevokedKey(
                "the release is signed with a key that was revoked",
                cause=f"{key.name}: {name}",
                hint="get a release that was signed with the present key",
            )


def _require_signed(envelope: Envelope, key: PublicKey, signer: Signer) -> None:
    if key.is_signer_of(signed_bytes(envelope.payload), envelope.signature):
        return
    raise BadSignature(
        "the signature is not valid",
        cause=f"{signer.name} ({signer.fingerprint}) did not sign this content;"
        " it was changed, or is damaged",
        hint=ASK_SENDER,
    )
