"""Signing a directory."""

from __future__ import annotations

from pathlib import Path

from aoti_build.artifact.signing.bundle import bundle_as_bytes
from aoti_build.artifact.signing.dsse import Envelope, signed_bytes
from aoti_build.artifact.signing.files import Contents, contents_of, digests_of
from aoti_build.artifact.signing.names import SIGNATURE_NAME, name_fault
from aoti_build.artifact.signing.private_keys import SigningKey
from aoti_build.artifact.signing.refusals import UnfitFiles, some
from aoti_build.artifact.signing.statement import statement_of
from aoti_build.common.writing import disk_error, write_atomic


def sign(directory: Path, key: SigningKey, *, signature_name: str = SIGNATURE_NAME) -> bytes:
    """The signature file over all files below a directory, but for `signature_name` in it.

    Hidden files count, and those of git too. Nothing is written.

    Raises:
        UnfitFiles: there is no file, or a link, a special file, an odd name, an empty directory,
            or the private key.
    """
    payload = statement_about(directory, key.path, "private key", signature_name=signature_name)
    signature = key.sign(signed_bytes(payload))
    return bundle_as_bytes(key.material, Envelope(payload, signature))


def statement_about(
    directory: Path,
    secret: Path | None,
    what: str,
    *,
    signature_name: str = SIGNATURE_NAME,
) -> bytes:
    """What a signature of a directory signs. Raises `UnfitFiles` as `sign`.

    `secret` is a file that may not be in the directory, and `what` names it in messages.
    """
    contents = contents_of(directory, signature_name)
    _require_signable(directory, contents, signature_name)
    if secret is not None:
        _require_no_secret(directory, secret, what)
    files = digests_of(directory, contents.files)
    return statement_of(_name_of(directory), files, signature_name)


def write_signature(
    content: bytes,
    directory: Path,
    *,
    signature_name: str = SIGNATURE_NAME,
) -> Path:
    """Write what `sign` returned into its directory in one step, and return the path.

    A signer that is killed leaves no half of a signature. Raises `BuildError`.
    """
    path = directory / signature_name
    try:
        write_atomic(path, content)
    except OSError as error:
        raise disk_error(error) from error
    return path


def _name_of(directory: Path) -> str:
    """The directory's name. It informs readers, so that an odd one is replaced."""
    name = directory.resolve().name
    if not name or name_fault(name):
        return "release"
    return name


def _require_signable(directory: Path, contents: Contents, signature_name: str) -> None:
    if not contents.files:
        raise UnfitFiles("there is no file to sign", where=str(directory))
    empty = contents.empty_directories()
    if empty:
        raise UnfitFiles(
            f"directories without files cannot be signed: {some(empty)}",
            where=str(directory),
            hint="remove empty directories",
        )
    # How `write_atomic` names a file until it is complete.
    unfinished = sorted(name for name in contents.files if name.startswith(f".{signature_name}."))
    if unfinished:
        raise UnfitFiles(
            f"a signer that was killed left {some(unfinished)}",
            where=str(directory),
            hint="remove it",
        )


def _require_no_secret(directory: Path, secret: Path, what: str) -> None:
    if secret.resolve().is_relative_to(directory.resolve()):
        raise UnfitFiles(
            f"the {what} is in the directory that it would sign",
            where=str(secret),
            hint="move it out; make a new one if the directory was published",
        )
