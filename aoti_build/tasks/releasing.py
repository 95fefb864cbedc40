"""The tasks that make releases and compare them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from invoke import Context

from aoti_build.errors import UsageError
from aoti_build.models_file import check_files
from aoti_build.models_file.project import Project, Target
from aoti_build.tasks.answer import (
    contract,
    display,
    finish,
    lines_on_stderr,
    progress,
    show,
    write_stdout,
)
from aoti_build.tasks.options import documented_task, read_base, read_given, read_list
from aoti_build.tasks.project import project_of

if TYPE_CHECKING:
    from aoti_build.commands.release_diff.report import ReleaseDiff

_STDOUT = "-"


@documented_task
def release(
    context: Context,
    version: str = "",
    out: str = "",
    target: str = "",
    sign: str | None = None,
    sign_passphrase: str = "",
    sign_certificates: str = "",
    previous: str | None = None,
    allow_dirty: bool = False,
    archive: str | None = None,
    against: str | None = None,
    fail_if: str = "",
    push: str | None = None,
    file: str = "",
    root: str = "",
    artifacts: str = "",
    json: bool = False,
    quiet: bool = False,
    debug: bool = False,
) -> None:
    """Build and verify strictly, then write a bundle.

    The bundle appears whole or not at all.
    """
    with contract(json, debug):
        from aoti_build.commands.release import command
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
            sign=read_given("--sign", sign, "give it the file of a private key"),
            passphrase=sign_passphrase,
            certificates=tuple(read_list("--sign-certificates", sign_certificates)),
            previous=read_given("--previous", previous, "give it an earlier release"),
            allow_dirty=allow_dirty,
            archive=read_given("--archive", archive, "give it the name of a file"),
            against=read_base(against),
            fail_if=fail_if,
            push=read_given("--push", push, "give it an address such as oci://HOST/NAME:TAG"),
        )
        with display(quiet) as watch:
            report = command.release(
                project,
                targets,
                options,
                on_progress=progress(targets, quiet),
                watch=watch,
                page=_page,
                on_line=lines_on_stderr(quiet),
            )
        show(report, release_lines(report), json)
        finish(report.error)


def _page(project: Project, targets: Sequence[Target], created: str) -> bytes:
    """The page of a release. Two releases of the same artifacts have the same page, so it says
    nothing of the moment and of the last build."""
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


@documented_task
def release_diff(
    context: Context,
    old: str,
    new: str,
    fail_if: str | None = None,
    strict: bool = False,
    markdown: str = "",
    json: bool = False,
    debug: bool = False,
) -> None:
    """Compare two releases, and fail above limits.

    Nothing is loaded, and no signature is verified.
    """
    with contract(json, debug):
        from aoti_build.commands.release_diff.command import release_diff as command
        from aoti_build.commands.release_diff.limits import parse_policy
        from aoti_build.common.outputs import check_output
        from aoti_build.report.release_diff_text import release_diff_lines

        if json and markdown == _STDOUT:
            raise UsageError(
                "--json and --markdown - both print on stdout",
                hint="name a file with --markdown",
            )
        if markdown and markdown != _STDOUT:
            check_output(Path(markdown))
        limits = read_given("--fail-if", fail_if, "give it limits such as size>1.1,drift>1e-3")
        diff = command(old, new, parse_policy(limits, strict=strict))
        written = _write_markdown(diff, markdown)
        # A program that reads the Markdown wants nothing else.
        if markdown != _STDOUT:
            done = replace(diff, written=written)
            show(done, release_diff_lines(done), json)
        finish(diff.error)


def _write_markdown(diff: ReleaseDiff, file: str) -> tuple[str, ...]:
    """Write the Markdown to a file or to stdout. Returns the files that were written."""
    from aoti_build.common.outputs import write_output
    from aoti_build.report.release_diff_markdown import release_diff_markdown

    if not file:
        return ()
    text = release_diff_markdown(diff)
    if file == _STDOUT:
        write_stdout(text)
        return ()
    write_output(Path(file).absolute(), text.encode(errors="backslashreplace"))
    return (file,)
