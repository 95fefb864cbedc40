"""The report of `verify --release` as lines for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aoti_build.report.received_text import received_lines
from aoti_build.report.terminal import for_terminal
from aoti_build.report.verify_text import verify_lines

if TYPE_CHECKING:
    from aoti_build.commands.verify_release.report import ReleaseVerification


@for_terminal
def release_verification_lines(report: ReleaseVerification) -> list[str]:
    """Whose release it is, and the verdicts on its packages."""
    return [*received_lines(report.release), "", *verify_lines(report.compared)]
