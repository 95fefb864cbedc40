"""The task that measures what artifacts cost."""

from __future__ import annotations

from invoke import Context

from aoti_build.errors import UsageError
from aoti_build.models_file import check_files
from aoti_build.tasks.answer import contract, finish, progress, show
from aoti_build.tasks.options import (
    documented_task,
    read_band,
    read_base,
    read_budget,
    read_integer,
    read_list,
)
from aoti_build.tasks.project import project_of


@documented_task
def bench(
    context: Context,
    target: str = "",
    ways: str = "",
    peers: bool = False,
    cuda_graphs: bool = False,
    samples: str = "",
    seconds: str = "",
    threads: str = "",
    against: str | None = None,
    fail_if: str = "",
    strict: bool = False,
    band: str = "",
    budget: str = "",
    history: str = "",
    file: str = "",
    root: str = "",
    artifacts: str = "",
    json: bool = False,
    quiet: bool = False,
    debug: bool = False,
) -> None:
    """Measure artifacts beside eager mode and torch.compile.

    Each sample is a fresh process: import, load, first inference, steady
    latency, memory. The result is written into bench.json beside the artifact.
    """
    with contract(json, debug):
        from aoti_build.commands.bench import command
        from aoti_build.commands.bench.ways import read_ways
        from aoti_build.measurement.gate import Rule, parse_limits
        from aoti_build.measurement.samples import SECONDS
        from aoti_build.measurement.statistics import BAND, PAIRS
        from aoti_build.report.bench_text import bench_lines

        project, targets = project_of(context, file, target, root, artifacts, history)
        check_files(project, targets)
        options = command.Options(
            ways=read_ways(read_list("--ways", ways)),
            peers=peers,
            cuda_graphs=cuda_graphs,
            samples=read_integer("--samples", samples) or PAIRS,
            seconds=read_seconds(seconds) or SECONDS,
            threads=read_integer("--threads", threads),
            against=read_base(against),
            rule=Rule(
                band=read_band(band, BAND),
                limits=parse_limits(fail_if) if fail_if else {},
                strict=strict,
            ),
            budget=read_budget(budget, command.BUDGET),
        )
        report = command.bench(project, targets, options, on_progress=progress(targets, quiet))
        show(report, bench_lines(report), json)
        finish(report.error)


def read_seconds(text: str) -> float | None:
    """The value of ``--seconds``, which may have a fraction; None if it is not set."""
    if not text:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.01 <= seconds <= 3600:
        raise UsageError(f"--seconds {text} is not a number from 0.01 to 3600")
    return seconds
