"""The tasks that only read."""

from __future__ import annotations

import sys
from pathlib import Path

from invoke import Context

from aoti_build.errors import UsageError
from aoti_build.tasks.answer import contract, finish, show, write_stdout
from aoti_build.tasks.options import documented_task
from aoti_build.tasks.project import project_of


@documented_task
def status(
    context: Context,
    target: str = "",
    file: str = "",
    root: str = "",
    artifacts: str = "",
    check: bool = False,
    json: bool = False,
    debug: bool = False,
) -> None:
    """Show which artifacts are up to date, and why others are not."""
    with contract(json, debug):
        from aoti_build.commands import status as command
        from aoti_build.report import text

        project, targets = project_of(context, file, target, root, artifacts)
        report = command.status(project, targets=targets, check=check)
        show(report, text.status_lines(report), json)
        finish(report.error)


@documented_task
def why(
    context: Context,
    target: str = "",
    file: str = "",
    root: str = "",
    artifacts: str = "",
    json: bool = False,
    debug: bool = False,
) -> None:
    """Show what differs from published and stored artifacts.

    Every part that differs from the published artifact and from the nearest
    stored one is shown, and why the last build ran.
    """
    with contract(json, debug):
        from aoti_build.commands import why as command
        from aoti_build.report import text
        from aoti_build.report.terminal import terminal_width, wrapped

        project, targets = project_of(context, file, target, root, artifacts)
        report = command.why(project, targets)
        width = terminal_width(sys.stdout)
        show(report, wrapped(text.why_lines(report), width), json)


@documented_task
def inspect(
    context: Context,
    target: str = "",
    path: str = "",
    diff: str = "",
    host: bool = False,
    all: bool = False,
    file: str = "",
    root: str = "",
    artifacts: str = "",
    json: bool = False,
    debug: bool = False,
) -> None:
    """Show what artifacts or .pt2 files contain, or compare two.

    They are read, and not loaded.
    """
    with contract(json, debug):
        from aoti_build.commands.inspect import command
        from aoti_build.report import inspect_text
        from aoti_build.report.terminal import terminal_size

        if target and path:
            raise UsageError(
                "--target and --path name two artifacts",
                hint="omit one of them; use --diff to compare with another artifact",
            )
        if host and (path or diff):
            raise UsageError(
                "--host shows the variants of targets",
                hint="omit --path and --diff",
            )
        if diff:
            from aoti_build.tasks.comparison import compare

            projects = (context, file, root, artifacts)
            difference = compare(projects, target, path, diff)
            show(difference, inspect_text.diff_lines(difference), json)
            finish(difference.error)
            return
        if path:
            report = command.InspectReport((command.inspect_file(Path(path)),))
        else:
            report = command.inspect(*project_of(context, file, target, root, artifacts), host=host)
        size = None if all else terminal_size(sys.stdout)
        lines = inspect_text.inspect_lines(
            report,
            rows=size.lines if size else None,
            width=size.columns if size else None,
        )
        show(report, lines, json)
        finish(report.error)


@documented_task
def schema(context: Context, output: str = "", debug: bool = False) -> None:
    """Print the JSON Schema of models.yaml.

    Editors use it for completion and checks.
    """
    with contract(False, debug):
        from aoti_build.common.outputs import write_output
        from aoti_build.models_file.parsing.editor_schema import json_schema_text

        if output:
            write_output(Path(output), json_schema_text().encode())
        else:
            write_stdout(json_schema_text())


@documented_task
def ci_cache(
    context: Context,
    target: str = "",
    file: str = "",
    root: str = "",
    artifacts: str = "",
    json: bool = False,
    debug: bool = False,
) -> None:
    """Print the key of a CI cache, and the directory to keep."""
    with contract(json, debug):
        from aoti_build.commands import ci_cache as command

        report = command.ci_cache(*project_of(context, file, target, root, artifacts))
        show(report, report.lines(), json)


@documented_task
def version(context: Context, json: bool = False, debug: bool = False) -> None:
    """Print the versions of aoti_build and of the installed torch."""
    with contract(json, debug):
        from aoti_build.commands import version as command

        report = command.version()
        show(report, report.lines(), json)
