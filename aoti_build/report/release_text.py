"""The report of `release` as lines for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aoti_build.report.registry_text import push_lines
from aoti_build.report.terminal import for_terminal, size_text, table
from aoti_build.report.text import build_lines
from aoti_build.report.verify_text import verify_lines

if TYPE_CHECKING:
    from aoti_build.commands.release.report import Released, ReleaseReport


@for_terminal
def release_lines(report: ReleaseReport) -> list[str]:
    """The reports of the build and of the verification, and what was written."""
    lines = build_lines(report.build)
    if report.verify is not None:
        lines += ["", *verify_lines(report.verify)]
    if report.released is not None:
        lines += ["", *_released_lines(report, report.released)]
    if report.push is not None:
        lines += ["", *push_lines(report.push)]
    return lines


def _released_lines(report: ReleaseReport, released: Released) -> list[str]:
    record = released.record
    rows = [
        [target.target, size_text(target.size), target.package_sha256] for target in record.targets
    ]
    lines = table(["target", "size", "sha256 of model.pt2"], rows)
    lines += ["", f"{record.name} {record.version}, {size_text(released.size)}: {report.directory}"]
    lines.append(f"release.json: sha256 {released.sha256}")
    if record.source.dirty:
        lines.append("warning: files differ from the commit")
    if not released.signed:
        lines.append("It is not signed.")
    if released.archive is not None:
        archive = released.archive
        lines.append(f"{archive.path}: {size_text(archive.size)}, sha256 {archive.sha256}")
    return lines
