"""The tasks that make artifacts."""

from __future__ import annotations

from invoke import Context

from aoti_build.models_file import check_files
from aoti_build.tasks.answer import contract, finish, progress, show
from aoti_build.tasks.options import AGES, documented_task, read_amount, read_integer, read_list
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
    strict: bool = False,
    check_reproducible: bool = False,
    debug: bool = False,
) -> None:
    """Bring every artifact up to date: compile what changed, check it, and publish it."""
    with contract(json, debug):
        from aoti_build.commands import build as command
        from aoti_build.report import text

        project, targets = project_of(context, file, target, root, artifacts)
        check_files(project, targets)
        worker_count = read_integer("--jobs", jobs)
        if dry_run or context.config.run.dry:
            plan = command.plan(project, targets, force=force)
            show(command.PlanReport(plan), text.plan_lines(plan), json)
            return
        report = command.build(
            project,
            targets,
            jobs=worker_count,
            force=force,
            keep_going=keep_going,
            strict=strict,
            check_reproducible=check_reproducible,
            on_progress=progress(targets),
        )
        show(report, text.build_lines(report), json)
        finish(report.exit_code)


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
    debug: bool = False,
) -> None:
    """Measure which inductor options are the fastest on this host, and write them to tuned.yaml."""
    with contract(json, debug):
        from aoti_build.commands import tune as command
        from aoti_build.measurement.statistics import BAND
        from aoti_build.report.tune_text import tune_lines

        project, targets = project_of(context, file, target, root, artifacts)
        check_files(project, targets)
        percent = read_integer("--band", band)
        report = command.tune(
            project,
            targets,
            budget=float(read_amount("--budget", budget, AGES) or command.BUDGET),
            allowed=read_list("--allow", allow),
            peers=peers,
            cuda_graphs=cuda_graphs,
            band=percent / 100 if percent else BAND,
            dry_run=dry_run or context.config.run.dry,
            on_progress=progress(targets),
        )
        show(report, tune_lines(report), json)
        finish(report.exit_code)
