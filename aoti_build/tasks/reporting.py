"""The task that writes what is known of the targets into files for people."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from invoke import Context

from aoti_build.errors import UsageError
from aoti_build.tasks.answer import contract, show, write_stdout
from aoti_build.tasks.options import documented_task
from aoti_build.tasks.project import project_of

if TYPE_CHECKING:
    from aoti_build.commands.report.command import ProjectReport

_PAGE = "report.html"
_STDOUT = "-"


@documented_task
def report(
    context: Context,
    target: str = "",
    out: str = "",
    markdown: str = "",
    history: str = "",
    file: str = "",
    root: str = "",
    artifacts: str = "",
    json: bool = False,
    debug: bool = False,
) -> None:
    """Write a page of targets, verification, builds and speed.

    It shows what is published and what bench measured. Nothing is built or
    measured.
    """
    with contract(json, debug):
        from aoti_build.commands.report.command import report as command
        from aoti_build.commands.report.history import read_history
        from aoti_build.common.outputs import check_output
        from aoti_build.report.report_text import report_lines

        if json and markdown == _STDOUT:
            raise UsageError(
                "--json and --markdown - both print on stdout",
                hint="name a file with --markdown",
            )
        # Without the name of any file, the page is what is wanted.
        if not out and not markdown and not json:
            out = _PAGE
        for path in (out, markdown):
            if path and path != _STDOUT:
                check_output(Path(path))
        if history and not Path(history).is_dir():
            raise UsageError(
                f"--history {history} is not a directory",
                hint="name the directory to which benchmarks are added",
            )
        project, targets = project_of(context, file, target, root, artifacts, history)
        found = None
        if project.history is not None:
            found = read_history(project.history, [entry.name for entry in targets])
        made = command(project, targets, history=found)
        written = _write(made, out, markdown)
        # A program that reads the Markdown wants nothing else.
        if markdown != _STDOUT:
            done = replace(made, written=written)
            show(done, report_lines(done), json)


def _write(made: ProjectReport, out: str, markdown: str) -> tuple[str, ...]:
    """Write the page and the Markdown. Returns the files that were written."""
    from aoti_build.common.outputs import write_output

    written = []
    if out:
        from aoti_build.report.page import report_page

        write_output(Path(out).absolute(), report_page(made).encode(errors="backslashreplace"))
        written.append(out)
    if markdown:
        from aoti_build.report.markdown import markdown_text

        text = markdown_text(made)
        if markdown == _STDOUT:
            write_stdout(text)
        else:
            encoded = text.encode(errors="backslashreplace")
            write_output(Path(markdown).absolute(), encoded)
            written.append(markdown)
    return tuple(written)
