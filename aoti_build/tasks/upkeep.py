"""The tasks for what lies on this host: artifacts, the store and the toolchain."""

from __future__ import annotations

from pathlib import Path

from invoke import Context

from aoti_build.errors import UsageError
from aoti_build.tasks.answer import contract, finish, progress, show
from aoti_build.tasks.options import (
    AGES,
    SIZES,
    documented_task,
    read_amount,
    read_list,
    require_choice,
)
from aoti_build.tasks.project import artifacts_of, models_file, project_of


@documented_task
def clean(
    context: Context,
    target: str = "",
    file: str = "",
    root: str = "",
    artifacts: str = "",
    orphans: bool = False,
    dry_run: bool = False,
    json: bool = False,
    debug: bool = False,
) -> None:
    """Remove artifacts. The store stays.

    These are the artifacts of --target, the --orphans, or all of them and the
    working state.
    """
    with contract(json, debug):
        from aoti_build.commands import clean as command
        from aoti_build.report import text

        project, targets = project_of(context, file, target, root, artifacts)
        report = command.clean(
            project,
            targets if target else None,
            orphans_only=orphans,
            dry_run=dry_run or context.config.run.dry,
        )
        show(report, text.clean_lines(report), json)


@documented_task
def gc(
    context: Context,
    max_size: str = "",
    max_age: str = "",
    dry_run: bool = False,
    file: str = "",
    root: str = "",
    artifacts: str = "",
    json: bool = False,
    debug: bool = False,
) -> None:
    """Make the store smaller. What published artifacts need stays."""
    with contract(json, debug):
        from aoti_build.commands import gc as command
        from aoti_build.report import text

        project, _ = project_of(context, file, "", root, artifacts)
        if not (max_size or max_age):
            raise UsageError(
                "gc needs a limit",
                hint="set --max-size 20g or --max-age 30d; 0 removes all that is not in use",
            )
        report = command.gc(
            project,
            max_size=read_amount("--max-size", max_size, SIZES),
            max_age=read_amount("--max-age", max_age, AGES),
            dry_run=dry_run or context.config.run.dry,
        )
        show(report, text.gc_lines(report), json)


@documented_task
def doctor(
    context: Context,
    device: str = "",
    file: str = "",
    root: str = "",
    artifacts: str = "",
    quick: bool = False,
    strict: bool = False,
    json: bool = False,
    quiet: bool = False,
    debug: bool = False,
) -> None:
    """Check this host, then build a small model on each device.

    The checks cover the compiler, the GPU, directories and memory. Each failure
    has its cause and remedy.
    """
    with contract(json, debug):
        from aoti_build.commands.doctor import command
        from aoti_build.host.devices import device_names
        from aoti_build.report import text

        devices = read_list("--device", device)
        for name in devices:
            require_choice("--device", name, device_names())
        if file and not Path(file).is_file():
            raise UsageError(f"there is no file {file}")
        path = models_file(context, file)
        report = command.doctor(
            devices,
            artifacts=artifacts_of(path, root, artifacts) if path else None,
            quick=quick,
            strict=strict,
            on_progress=progress((), quiet),
        )
        show(report, text.doctor_lines(report), json)
        finish(report.error)
