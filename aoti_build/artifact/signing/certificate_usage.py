"""What a single certificate may be used for, and who issued it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from aoti_build.artifact.signing.refusals import UntrustedCertificate

if TYPE_CHECKING:
    from cryptography.x509 import Certificate
    from cryptography.x509.extensions import ExtensionType

    _Extension = TypeVar("_Extension", bound=ExtensionType)

_LEAST_RSA_BITS = 2048
_LEAST_CURVE_BITS = 256
_HASHES = ("sha256", "sha384", "sha512")


def is_issued_by(certificate: Certificate, issuer: Certificate) -> bool:
    """Whether `issuer` has the name and the key with which a certificate was signed.

    Weak hashes, short RSA keys, small curves and DSA issue nothing.
    """
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

    try:
        hash_type = certificate.signature_hash_algorithm
        if (
            hash_type is None
            or hash_type.name not in _HASHES
            or not _may_vouch(issuer.public_key())
        ):
            return False
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def require_signing_use(certificate: Certificate) -> None:
    """Raise `UntrustedCertificate` unless the signer's certificate is one to sign code with.

    It must say so by KeyUsage (digitalSignature) or ExtendedKeyUsage (codeSigning). None of the two
    may say otherwise.
    """
    from cryptography.x509 import ExtendedKeyUsage, KeyUsage
    from cryptography.x509.oid import ExtendedKeyUsageOID

    _require_known_extensions(certificate)
    key_usage = _extension(certificate, KeyUsage)
    extended = _extension(certificate, ExtendedKeyUsage)
    if key_usage is None and extended is None:
        raise _may_not(certificate, "sign", "it does not say what it is for")
    if key_usage is not None and not key_usage.digital_signature:
        raise _may_not(certificate, "sign", "its KeyUsage has no digitalSignature")
    if extended is not None and ExtendedKeyUsageOID.CODE_SIGNING not in extended:
        raise _may_not(certificate, "sign", "its ExtendedKeyUsage has no codeSigning")


def require_issuing_use(certificate: Certificate, below_count: int) -> None:
    """Raise `UntrustedCertificate` unless a certificate may issue others.

    `below_count` is the number of issuers between it and the signer's certificate. An
    ExtendedKeyUsage of an authority limits what it issues, as most verifiers have it: one for
    servers issues no certificate for signing code.
    """
    from cryptography.x509 import BasicConstraints, ExtendedKeyUsage, KeyUsage
    from cryptography.x509.oid import ExtendedKeyUsageOID

    _require_known_extensions(certificate)
    constraints = _extension(certificate, BasicConstraints)
    if constraints is None or not constraints.ca:
        raise _may_not(certificate, "issue certificates", "it is not that of an authority")
    most_below = constraints.path_length
    if most_below is not None and below_count > most_below:
        raise _may_not(certificate, "issue certificates", f"only {most_below} may stand below it")
    key_usage = _extension(certificate, KeyUsage)
    if key_usage is not None and not key_usage.key_cert_sign:
        raise _may_not(certificate, "issue certificates", "its KeyUsage has no keyCertSign")
    extended = _extension(certificate, ExtendedKeyUsage)
    if extended is None or ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE in extended:
        return
    if ExtendedKeyUsageOID.CODE_SIGNING not in extended:
        cause = "its ExtendedKeyUsage has no codeSigning"
        raise _may_not(certificate, "issue certificates for signing code", cause)


def _require_known_extensions(certificate: Certificate) -> None:
    from cryptography.x509.oid import ExtensionOID

    known = {
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.KEY_USAGE,
        ExtensionOID.EXTENDED_KEY_USAGE,
        # A name only.
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
    }
    for extension in certificate.extensions:
        if extension.critical and extension.oid not in known:
            cause = f"its critical extension {extension.oid.dotted_string} is not supported"
            raise _may_not(certificate, "be used", cause)


def _extension(certificate: Certificate, kind: type[_Extension]) -> _Extension | None:
    from cryptography.x509 import ExtensionNotFound

    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except ExtensionNotFound:
        return None


def _may_vouch(key: Any) -> bool:
    """Whether a key is of a kind and a size that can vouch for others."""
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

    if isinstance(key, RSAPublicKey):
        return key.key_size >= _LEAST_RSA_BITS
    return isinstance(key, EllipticCurvePublicKey) and key.key_size >= _LEAST_CURVE_BITS


def _may_not(certificate: Certificate, what: str, cause: str) -> UntrustedCertificate:
    return UntrustedCertificate(
        f"the certificate of {certificate.subject.rfc4514_string()} may not {what}",
        cause=cause,
        hint="sign the release with a certificate for signing code",
    )
