"""The task that makes releases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from invoke import Context

from aoti_build.errors import UsageError
from aoti_build.models_file import check_files
from aoti_build.models_file.project import Project, Target
from aoti_build.tasks.answer import contract, display, finish, progress, show
from aoti_build.tasks.options import documented_task, read_base
from aoti_build.tasks.project import project_of


@documented_task
def release(
    context: Context,
    version: str = "",
    out: str = "",
    target: str = "",
    sign: str = "",
    previous: str = "",
    allow_dirty: bool = False,
    archive: str = "",
    against: str | None = None,
    fail_if: str = "",
    file: str = "",
    root: str = "",
    artifacts: str = "",
    json: bool = False,
    quiet: bool = False,
    debug: bool = False,
) -> None:
    """Build and verify strictly, then write a bundle with all evidence.

    The bundle appears whole or not at all.
    """
    with contract(json, debug):
        from aoti_build.commands import release as command
        from aoti_build.report.release_text import release_lines

        if not version or not out:
            raise UsageError(
                "a release needs a version and a directory",
                hint="`invoke release --version 1.4.0 --out DIR`",
            )
        project, targets = project_of(context, file, target, root, artifacts)
        check_files(project, targets)
        options = command.ReleaseOptions(
            version=version,
            directory=out,
            sign=sign,
            previous=previous,
            allow_dirty=allow_dirty,
            archive=archive,
            against=read_base(against),
            fail_if=fail_if,
        )
        with display(quiet) as watch:
            report = command.release(
                project,
                targets,
                options,
                on_progress=progress(targets, quiet),
                watch=watch,
                page=_page,
            )
        show(report, release_lines(report), json)
        finish(report.error)


def _page(project: Project, targets: Sequence[Target], created: str) -> bytes:
    """The page of a release. Two releases of the same artifacts have the same page, so it says
    nothing of the moment and of the last build."""
    from aoti_build.commands.report import report
    from aoti_build.report.page import report_page

    made = report(project, tuple(targets))
    shown = replace(
        made,
        made={**made.made, "created": created},
        trace=None,
        trace_problem=None,
    )
    return report_page(shown).encode(errors="backslashreplace")
