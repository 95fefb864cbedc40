"""Whom the caller trusts: public keys, root certificates, and what was revoked."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from aoti_build.artifact.signing.certificates import TrustedCertificate, der_of
from aoti_build.artifact.signing.key_files import Block, pem_blocks, read_key_file
from aoti_build.artifact.signing.library import require_cryptography
from aoti_build.artifact.signing.public_keys import PublicKey, public_key_of
from aoti_build.artifact.signing.refusals import KeyFileError
from aoti_build.common.digests import digest_bytes
from aoti_build.errors import SignatureError

# Trusted by all users of a host, if root made it.
SYSTEM_KEYS = Path("/etc/aoti_build/trusted-keys")
# A file of this name in a directory of keys has the fingerprints that are not trusted any more.
REVOKED = "revoked"
_SUFFIX = ".pem"
_FINGERPRINT = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class TrustedKeys:
    """Public keys and certificates that may vouch for a release.

    `revoked` has the fingerprints of keys that may not, or other `PublicKey.names`.
    """

    keys: tuple[PublicKey, ...] = ()
    certificates: tuple[TrustedCertificate, ...] = ()
    revoked: frozenset[str] = frozenset()

    def described(self) -> str:
        """The names of all, and the digests by which signatures name keys, for messages."""
        texts = [f"{key.name} ({key.hint})" for key in self.keys]
        texts += [f"certificates in {certificate.name}" for certificate in self.certificates]
        return ", ".join(texts)


def read_trusted_keys(
    paths: Sequence[Path],
    *,
    revoked: Path | None = None,
    release: Path | None = None,
) -> TrustedKeys:
    """The keys and certificates in PEM files, and in the ``.pem`` files of directories.

    `revoked` is a file with fingerprints, one a line. A directory may have one with the name
    ``revoked``. `release` is the directory to verify: a key from there proves nothing.

    Raises:
        KeyFileError: a file cannot be used, others could have written it, or there is no key.
        ToolchainError: cryptography is not installed.
    """
    require_cryptography()
    files: list[Path] = []
    lists = [revoked] if revoked else []
    for path in paths:
        require_outside(path, release)
        if path.is_dir():
            _add_directory(path, files, lists)
        else:
            files.append(path)
    keys: list[PublicKey] = []
    certificates: list[TrustedCertificate] = []
    held: dict[str, set[str]] = {}
    for file in files:
        require_outside(file, release)
        _add_file(file, keys, certificates, held)
    if not keys and not certificates:
        raise KeyFileError(
            "no trusted key was found",
            where=", ".join(map(str, paths)) or None,
            hint="name a PEM file with the public key of whoever signs releases",
        )
    fingerprints: set[str] = set()
    for file in lists:
        require_outside(file, release)
        fingerprints |= _fingerprints_in(file)
    for file_digest in fingerprints & held.keys():
        fingerprints |= held[file_digest]
    return TrustedKeys(tuple(keys), tuple(certificates), frozenset(fingerprints))


def system_trusted_keys(
    *,
    revoked: Path | None = None,
    release: Path | None = None,
) -> TrustedKeys:
    """The keys of this host, which root put into `SYSTEM_KEYS`.

    Arguments and errors are those of `read_trusted_keys`.
    """
    try:
        entries = [SYSTEM_KEYS, *sorted(SYSTEM_KEYS.iterdir())]
        owners = {path: path.stat().st_uid for path in entries}
    except OSError as error:
        raise KeyFileError(
            "this host has no directory of trusted keys",
            where=str(SYSTEM_KEYS),
            cause=error.strerror,
            hint="name the public key of whoever signs releases, or let root make that directory",
        ) from error
    for path, owner in owners.items():
        if owner != 0:
            raise KeyFileError(
                "the trusted keys of this host must be root's",
                where=str(path),
                cause=f"it belongs to user {owner}",
                hint=f"chown root {path}, if you trust what it holds",
            )
    return read_trusted_keys([SYSTEM_KEYS], revoked=revoked, release=release)


def revoked_file(text: str | None) -> Path | None:
    """The file that an option ``--revoked`` names; None without one. Raises `KeyFileError`."""
    if text is None:
        return None
    if not text:
        # The value of a variable that is not set must not mean that nothing is revoked.
        raise KeyFileError(
            "--revoked names no file",
            cause="its value is empty",
            hint="name a file with the fingerprints that are not trusted any more, one a line",
        )
    return Path(text).absolute()


def _add_directory(directory: Path, files: list[Path], lists: list[Path]) -> None:
    """Add the files of a directory of keys. A name that is not understood may be a slip."""
    try:
        names = sorted(os.listdir(directory))
    except OSError as error:
        raise KeyFileError(
            "the directory of keys cannot be read", where=str(directory), cause=error.strerror
        ) from error
    for name in names:
        # What mounts secrets into a container keeps hidden entries next to them.
        if name.startswith("."):
            continue
        if name == REVOKED:
            lists.append(directory / name)
        elif name.endswith(_SUFFIX):
            files.append(directory / name)
        else:
            raise KeyFileError(
                "a directory of keys has a file of another kind",
                where=str(directory / name),
                hint=f"keys and certificates are *{_SUFFIX}, revoked fingerprints are in {REVOKED}",
            )


def require_outside(file: Path, release: Path | None) -> None:
    """Raise `KeyFileError` for a file of the release itself."""
    if release is None:
        return
    place = Path(os.path.realpath(file))
    if place.is_relative_to(os.path.realpath(release)):
        raise KeyFileError(
            "a key from the release itself proves nothing",
            where=str(file),
            hint="get the public key on another way, and keep it elsewhere",
        )


def _add_file(
    file: Path,
    keys: list[PublicKey],
    certificates: list[TrustedCertificate],
    held: dict[str, set[str]],
) -> None:
    """Add the keys and certificates of a file.

    `held` gets the fingerprints of what is in the file, by the sha256 of the file. That is another
    one than the key's own if there is text around the key, or if its lines end as on Windows.
    """
    content = read_key_file(file)
    fingerprints = held.setdefault(digest_bytes(content), set())
    for block in pem_blocks(content, file):
        if block.label == "PUBLIC KEY":
            key = _public_key(block, file)
            keys.append(key)
            fingerprints.add(key.fingerprint)
        elif block.label == "CERTIFICATE":
            der = der_of(block.text, file)
            certificates.append(TrustedCertificate(file.name, der))
            fingerprints.add(digest_bytes(der))
        else:
            raise KeyFileError(
                f"the file has a {block.label} and no public key",
                where=str(file),
                hint=f"openssl pkey -in {file} -pubout writes the public key of a private one",
            )


def _public_key(block: Block, file: Path) -> PublicKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        return public_key_of(load_pem_public_key(block.text), file.name)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise KeyFileError(
            "the public key cannot be read", where=str(file), cause=str(error)
        ) from error
    except SignatureError as error:
        raise KeyFileError(
            "the public key is of a kind that is not accepted",
            where=str(file),
            cause=error.cause,
            hint=error.hint,
        ) from error


def _fingerprints_in(file: Path) -> set[str]:
    """The fingerprints in a file, one a line. ``#`` begins a comment, and colons do not count."""
    fingerprints = set()
    text = read_key_file(file).decode(errors="replace")
    for number, line in enumerate(text.splitlines(), start=1):
        fingerprint = line.partition("#")[0].strip().replace(":", "").lower()
        if not fingerprint:
            continue
        if not _FINGERPRINT.fullmatch(fingerprint):
            raise KeyFileError(
                "a revoked fingerprint is not 64 hex digits",
                where=f"{file}:{number}",
                hint="sha256sum key.pem prints that of a public key",
            )
        fingerprints.add(fingerprint)
    return fingerprints
