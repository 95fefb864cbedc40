"""What a receiver is told of a release, as lines for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aoti_build.artifact.signing.verify import Signer
    from aoti_build.commands.received.release import ReceivedRelease


def received_lines(release: ReceivedRelease) -> list[str]:
    """Which release it is, and who signed it."""
    record = release.record
    lines = [
        f"{record.name} {record.version} of {record.created}: {release.path}",
        f"release.json: sha256 {release.sha256}",
    ]
    if release.signer is None:
        lines.append(
            f"NOT SIGNED: {release.file_count} files agree with release.json, and nothing proves"
            " who made them"
        )
    else:
        lines.append(f"signed by {_signer_text(release.signer)}")
        lines.append(f"{release.file_count} files are exactly the signed ones")
    return lines


def _signer_text(signer: Signer) -> str:
    if signer.provider is not None:
        return f"{signer.name}, for whom {signer.provider} vouched (keyless)"
    words = f"{signer.name} (sha256 {signer.fingerprint})"
    if signer.subject is not None:
        words += f", {signer.subject}"
    if signer.valid_until is not None:
        words += f", until {signer.valid_until:%Y-%m-%d}"
    return words
