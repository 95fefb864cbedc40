"""The key that signs, with its certificates if it has any."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from aoti_build.artifact.signing import certificates as certificate_rules
from aoti_build.artifact.signing.bundle import ChainMaterial, KeyMaterial
from aoti_build.artifact.signing.key_files import pem_blocks, read_secret_file
from aoti_build.artifact.signing.library import require_cryptography
from aoti_build.artifact.signing.public_keys import ACCEPTED, PublicKey, ecdsa, public_key_of
from aoti_build.artifact.signing.refusals import KeyFileError
from aoti_build.common.secrets import withhold
from aoti_build.errors import SignatureError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

_PLAIN = "PRIVATE KEY"
_ENCRYPTED = "ENCRYPTED PRIVATE KEY"


@dataclass(frozen=True)
class SigningKey:
    """A private key from the file `path`. Its secret is in no text of it.

    `chain` has certificates in DER: the signer's, then those that lead to a root. Without them the
    signature is of the kind `key`.
    """

    path: Path
    public: PublicKey
    chain: tuple[bytes, ...]
    secret: EllipticCurvePrivateKey = field(repr=False)

    @property
    def material(self) -> KeyMaterial | ChainMaterial:
        """What the signature says about its signer."""
        if self.chain:
            return ChainMaterial(self.chain)
        return KeyMaterial(self.public.hint, b"")

    def sign(self, message: bytes) -> bytes:
        """The signature over a message. It is the same for the same message where that is possible.

        It is then possible to make the same release twice.
        """
        from cryptography.exceptions import UnsupportedAlgorithm

        curve = self.secret.curve
        try:
            return self.secret.sign(message, ecdsa(curve, deterministic=True))
        except UnsupportedAlgorithm:  # OpenSSL before 3.2
            return self.secret.sign(message, ecdsa(curve))


def read_signing_key(
    path: Path,
    *,
    passphrase_variable: str | None = None,
    certificates: Sequence[Path] = (),
    now: datetime | None = None,
) -> SigningKey:
    """The private key in a PEM file (PKCS #8), for signatures of the kind `key`.

    `passphrase_variable` names the environment variable with the passphrase of an encrypted key.
    With `certificates`, PEM files of which the first begins with the signer's certificate, the
    signatures are of the kind `certificate`. `now` is the time at which it must be valid.
    Workers that this process starts later do not get that variable.

    Raises:
        KeyFileError: a file cannot be used, or other users can read the private key.
        SignatureError: the certificate may not sign, or is not valid now.
        ToolchainError: cryptography is not installed.
    """
    require_cryptography()
    content = read_secret_file(path, "private key")
    secret = _load_secret(path, content, _passphrase(passphrase_variable))
    try:
        public = public_key_of(secret.public_key(), path.name)
    except SignatureError as error:
        raise KeyFileError(
            "the private key is of a kind that is not accepted",
            where=str(path),
            cause=error.cause,
            hint=f"make {ACCEPTED}: openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256",
        ) from error
    chain: tuple[bytes, ...] = ()
    if certificates:
        chain = certificate_rules.read_chain(certificates)
        certificate_rules.require_usable(chain, public, now)
    return SigningKey(path.absolute(), public, chain, secret)


def _passphrase(variable: str | None) -> bytes | None:
    if variable is None:
        return None
    text = os.environ.get(variable)
    if not text:
        raise KeyFileError(
            f"the environment variable {variable} has no passphrase",
            hint=f"set {variable}, or name another variable",
        )
    # A release builds and runs models after this.
    withhold(variable)
    return text.encode(errors="surrogateescape")


def _load_secret(path: Path, content: bytes, passphrase: bytes | None) -> EllipticCurvePrivateKey:
    """The private key in the content of a file. Its type is not checked yet."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    _require_block(path, content, passphrase)
    try:
        return load_pem_private_key(content, passphrase)  # type: ignore[return-value]
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        hint = None
        if passphrase is not None:
            hint = "check the passphrase"
        raise KeyFileError(
            "the private key cannot be read", where=str(path), cause=str(error), hint=hint
        ) from error


def _require_block(path: Path, content: bytes, passphrase: bytes | None) -> None:
    """Raise `KeyFileError` unless there is one private key, encrypted if there is a passphrase."""
    labels = [block.label for block in pem_blocks(content, path)]
    if labels == [_PLAIN] and passphrase is None:
        return
    if labels == [_ENCRYPTED] and passphrase is not None:
        return
    if labels == [_PLAIN]:
        cause = "it is not encrypted, and a variable with a passphrase was named"
        hint = f"openssl pkcs8 -topk8 -in {path} -out encrypted.pem encrypts it"
    elif labels == [_ENCRYPTED]:
        cause = "it is encrypted"
        hint = "name the environment variable that has its passphrase: --sign-passphrase VARIABLE"
    elif not any(label.endswith(_PLAIN) for label in labels):
        cause = f"it has {', '.join(labels)}"
        hint = "name the file with the private key"
    else:
        cause = f"it has {', '.join(labels)}"
        hint = f"openssl pkcs8 -topk8 -nocrypt -in {path} -out key.pem writes one private key"
    raise KeyFileError(
        "the file is not a private key that can be used", where=str(path), cause=cause, hint=hint
    )
