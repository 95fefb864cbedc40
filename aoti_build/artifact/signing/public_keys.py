"""Public keys: ECDSA on the curves of the OMS algorithm registry, and no others."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any, NamedTuple

from aoti_build.artifact.signing.refusals import UnsupportedSignature
from aoti_build.common.digests import digest_bytes

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurve

# Curve -> the hash that goes with it. The key alone decides, so that no file can ask for a weaker
# one.
_HASHES = {"secp256r1": "SHA256", "secp384r1": "SHA384", "secp521r1": "SHA512"}
ACCEPTED = "an elliptic-curve key on P-256, P-384 or P-521"
_PEM_LINE = 64


class PublicKey(NamedTuple):
    """A public key and where it is from. `der` is its SubjectPublicKeyInfo.

    `further_names` has other digests by which it may be revoked: those of its certificate.
    """

    name: str
    der: bytes
    further_names: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> str:
        """The sha256 of the SubjectPublicKeyInfo, 64 hex digits."""
        return digest_bytes(self.der)

    @property
    def hint(self) -> str:
        """The sha256 of the key's PEM text, by which signatures name it (``sha256sum key.pem``)."""
        return digest_bytes(self.pem)

    @property
    def names(self) -> tuple[str, ...]:
        """All digests that mean this key. A list of revoked keys may have any of them."""
        return self.fingerprint, self.hint, *self.further_names

    @property
    def pem(self) -> bytes:
        text = base64.b64encode(self.der).decode()
        lines = [text[start : start + _PEM_LINE] for start in range(0, len(text), _PEM_LINE)]
        body = "\n".join(lines)
        return f"-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n".encode()

    def is_signer_of(self, message: bytes, signature: bytes) -> bool:
        """Whether `signature` is this key's over `message`."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.serialization import load_der_public_key

        key: Any = load_der_public_key(self.der)
        try:
            key.verify(signature, message, ecdsa(key.curve))
        except InvalidSignature:
            return False
        return True


def public_key_of(key: object, name: str) -> PublicKey:
    """The public key in an object of cryptography. `name` says where it is from.

    Raises `UnsupportedSignature` for another algorithm or curve.
    """
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    if not isinstance(key, EllipticCurvePublicKey):
        raise _refused(name, f"its type is {type(key).__name__}")
    if key.curve.name not in _HASHES:
        raise _refused(name, f"its curve is {key.curve.name}")
    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return PublicKey(name, der)


def ecdsa(curve: EllipticCurve, *, deterministic: bool = False) -> ECDSA:
    """How keys on this curve sign.

    A deterministic signature (RFC 6979) is the same for the same content. Raises
    cryptography's `UnsupportedAlgorithm` if its OpenSSL cannot make one.
    """
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA

    hash_type = getattr(hashes, _HASHES[curve.name])
    return ECDSA(hash_type(), deterministic_signing=deterministic)


def _refused(name: str, cause: str) -> UnsupportedSignature:
    return UnsupportedSignature(
        f"{name} has a key that is not accepted",
        cause=cause,
        hint=f"sign with {ACCEPTED}",
    )
