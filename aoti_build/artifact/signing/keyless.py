"""Keyless signatures: whether a required identity made them. No network is used.

An identity provider vouches for a person or a CI job. Sigstore then issues a certificate for ten
minutes, and two public logs record the certificate and the signature. The signature file has all of
that. The library sigstore verifies it against a trusted root, a file with the keys of these
services. This module reads nothing of what is signed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from aoti_build.artifact.signing.bundle import KeylessMaterial
from aoti_build.artifact.signing.dsse import PAYLOAD_TYPE, Envelope
from aoti_build.artifact.signing.key_files import read_key_file, safe_file, unreadable
from aoti_build.artifact.signing.library import require_sigstore
from aoti_build.artifact.signing.public_keys import PublicKey, public_key_of
from aoti_build.artifact.signing.refusals import (
    ASK_SENDER,
    BadSignature,
    KeyFileError,
    MalformedSignature,
    UnknownIdentity,
    UntrustedCertificate,
)
from aoti_build.artifact.signing.trust import require_outside
from aoti_build.common import fields
from aoti_build.errors import UsageError

if TYPE_CHECKING:
    from cryptography.x509 import Certificate
    from sigstore.models import Bundle
    from sigstore.verify import Verifier

# The library has the trusted root of the public instance under the address of its repository.
_PUBLIC_INSTANCE = "https://tuf-repo-cdn.sigstore.dev"
_NEWER_ROOT = (
    "a signature that is newer than the trusted root needs a newer one: pip install --upgrade"
    " sigstore, or --trusted-root FILE"
)
_MOST_LINES = 3
_MOST_CHARACTERS = 400


@dataclass(frozen=True)
class TrustedIdentity:
    """Who must have signed: `identity`, for whom `provider` must have vouched.

    `identity` is the whole name in the certificate: an address of e-mail, or the URI of a CI job.
    `provider` is the URL of the identity provider. `verifier` has the trusted root.
    """

    identity: str
    provider: str
    verifier: Verifier = field(repr=False, compare=False)


def read_trusted_identity(
    identity: str,
    provider: str,
    *,
    trusted_root: Path | None = None,
    release: Path | None = None,
) -> TrustedIdentity:
    """An identity whose keyless signature is required.

    `trusted_root` is a file with the keys of a Sigstore instance, as its repository has it. Without
    one, that of the public instance counts which the installed library ships. `release` is the
    directory to verify: a trusted root from there proves nothing.

    Raises:
        UsageError: a name is empty.
        KeyFileError: the trusted root cannot be used, or others could have written it.
        ToolchainError: sigstore is not installed.
    """
    if not identity or not provider:
        raise UsageError(
            "an identity and its provider must be named",
            hint="name both, such as release@example.com and https://accounts.google.com",
        )
    require_sigstore()
    return TrustedIdentity(identity, provider, _verifier(trusted_root, release))


def require_signed_by(
    material: KeylessMaterial,
    envelope: Envelope,
    trusted: TrustedIdentity,
) -> PublicKey:
    """The key of a keyless signature, after the required identity was found to have made it.

    Raises:
        MalformedSignature: the library does not read the same from the file.
        UnsupportedSignature: the key has an algorithm that is not accepted.
        UntrustedCertificate: no authority in the trusted root issued the certificate, or it was
            not valid at the time in the log.
        UnknownIdentity: another identity signed, or another provider vouched for it.
        BadSignature: the signature is not valid, or a log does not have it.
    """
    bundle = _parsed(material.text)
    with _refusals():
        key = public_key_of(bundle.signing_certificate.public_key(), "the certificate")
        signed = trusted.verifier.verify_dsse(bundle, _Policy(trusted))
    # The library has read the file for itself. What it verified must be what is parsed next.
    if signed != (PAYLOAD_TYPE, envelope.payload):
        raise _malformed("the statement has two readings")
    return key


@dataclass(frozen=True)
class _Policy:
    """What the library asks about a certificate that a trusted authority issued."""

    trusted: TrustedIdentity

    def verify(self, cert: Certificate) -> None:
        """Raise `UnknownIdentity` unless the certificate names the required identity."""
        from sigstore.errors import VerificationError
        from sigstore.verify import policy

        try:
            policy.OIDCIssuer(self.trusted.provider).verify(cert)
        except VerificationError as error:
            raise UnknownIdentity(
                "another identity provider than the required one vouched for the signer",
                cause=str(error),
                hint="compare --identity-provider with what the publisher says",
            ) from error
        try:
            policy.Identity(identity=self.trusted.identity).verify(cert)
        except VerificationError as error:
            raise UnknownIdentity(
                "the release is signed by another identity than the required one",
                cause=str(error),
                hint="compare --identity with what the publisher says; it is the whole name",
            ) from error


def _parsed(text: bytes) -> Bundle:
    """The signature file as the library reads it. Raises `MalformedSignature`."""
    from sigstore.models import Bundle

    with _refusals():
        bundle = Bundle.from_json(text)
        written = bundle.to_json()
    # The library also takes other texts for the same bytes and numbers, and other names of fields.
    if fields.loads(written) != fields.loads(text):
        raise _malformed("it is not written as Sigstore's clients write it")
    return bundle


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    """Raise what the library raises for a signature that it refuses as an error of ours."""
    from sigstore.errors import CertValidationError
    from sigstore.models import InvalidBundle

    try:
        yield
    except InvalidBundle as error:
        raise _malformed(first_lines(error)) from error
    except CertValidationError as error:
        raise UntrustedCertificate(
            "no authority in the trusted root issued the signer's certificate for that time",
            cause=first_lines(error),
            hint=f"{ASK_SENDER}; {_NEWER_ROOT}",
        ) from error
    except _errors_of_content() as error:
        raise BadSignature(
            "the keyless signature is not valid",
            cause=first_lines(error),
            hint=f"{ASK_SENDER}; {_NEWER_ROOT}",
        ) from error


def _errors_of_content() -> tuple[type[Exception], ...]:
    """What the library raises for the content of a signature file.

    It takes some fields for what they should be, so that hostile content leads to other exceptions
    than its own.
    """
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from sigstore.errors import Error

    of_python = (ArithmeticError, AttributeError, LookupError, OSError, TypeError, ValueError)
    of_cryptography = (
        UnsupportedAlgorithm,
        x509.DuplicateExtension,
        x509.ExtensionNotFound,
        x509.InvalidVersion,
        x509.UnsupportedGeneralNameType,
    )
    return (Error, *of_cryptography, *of_python)


def _verifier(trusted_root: Path | None, release: Path | None) -> Verifier:
    from sigstore.errors import Error
    from sigstore.models import TrustedRoot
    from sigstore.verify import Verifier

    path = trusted_root or _shipped_root()
    try:
        if trusted_root is not None:
            require_outside(trusted_root, release)
            read_key_file(trusted_root)
            path = safe_file(trusted_root)
        return Verifier(trusted_root=TrustedRoot.from_file(str(path)))
    except OSError as error:
        raise unreadable(path, error) from error
    except (Error, ValueError) as error:
        raise KeyFileError(
            "the trusted root cannot be read",
            where=str(path),
            cause=first_lines(error),
            hint="name the trusted_root.json of a Sigstore instance",
        ) from error


def _shipped_root() -> Path:
    """The trusted root of the public instance, in the installed library.

    The library itself would look into the home directory first, where a file may be old, and which
    the environment names.
    """
    import sigstore

    store = Path(sigstore.__file__).parent / "_store"
    return store / quote(_PUBLIC_INSTANCE, safe="") / "trusted_root.json"


def first_lines(error: BaseException) -> str:
    """The beginning of an error's text. Some libraries quote the whole input."""
    text = "\n".join(str(error).splitlines()[:_MOST_LINES])
    return text[:_MOST_CHARACTERS] or type(error).__name__


def _malformed(cause: str) -> MalformedSignature:
    return MalformedSignature("the signature file is malformed", cause=cause, hint=ASK_SENDER)
