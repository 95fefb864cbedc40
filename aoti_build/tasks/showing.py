"""The tasks that only read."""

from __future__ import annotations

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
    json: bool = False,
    debug: bool = False,
) -> None:
    """Show for every target whether its artifact is up to date, and why not."""
    with contract(json, debug):
        from aoti_build.commands import status as command
        from aoti_build.report import text

        project, targets = project_of(context, file, target, root, artifacts)
        report = command.status(project, targets=targets)
        show(report, text.status_lines(report), json)


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
    """Show in detail why artifacts are out of date, and why the last build ran.

    Every part that differs from the published artifact and from the nearest stored one is shown.
    """
    with contract(json, debug):
        from aoti_build.commands import why as command
        from aoti_build.report import text

        project, targets = project_of(context, file, target, root, artifacts)
        report = command.why(project, targets)
        show(report, text.why_lines(report), json)


@documented_task
def inspect(
    context: Context,
    target: str = "",
    path: str = "",
    diff: str = "",
    host: bool = False,
    file: str = "",
    root: str = "",
    artifacts: str = "",
    json: bool = False,
    debug: bool = False,
) -> None:
    """Show what artifacts or a .pt2 file contain, or compare two of them, without loading them."""
    with contract(json, debug):
        from aoti_build.commands import inspect as command
        from aoti_build.report import inspect_text

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
            finish(difference.exit_code)
            return
        if path:
            report = command.InspectReport((command.inspect_file(Path(path)),))
        else:
            report = command.inspect(*project_of(context, file, target, root, artifacts), host=host)
        show(report, inspect_text.inspect_lines(report), json)
        finish(report.exit_code)


@documented_task
def schema(context: Context, output: str = "", debug: bool = False) -> None:
    """Print the JSON Schema of models.yaml, which editors use for completion and checks."""
    with contract(False, debug):
        from aoti_build.common.outputs import write_output
        from aoti_build.models_file.parsing.editor_schema import json_schema_text

        if output:
            write_output(Path(output), json_schema_text().encode())
        else:
            write_stdout(json_schema_text())
