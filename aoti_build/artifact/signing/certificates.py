"""Certificates: from the signer's to one that the caller trusts.

The rules are those of RFC 5280, section 6, as far as they say who may sign. A critical extension
that is not judged here is a refusal. All certificates must be valid at the time of verification,
because a signature has no time that anybody else confirmed.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from aoti_build.artifact.signing import certificate_usage as usage
from aoti_build.artifact.signing.key_files import pem_blocks, read_key_file
from aoti_build.artifact.signing.public_keys import PublicKey, public_key_of
from aoti_build.artifact.signing.refusals import (
    ExpiredCertificate,
    KeyFileError,
    MalformedSignature,
    UntrustedCertificate,
)
from aoti_build.common.digests import digest_bytes

if TYPE_CHECKING:
    from cryptography.x509 import Certificate


class TrustedCertificate(NamedTuple):
    """A certificate that the caller trusts, in DER, and the name of its file."""

    name: str
    der: bytes


class CertifiedKey(NamedTuple):
    """The key of a signer whose certificate leads to the trusted one `anchor`.

    `subject` is the signer's name. `valid_until` is when the first certificate on the way expires.
    `way` has all keys on the way, of any algorithm.
    """

    key: PublicKey
    subject: str
    anchor: str
    valid_until: datetime
    way: tuple[PublicKey, ...]


def certified_key(
    chain: Sequence[bytes],
    anchors: Sequence[TrustedCertificate],
    now: datetime | None = None,
) -> CertifiedKey:
    """The signer's key, after the way to a trusted certificate was verified.

    `chain` begins with the signer's certificate. The others may be in any order.

    Raises:
        MalformedSignature: a certificate cannot be read.
        UntrustedCertificate: no way leads to a trusted certificate, or one may not do its part.
        ExpiredCertificate: one is not valid at `now`.
        UnsupportedSignature: the signer's key has another algorithm.
    """
    moment = now or datetime.now(timezone.utc)
    leaf, *others = [_parsed(der) for der in chain]
    way = _way(leaf, others, {anchor.der: anchor.name for anchor in anchors}, moment)
    key = _key_of(leaf)
    usage.require_signing_use(leaf)
    for below_count, certificate in enumerate(way.certificates[1:]):
        usage.require_issuing_use(certificate, below_count)
    for certificate in way.certificates:
        _require_valid(certificate, moment)
    return CertifiedKey(
        key=key,
        subject=subject_of(leaf),
        anchor=way.anchor,
        valid_until=min(certificate.not_valid_after_utc for certificate in way.certificates),
        way=tuple(_any_key_of(certificate) for certificate in way.certificates),
    )


def read_chain(paths: Sequence[Path]) -> tuple[bytes, ...]:
    """The certificates of PEM files in their order, in DER. Raises `KeyFileError`."""
    chain = []
    for path in paths:
        for block in pem_blocks(read_key_file(path), path):
            if block.label != "CERTIFICATE":
                raise KeyFileError(f"there is a {block.label} among certificates", where=str(path))
            chain.append(der_of(block.text, path))
    return tuple(chain)


def der_of(pem: bytes, path: Path) -> bytes:
    """A certificate in DER. Raises `KeyFileError` if it cannot be read."""
    from cryptography.hazmat.primitives.serialization import Encoding
    from cryptography.x509 import load_pem_x509_certificate

    try:
        der = load_pem_x509_certificate(pem).public_bytes(Encoding.DER)
        _parsed(der)
    except (ValueError, MalformedSignature) as error:
        raise KeyFileError(
            "the certificate cannot be read", where=str(path), cause=str(error)
        ) from error
    return der


def require_usable(chain: Sequence[bytes], key: PublicKey, now: datetime | None) -> None:
    """Raise an error if a key's own certificate could not be verified later.

    Raises `KeyFileError` if it is of another key. Otherwise as `certified_key`.
    """
    leaf = _parsed(chain[0])
    if _key_of(leaf).der != key.der:
        raise KeyFileError(
            "the first certificate is not that of the private key",
            where=key.name,
            cause=f"it is of {subject_of(leaf)}",
            hint="name the signer's certificate first",
        )
    usage.require_signing_use(leaf)
    for der in chain:
        _require_valid(_parsed(der), now or datetime.now(timezone.utc))


def subject_of(certificate: Certificate) -> str:
    """The subject's name as text, such as ``CN=release,O=Example``."""
    return certificate.subject.rfc4514_string() or "a certificate without a name"


