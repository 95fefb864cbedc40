"""The reports of `release-push` and `release-pull` as lines for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aoti_build.report.terminal import for_terminal, size_text

if TYPE_CHECKING:
    from aoti_build.commands.release.pull import PullReport
    from aoti_build.commands.release.push import PushReport
    from aoti_build.commands.release.stored import StoredRelease


@for_terminal
def push_lines(report: PushReport) -> list[str]:
    """What is in the registry now, how much of it is new, and its address by digest."""
    if report.uploaded:
        new = f"uploaded {report.uploaded} of them, {size_text(report.uploaded_size)}"
    else:
        new = "uploaded nothing: the registry had all of them"
    return [
        f"{_head(report)}: {report.reference}",
        new,
        f"digest: {report.reference.pinned(report.digest)}",
    ]


@for_terminal
def pull_lines(report: PullReport) -> list[str]:
    """What was downloaded, who signed it, and its address by digest."""
    if report.signer is not None:
        signature = f"signed by {report.signer}"
    elif report.signed:
        signature = "warning: its signature was not verified, which --public-key KEY does"
    else:
        signature = "It is not signed."
    return [
        f"{_head(report)}: {report.directory}",
        f"digest: {report.reference.pinned(report.digest)}",
        signature,
    ]


def _head(report: StoredRelease) -> str:
    """``shop 1.4.0, 46.6 MiB in 23 files``."""
    record = report.record
    return f"{record.name} {record.version}, {size_text(report.size)} in {_files(report.files)}"


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count} files"
