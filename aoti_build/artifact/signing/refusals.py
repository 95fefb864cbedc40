"""Why a signature, or what it signs, is refused. Each reason is a class of its own.

All have the exit code of an unfit artifact. Nothing of the release was loaded.
"""

from __future__ import annotations

from collections.abc import Sequence

from aoti_build.errors import SignatureError, UsageError

ASK_SENDER = "ask whoever published the release for an intact copy"
_MOST_SHOWN = 5


class NoSignature(SignatureError):
    """There is no signature file."""


class UnreadableSignature(SignatureError):
    """The signature file is a link, no regular file, too large, or cannot be read."""


class MalformedSignature(SignatureError):
    """The content is not what the format says."""


class UnsupportedSignature(SignatureError):
    """The format knows this kind of signature, predicate or algorithm. This release refuses it."""


class UnknownKey(SignatureError):
    """No trusted key made the signature."""


class UnknownIdentity(SignatureError):
    """The required identity did not make the signature."""


class UntrustedCertificate(SignatureError):
    """The certificate leads to no trusted one, or may not be used to sign."""


class RevokedKey(SignatureError):
    """The key is on the list of revoked keys."""


class ExpiredCertificate(SignatureError):
    """A certificate is not valid at this time."""


class BadSignature(SignatureError):
    """The key is trusted, and the signature is not by this key over this content."""


class UnfitFiles(SignatureError):
    """A directory has what no release may have: links, devices, odd names, empty directories."""


class ListingMismatch(SignatureError):
    """The files of a directory are not the signed ones."""


class ModeMismatch(SignatureError):
    """The permissions of files are not the recorded ones."""


class KeyFileError(UsageError):
    """A file with a key, a certificate or revocations cannot be used."""


def some(names: Sequence[str]) -> str:
    """The first few names in quotes, and how many there are more."""
    shown = ", ".join(repr(name) for name in names[:_MOST_SHOWN])
    hidden_count = len(names) - _MOST_SHOWN
    if hidden_count > 0:
        return f"{shown} and {hidden_count} more"
    return shown
