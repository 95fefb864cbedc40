"""Which release a receiver means, and whose signature it must have."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ReceiverOptions:
    """The options that every command for received releases has.

    Attributes:
        directory: the bundle.
        keys: files or directories with public keys or certificates. Without any, those that root
            trusts on this host.
        revoked: a file with fingerprints of keys that are not trusted any more. None for no file
            besides those in directories of keys.
        identity: who must have signed without a key. None for a signature by a key.
        identity_provider: the URL of who must have vouched for that identity.
        trusted_root: the file with the keys of a Sigstore instance. None for the public instance.
        unsigned: verify no signature.
        min_version: the oldest version that is accepted. None for any.
        pattern: globs of targets whose packages are run. Empty for all.
    """

    directory: Path
    keys: tuple[str, ...] = ()
    revoked: str | None = None
    identity: str | None = None
    identity_provider: str | None = None
    trusted_root: str | None = None
    unsigned: bool = False
    min_version: str | None = None
    pattern: str = ""
