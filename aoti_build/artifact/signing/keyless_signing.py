"""Signing without a key: an identity token says who signs, and Sigstore's services confirm it.

A browser is never opened. The token comes from the CI service that runs the command, or from a
file. It is sent to Sigstore's certificate authority, and is in no message.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from aoti_build.artifact.signing.key_files import read_key_file, read_secret_file
from aoti_build.artifact.signing.keyless import TrustedIdentity, first_lines
from aoti_build.artifact.signing.library import require_sigstore
from aoti_build.artifact.signing.refusals import KeyFileError
from aoti_build.artifact.signing.sign import statement_about
from aoti_build.artifact.signing.verify import verify_signature
from aoti_build.common.digests import canonical_json
from aoti_build.errors import NetworkError, SignatureError, UsageError

if TYPE_CHECKING:
    from cryptography.x509 import Certificate
    from sigstore.models import Bundle, ClientTrustConfig
    from sigstore.oidc import IdentityToken

# A token is a signed JSON object (JWT), whose text always begins in this way.
_TOKEN = re.compile(r"eyJ[\w-]*\.[\w-]*\.[\w-]*")
# The extension of a certificate with the URL of the provider, of
# https://github.com/sigstore/fulcio/blob/main/docs/oid-info.md.
_PROVIDER = "1.3.6.1.4.1.57264.1.1"
_REFUSED = range(400, 500)
_LATER = "run the task again later, or sign with a key"


@dataclass(frozen=True)
class Signed:
    """The content of a signature file, who signed, and the URL of who vouched for that."""

    content: bytes
    identity: str
    provider: str


@dataclass(frozen=True)
class KeylessSigner:
    """What signs by an identity token.

    `token_file` has the token. Without it, the CI service that runs this process gives one.
    `trust_config` has the addresses and the keys of a Sigstore instance. Without it, those of the
    public instance are looked up in its repository.
    """

    token_file: Path | None = None
    trust_config: Path | None = None

    def require_ready(self) -> None:
        """Raise an error if a signature could not be made now.

        Raises:
            UsageError: there is no token, or it or the configuration cannot be used.
            NetworkError: the CI service does not answer.
            ToolchainError: sigstore is not installed.
        """
        require_sigstore()
        self._token()
        if self.trust_config is not None:
            _config_in(self.trust_config)

    def sign(self, directory: Path) -> Signed:
        """The signature over all files below a directory, as `sign.sign`. Nothing is written.

        The token is read now, since tokens expire after minutes. The result was verified as
        receivers verify it.

        Raises:
            UnfitFiles: as `sign.sign`.
            UsageError: there is no token, or it is refused.
            NetworkError: a service of Sigstore cannot be reached, fails, or returns no valid
                signature.
        """
        payload = statement_about(directory, self.token_file, "identity token")
        token = self._token()
        with _failures():
            config = self._config()
            bundle = _signed_bundle(config, token, payload)
        content = canonical_json(json.loads(bundle.to_json()))
        return _verified(content, bundle.signing_certificate, config)

    def _token(self) -> IdentityToken:
        from sigstore.oidc import IdentityError, IdentityToken

        if self.token_file is None:
            text, where = _ambient_token(), None
        else:
            text, where = _token_in(self.token_file), str(self.token_file)
        try:
            return IdentityToken(text)
        except IdentityError as error:
            raise UsageError(
                "the identity token cannot be used",
                where=where,
                cause=f"{error}: {error.__cause__}" if error.__cause__ else str(error),
                hint="get a new one for the audience `sigstore`",
            ) from error

    def _config(self) -> ClientTrustConfig:
        from sigstore.models import ClientTrustConfig

        if self.trust_config is None:
            return ClientTrustConfig.production()
        return _config_in(self.trust_config)


def require_no_token(option: str, value: str) -> None:
    """Raise `UsageError`, without the value, if an option got a token in place of a file."""
    if _TOKEN.fullmatch(value):
        raise UsageError(
            f"{option} got a token, and it names a file",
            cause="other users of this host can read the words of a command line",
            hint="write the token into a file that only you can read, and get a new one",
        )


def _ambient_token() -> str:
    """The token that this CI service gives for the audience of Sigstore."""
    from sigstore.oidc import IdentityError, detect_credential

    hint = (
        "in GitHub Actions, give the job `permissions: {id-token: write}`; elsewhere write a token"
        " into a file, and name it with --identity-token-file"
    )
    try:
        with _failures():
            token: str | None = detect_credential()
    except IdentityError as error:
        raise UsageError(
            "this CI service gives no identity token", cause=first_lines(error), hint=hint
        ) from error
    if not token:
        raise UsageError(
            "there is no identity token to sign with",
            cause="this is no CI service that gives one",
            hint=hint,
        )
    return token


def _token_in(path: Path) -> str:
    token = read_secret_file(path, "identity token").decode("ascii", "replace").strip()
    if not token:
        raise KeyFileError("the file has no identity token", where=str(path), hint="get a new one")
    return token


def _config_in(path: Path) -> ClientTrustConfig:
    """The configuration of a Sigstore instance. Raises `KeyFileError`."""
    from sigstore.errors import Error
    from sigstore.models import ClientTrustConfig

    content = read_key_file(path)
    try:
        return ClientTrustConfig.from_json(content.decode())
    except (Error, ValueError) as error:
        raise KeyFileError(
            "the configuration of Sigstore cannot be read",
            where=str(path),
            cause=first_lines(error),
            hint="name a client trust configuration, which has trustedRoot and signingConfig",
        ) from error


def _signed_bundle(config: ClientTrustConfig, token: IdentityToken, payload: bytes) -> Bundle:
    from sigstore.dsse import Statement
    from sigstore.sign import SigningContext

    context = SigningContext.from_trust_config(config)
    with context.signer(token) as signer:
        return signer.sign_dsse(Statement(payload))


def _verified(content: bytes, certificate: Certificate, config: ClientTrustConfig) -> Signed:
    """The signature, after it was verified with the identity in its certificate."""
    from sigstore.verify import Verifier

    identity, provider = _names_in(certificate)
    verifier = Verifier(trusted_root=config.trusted_root)
    try:
        verify_signature(content, TrustedIdentity(identity, provider, verifier))
    except SignatureError as error:
        raise NetworkError(
            "what Sigstore returned is no valid signature",
            cause=f"{error.message}: {error.cause}",
            hint=_LATER,
        ) from error
    return Signed(content, identity, provider)


def _names_in(certificate: Certificate) -> tuple[str, str]:
    """The identity and the provider that a certificate names. Empty where it names none."""
    from cryptography.x509 import (
        ExtensionNotFound,
        ObjectIdentifier,
        OtherName,
        SubjectAlternativeName,
    )

    extensions = certificate.extensions
    try:
        names = extensions.get_extension_for_class(SubjectAlternativeName).value
        issuer = extensions.get_extension_for_oid(ObjectIdentifier(_PROVIDER)).value
    except ExtensionNotFound:
        return "", ""
    for name in names:
        identity = name.value.decode() if isinstance(name, OtherName) else str(name.value)
        return identity, issuer.public_bytes().decode()
    return "", ""


@contextlib.contextmanager
def _failures() -> Iterator[None]:
    """Raise what Sigstore's clients raise as an error of ours."""
    from requests import RequestException
    from sigstore._internal.fulcio.client import FulcioClientError
    from sigstore._internal.rekor import RekorClientError
    from sigstore.errors import Error
    from sigstore.oidc import ExpiredIdentity, IdentityError

    try:
        yield
    except IdentityError:
        raise
    except ExpiredIdentity as error:
        raise UsageError("the identity token has expired", hint="get a new one") from error
    except (RequestException, FulcioClientError, RekorClientError, Error, OSError) as error:
        raise _failure(error) from error
    # The clients take an answer for the JSON that they expect.
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise _failure(error) from error


def _failure(error: Exception) -> UsageError | NetworkError:
    cause = first_lines(error)
    if error.__cause__ is not None:
        cause += f": {first_lines(error.__cause__)}"
    response = getattr(error.__cause__ or error, "response", None)
    if getattr(response, "status_code", 0) in _REFUSED:
        return UsageError(
            "Sigstore refuses to sign for this identity token",
            cause=cause,
            hint="get a new token for the audience `sigstore`, from a provider that it knows",
        )
    return NetworkError(
        "Sigstore did not sign the release",
        cause=cause,
        hint=_LATER,
    )
