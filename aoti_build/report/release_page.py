"""The page in the bundle of a release."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from aoti_build.models_file.project import Project, Target


def release_page(project: Project, targets: Sequence[Target], created: str) -> bytes:
    """The content of `report.html` of a release that was made at the time `created`.

    Two releases of the same artifacts have the same page, so it says nothing of the moment and of
    the last build.
    """
    # Only a release that is written needs what makes pages.
    from aoti_build.commands.report.command import report
    from aoti_build.report.page import report_page

    made = report(project, tuple(targets))
    shown = replace(
        made,
        made={**made.made, "created": created},
        trace=None,
        trace_problem=None,
    )
    return report_page(shown).encode(errors="backslashreplace")