class _Way(NamedTuple):
    certificates: list[Certificate]
    anchor: str


def _way(
    leaf: Certificate,
    others: list[Certificate],
    anchors: dict[bytes, str],
    moment: datetime,
) -> _Way:
    """The certificates from `leaf` to one in `anchors`, which maps DER to a name."""
    # An authority that renews its certificate keeps its name and key. The one that is valid counts.
    trusted = _valid_first([_parsed(der) for der in anchors], moment)
    way = [leaf]
    remaining = _valid_first(others, moment)
    while True:
        current = way[-1]
        der = _der(current)
        if der in anchors:
            return _Way(way, anchors[der])
        # A trusted issuer first: the way is then the shortest.
        issuer = _issuer_of(current, trusted) or _issuer_of(current, remaining)
        if issuer is None:
            raise UntrustedCertificate(
                "the signer's certificate leads to none that is trusted",
                cause=f"nobody here vouches for {subject_of(current)},"
                f" issued by {current.issuer.rfc4514_string()}",
                hint="check who signed, and trust the certificate of that authority",
            )
        if issuer in remaining:
            remaining.remove(issuer)
        way.append(issuer)


def _issuer_of(certificate: Certificate, candidates: Sequence[Certificate]) -> Certificate | None:
    for candidate in candidates:
        if usage.is_issued_by(certificate, candidate):
            return candidate
    return None


def _valid_first(certificates: Sequence[Certificate], moment: datetime) -> list[Certificate]:
    return sorted(certificates, key=lambda certificate: not _is_valid(certificate, moment))


def _is_valid(certificate: Certificate, moment: datetime) -> bool:
    return certificate.not_valid_before_utc <= moment <= certificate.not_valid_after_utc


def _require_valid(certificate: Certificate, moment: datetime) -> None:
    if _is_valid(certificate, moment):
        return
    begin = certificate.not_valid_before_utc
    end = certificate.not_valid_after_utc
    raise ExpiredCertificate(
        f"the certificate of {subject_of(certificate)} is not valid now",
        cause=f"it is valid from {begin:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC,"
        f" and it is {moment:%Y-%m-%d %H:%M}",
        hint="check the clock, or get a release that was signed with a valid certificate",
    )


def _parsed(der: bytes) -> Certificate:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.x509 import (
        DuplicateExtension,
        InvalidVersion,
        UnsupportedGeneralNameType,
        load_der_x509_certificate,
    )

    try:
        certificate = load_der_x509_certificate(der)
        # These are parsed when they are asked for.
        _ = certificate.extensions, certificate.subject, certificate.issuer
        _ = certificate.public_key(), certificate.not_valid_before_utc
        _ = certificate.not_valid_after_utc
    except (
        ValueError,
        KeyError,  # this and the next one: a name with an odd type of text
        TypeError,
        UserWarning,  # where warnings are errors: a serial number that is not positive
        DuplicateExtension,
        InvalidVersion,
        UnsupportedAlgorithm,
        UnsupportedGeneralNameType,
    ) as error:
        raise MalformedSignature("a certificate cannot be read", cause=str(error)) from error
    return certificate


def _key_of(certificate: Certificate) -> PublicKey:
    return public_key_of(certificate.public_key(), "the certificate")


def _der(certificate: Certificate) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.DER)


def _any_key_of(certificate: Certificate) -> PublicKey:
    """The key of a certificate, also one of an algorithm that may not sign a release."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    public = certificate.public_key()
    der = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    # As `openssl x509 -fingerprint -sha256` and `sha256sum` print them.
    encodings = (Encoding.DER, Encoding.PEM)
    digests = [digest_bytes(certificate.public_bytes(encoding)) for encoding in encodings]
    return PublicKey(f"the key of {subject_of(certificate)}", der, tuple(digests))
