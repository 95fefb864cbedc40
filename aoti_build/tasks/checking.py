"""The tasks that load artifacts and compare them."""

from __future__ import annotations

from pathlib import Path

from invoke import Context

from aoti_build.errors import UsageError
from aoti_build.tasks.answer import contract, finish, progress, show, write_reports
from aoti_build.tasks.options import documented_task, read_integer, read_list, require_choice
from aoti_build.tasks.project import project_of


@documented_task
def verify(
    context: Context,
    target: str = "",
    file: str = "",
    root: str = "",
    artifacts: str = "",
    json: bool = False,
    jobs: str = "",
    strict: bool = False,
    fresh: bool = False,
    seeds: str = "",
    timeout: str = "",
    localize: bool = False,
    repro: str = "",
    runtime: str = "",
    cuda_graphs: bool = False,
    junit: str = "",
    html: str = "",
    quiet: bool = False,
    debug: bool = False,
) -> None:
    """Compare artifacts with eager mode, each in a fresh process.

    The comparison covers the whole range of sizes. Each artifact must also
    refuse invalid inputs.
    """
    with contract(json, debug):
        from aoti_build.commands import verify as command
        from aoti_build.common.outputs import check_output
        from aoti_build.report.verify_text import verify_lines

        runtime = runtime or command.PYTHON
        require_choice("--runtime", runtime, command.RUNTIMES)
        if cuda_graphs:
            if runtime != command.PYTHON:
                raise UsageError("--cuda-graphs and --runtime exclude each other")
            runtime = command.CUDA_GRAPHS
        # A verification takes long, so a file that cannot be written is refused before it.
        for path in (junit, html):
            if path:
                check_output(Path(path))
        project, targets = project_of(context, file, target, root, artifacts)
        report = command.verify(
            project,
            targets,
            jobs=read_integer("--jobs", jobs) or 1,
            strict=strict,
            fresh=fresh,
            seeds=read_integer("--seeds", seeds) or 1,
            limit=float(read_integer("--timeout", timeout) or command.TIME_LIMIT),
            localize=localize,
            repro=Path(repro).absolute() if repro else None,
            runtime=runtime,
            on_progress=progress(targets, quiet),
        )
        write_reports(report, junit, html)
        show(report, verify_lines(report), json)
        finish(report.error)


@documented_task
def run(
    context: Context,
    target: str = "",
    input: str = "",
    output: str = "",
    repeat: str = "",
    seed: str = "",
    cuda_graphs: bool = False,
    file: str = "",
    root: str = "",
    artifacts: str = "",
    json: bool = False,
    quiet: bool = False,
    debug: bool = False,
) -> None:
    """Run artifacts, then check, time and save their outputs.

    The inputs are the reference data, random ones, or files of tensors or
    images.
    """
    with contract(json, debug):
        from aoti_build.commands import run as command
        from aoti_build.report.run_text import run_lines

        project, targets = project_of(context, file, target, root, artifacts)
        seed_number = read_integer("--seed", seed, least=0)
        if seed_number is None:  # 0 is a seed
            seed_number = command.SEED
        report = command.run(
            project,
            targets,
            inputs=read_list("--input", input),
            output=output,
            seed=seed_number,
            repeat=read_integer("--repeat", repeat) or command.REPEAT,
            cuda_graphs=cuda_graphs,
            on_progress=progress(targets, quiet),
        )
        show(report, run_lines(report), json)
        finish(report.error)
