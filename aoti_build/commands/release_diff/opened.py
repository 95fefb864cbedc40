"""A release whose packages `release-diff --run` calls: examined as `verify --release` does it.

Nothing of a release is loaded before its signature and all of its files were found right.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from aoti_build.artifact.manifest import Manifest
from aoti_build.commands.received.examine import ExaminedBundle, examined_bundle
from aoti_build.commands.received.options import ReceiverOptions
from aoti_build.commands.release_diff.side import Side
from aoti_build.errors import UsageError


@dataclass(frozen=True)
class RunOptions:
    """The options of `release-diff --run`, which are about both releases.

    Attributes:
        keys: as in `ReceiverOptions`.
        revoked: as there.
        unsigned: verify no signature.
        limit: the most seconds of each process.
    """

    keys: tuple[str, ...] = ()
    revoked: str | None = None
    unsigned: bool = False
    limit: float = 600.0


@dataclass(frozen=True)
class OpenSide:
    """A release whose files were compared, and that is still open.

    `side` reads from the opened directory, whatever has its name now.
    """

    side: Side
    examined: ExaminedBundle

    def manifest(self, target: str) -> Manifest:
        return self.examined.manifests[target]

    def require_unchanged(self) -> None:
        """Compare all files once more. Raises `SignatureError` if one was changed."""
        self.examined.require_unchanged()


@contextlib.contextmanager
def open_side(name: str, options: RunOptions) -> Iterator[OpenSide]:
    """Open and examine the release in the directory `name`.

    Raises:
        UsageError: there is no such directory, or an option is wrong.
        SignatureError: the signature is refused, or the files are not what was signed.
        ArtifactError: the release cannot be read.
        ToolchainError: cryptography is not installed.
    """
    path = Path(name)
    if path.is_file():
        raise UsageError(
            f"{name} is a file, and --run needs the packages",
            hint="name the directory of the release; unpack an archive first, or omit --run",
        )
    receiver = ReceiverOptions(
        directory=path,
        keys=options.keys,
        revoked=options.revoked,
        unsigned=options.unsigned,
    )
    with examined_bundle(receiver) as examined:
        release = examined.release
        signer = release.signer.name if release.signer is not None else None
        side = Side(name, release.record, release.sha256, examined.bundle.opened, signer)
        yield OpenSide(side, examined)
