"""The options of `verify --release`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ReceiverOptions:
    """The options of `verify --release`.

    Attributes:
        directory: the bundle.
        keys: files or directories with public keys or certificates. Without any, those that root
            trusts on this host.
        identity: who must have signed without a key. None for a signature by a key.
        identity_provider: the URL of who must have vouched for that identity.
        trusted_root: the file with the keys of a Sigstore instance. None for the public instance.
        unsigned: verify no signature.
        min_version: the oldest version that is accepted. None for any.
        pattern: globs of targets whose reference cases are run. Empty for all.
        strict: count what could not be compared as a failure.
        limit: the most seconds of each process.
        runtime: what calls the packages, as in `verify`.
    """

    directory: Path
    keys: tuple[str, ...] = ()
    identity: str | None = None
    identity_provider: str | None = None
    trusted_root: str | None = None
    unsigned: bool = False
    min_version: str | None = None
    pattern: str = ""
    strict: bool = False
    limit: float = 600.0
    runtime: str = "python"
