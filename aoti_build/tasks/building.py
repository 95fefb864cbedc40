"""The tasks that make artifacts."""

from __future__ import annotations

from invoke import Context

from aoti_build.models_file import check_files
from aoti_build.tasks.answer import contract, display, finish, progress, show
from aoti_build.tasks.options import (
    documented_task,
    read_band,
    read_budget,
    read_integer,
    read_list,
)
from aoti_build.tasks.project import project_of


@documented_task
def build(
    context: Context,
    target: str = "",
    file: str = "",
    root: str = "",
    artifacts: str = "",
    json: bool = False,
    jobs: str = "",
    force: bool = False,
    keep_going: bool = False,
    dry_run: bool = False,
    check: bool = False,
    strict: bool = False,
    check_reproducible: bool = False,
    profile: bool = False,
    quiet: bool = False,
    debug: bool = False,
) -> None:
    """Bring artifacts up to date: compile, check and publish them.

    Only what changed is compiled again, and each build names its reason.
    """
    with contract(json, debug):
        from aoti_build.commands import build as command
        from aoti_build.report import text

        project, targets = project_of(context, file, target, root, artifacts)
        check_files(project, targets)
        worker_count = read_integer("--jobs", jobs)
        if dry_run or check or context.config.run.dry:
            from aoti_build.commands.plan_report import PlanReport

            plan = PlanReport(command.plan(project, targets, force=force), check, strict)
            show(plan, text.plan_lines(plan.plan), json)
            finish(plan.error)
            return
        with display(quiet) as watch:
            report = command.build(
                project,
                targets,
                jobs=worker_count,
                force=force,
                keep_going=keep_going,
                strict=strict,
                check_reproducible=check_reproducible,
                profile=profile,
                watch=watch,
            )
        show(report, text.build_lines(report), json)
        finish(report.error)


@documented_task
def tune(
    context: Context,
    target: str = "",
    budget: str = "",
    allow: str = "",
    peers: bool = False,
    cuda_graphs: bool = False,
    band: str = "",
    file: str = "",
    root: str = "",
    artifacts: str = "",
    dry_run: bool = False,
    json: bool = False,
    quiet: bool = False,
    debug: bool = False,
) -> None:
    """Measure which inductor options are the fastest on this host.

    The result is written into tuned.yaml, for the preset `tuned`.
    """
    with contract(json, debug):
        from aoti_build.commands.tune import command
        from aoti_build.measurement.statistics import BAND
        from aoti_build.report.tune_text import tune_lines

        project, targets = project_of(context, file, target, root, artifacts)
        check_files(project, targets)
        report = command.tune(
            project,
            targets,
            budget=read_budget(budget, command.BUDGET),
            allowed=read_list("--allow", allow),
            peers=peers,
            cuda_graphs=cuda_graphs,
            band=read_band(band, BAND),
            dry_run=dry_run or context.config.run.dry,
            on_progress=progress(targets, quiet),
        )
        show(report, tune_lines(report), json)
        finish(report.error)


@documented_task
def export(
    context: Context,
    directory: str,
    target: str = "",
    file: str = "",
    root: str = "",
    artifacts: str = "",
    json: bool = False,
    debug: bool = False,
) -> None:
    """Copy verified artifacts with checksums into a new directory.

    Only artifacts that are up to date are copied.
    """
    with contract(json, debug):
        from aoti_build.commands import export as command
        from aoti_build.report import text

        report = command.export(*project_of(context, file, target, root, artifacts), directory)
        show(report, text.export_lines(report), json)
        finish(report.error)
