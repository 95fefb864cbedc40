"""The report of `verify --release` as lines for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aoti_build.report.terminal import for_terminal
from aoti_build.report.verify_text import verify_lines

if TYPE_CHECKING:
    from aoti_build.artifact.signing.verify import Signer
    from aoti_build.commands.verify_release.report import ReleaseVerification


@for_terminal
def release_verification_lines(report: ReleaseVerification) -> list[str]:
    """Whose release it is, and the verdicts on its packages."""
    record = report.record
    lines = [
        f"{record.name} {record.version} of {record.created}: {report.path}",
        f"release.json: sha256 {report.sha256}",
    ]
    if report.signer is None:
        lines.append(
            f"NOT SIGNED: {report.file_count} files agree with release.json, and nothing proves who"
            " made them"
        )
    else:
        lines.append(f"signed by {_signer_text(report.signer)}")
        lines.append(f"{report.file_count} files are exactly the signed ones")
    return [*lines, "", *verify_lines(report.compared)]


def _signer_text(signer: Signer) -> str:
    if signer.provider is not None:
        return f"{signer.name}, for whom {signer.provider} vouched (keyless)"
    words = f"{signer.name} (sha256 {signer.fingerprint})"
    if signer.subject is not None:
        words += f", {signer.subject}"
    if signer.valid_until is not None:
        words += f", until {signer.valid_until:%Y-%m-%d}"
    return words
