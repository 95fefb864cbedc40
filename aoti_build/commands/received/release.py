"""What the reports of commands for received releases say of the release."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from aoti_build.common.json_object import JsonObject

if TYPE_CHECKING:
    from aoti_build.artifact.bundle.record import ReleaseRecord
    from aoti_build.artifact.signing.verify import Signer

# The receiver cannot build anything.
NEXT_STEP = (
    "do not use what failed: send this report to whoever published the release; its verify.json has"
    " the figures that they saw"
)


@dataclass(frozen=True)
class ReceivedRelease:
    """A release whose files are as they should be.

    Attributes:
        path: the bundle, as it was named.
        record: its `release.json`.
        sha256: the digest of its `release.json`.
        file_count: the number of files that were compared, without the signature.
        signer: who signed it. None if no signature was verified.
    """

    path: str
    record: ReleaseRecord
    sha256: str
    file_count: int
    signer: Signer | None

    def as_json(self) -> JsonObject:
        return {
            "path": self.path,
            "name": self.record.name,
            "version": self.record.version,
            "created": self.record.created,
            "sha256": self.sha256,
            "files": self.file_count,
            "signer": _signer_json(self.signer) if self.signer else None,
        }


def _signer_json(signer: Signer) -> JsonObject:
    return {
        "kind": signer.kind,
        "name": signer.name,
        "fingerprint": signer.fingerprint,
        "subject": signer.subject,
        "valid_until": signer.valid_until.isoformat() if signer.valid_until else None,
        "provider": signer.provider,
    }
