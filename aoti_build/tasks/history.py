"""The task that shows the history of benchmarks."""

from __future__ import annotations

from invoke import Context

from aoti_build.tasks.answer import contract, show
from aoti_build.tasks.options import documented_task
from aoti_build.tasks.project import project_of


@documented_task
def bench_history(
    context: Context,
    target: str = "",
    history: str = "",
    csv: str = "",
    file: str = "",
    root: str = "",
    artifacts: str = "",
    json: bool = False,
    debug: bool = False,
) -> None:
    """Show how the figures of benchmarks changed over time.

    Step changes are found in each series.
    """
    with contract(json, debug):
        from aoti_build.commands.bench import history as command
        from aoti_build.report.history_text import history_lines

        project, targets = project_of(context, file, target, root, artifacts, history)
        # Without a choice, targets that models.yaml no longer lists are shown too.
        names = [chosen.name for chosen in targets] if target else None
        report = command.bench_history(project.history, names, csv=csv)
        show(report, history_lines(report), json)
