"""The invoke tasks. Each reads its options, calls a command, prints the report and exits.

A tasks.py needs one line: ``from aoti_build.tasks import ns``. To add the tasks to others, it calls
``ns.add_collection(aoti_build.tasks.ns, name="aoti")``.

Every option has a default value. invoke makes a parameter without one positional. Commands are
imported in the tasks, so that a task loads only what it uses.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from invoke import Collection, Context

# invoke turns off the writing of bytecode. Every task would then compile the modules of this
# package again, which takes longer than a build with nothing to do.
sys.dont_write_bytecode = bool(os.environ.get("PYTHONDONTWRITEBYTECODE"))

from aoti_build.errors import UsageError
from aoti_build.models_file import check_files
from aoti_build.tasks.answer import contract, finish, progress, show, write_reports, write_stdout
from aoti_build.tasks.options import (
    AGES,
    SIZES,
    documented_task,
    read_amount,
    read_integer,
    read_list,
    require_choice,
)
from aoti_build.tasks.project import nearest_models_file, project_of


@documented_task
def build(
    context: Context,
    target: str = "",
    file: str = "",
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

        project, targets = project_of(context, file, target)
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
def verify(
    context: Context,
    target: str = "",
    file: str = "",
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
    debug: bool = False,
) -> None:
    """Compare every artifact with eager mode in a fresh process.

    The comparison covers the whole range of sizes. Each artifact must also refuse invalid inputs.
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
        project, targets = project_of(context, file, target)
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
            on_progress=progress(targets),
        )
        write_reports(report, junit, html)
        show(report, verify_lines(report), json)
        finish(report.exit_code)


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
    json: bool = False,
    debug: bool = False,
) -> None:
    """Run artifacts on the reference data or on other inputs, then check and time them."""
    with contract(json, debug):
        from aoti_build.commands import run as command
        from aoti_build.report.run_text import run_lines

        project, targets = project_of(context, file, target)
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
            on_progress=progress(targets),
        )
        show(report, run_lines(report), json)
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
    dry_run: bool = False,
    json: bool = False,
    debug: bool = False,
) -> None:
    """Measure which inductor options are the fastest on this host, and write them to tuned.yaml."""
    with contract(json, debug):
        from aoti_build.commands import tune as command
        from aoti_build.measurement.statistics import BAND
        from aoti_build.report.tune_text import tune_lines

        project, targets = project_of(context, file, target)
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


@documented_task
def status(
    context: Context, target: str = "", file: str = "", json: bool = False, debug: bool = False
) -> None:
    """Show for every target whether its artifact is up to date, and why not."""
    with contract(json, debug):
        from aoti_build.commands import status as command
        from aoti_build.report import text

        project, targets = project_of(context, file, target)
        report = command.status(project, targets=targets)
        show(report, text.status_lines(report), json)


@documented_task
def why(
    context: Context, target: str = "", file: str = "", json: bool = False, debug: bool = False
) -> None:
    """Show in detail why artifacts are out of date, and why the last build ran.

    Every part that differs from the published artifact and from the nearest stored one is shown.
    """
    with contract(json, debug):
        from aoti_build.commands import why as command
        from aoti_build.report import text

        project, targets = project_of(context, file, target)
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

            difference = compare(context, file, target, path, diff)
            show(difference, inspect_text.diff_lines(difference), json)
            finish(difference.exit_code)
            return
        if path:
            report = command.InspectReport((command.inspect_file(Path(path)),))
        else:
            report = command.inspect(*project_of(context, file, target), host=host)
        show(report, inspect_text.inspect_lines(report), json)
        finish(report.exit_code)


@documented_task
def gc(
    context: Context,
    max_size: str = "",
    max_age: str = "",
    dry_run: bool = False,
    file: str = "",
    json: bool = False,
    debug: bool = False,
) -> None:
    """Make the store smaller. Files of published artifacts stay."""
    with contract(json, debug):
        from aoti_build.commands import gc as command
        from aoti_build.report import text

        project, _ = project_of(context, file, "")
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
def clean(
    context: Context,
    target: str = "",
    file: str = "",
    orphans: bool = False,
    dry_run: bool = False,
    json: bool = False,
    debug: bool = False,
) -> None:
    """Remove artifacts: those of --target, the --orphans, or all of them and the working state."""
    with contract(json, debug):
        from aoti_build.commands import clean as command
        from aoti_build.report import text

        project, targets = project_of(context, file, target)
        report = command.clean(
            project,
            targets if target else None,
            orphans_only=orphans,
            dry_run=dry_run or context.config.run.dry,
        )
        show(report, text.clean_lines(report), json)


@documented_task
def doctor(
    context: Context,
    device: str = "",
    file: str = "",
    quick: bool = False,
    strict: bool = False,
    json: bool = False,
    debug: bool = False,
) -> None:
    """Check this host, then compile, load and run a small model on each device.

    The checks cover the compiler, the GPU, directories and memory.
    """
    with contract(json, debug):
        from aoti_build.commands import doctor as command
        from aoti_build.host.devices import device_names
        from aoti_build.report import text

        devices = read_list("--device", device)
        for name in devices:
            require_choice("--device", name, device_names())
        if file and not Path(file).is_file():
            raise UsageError(f"there is no file {file}")
        models_file = Path(file).absolute() if file else nearest_models_file(context)
        report = command.doctor(
            devices,
            artifacts=models_file.parent / "artifacts" if models_file else None,
            quick=quick,
            strict=strict,
            on_progress=progress(()),
        )
        show(report, text.doctor_lines(report), json)
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


ns = Collection("aoti", build, verify, run, tune, status, why, inspect, clean, gc, doctor, schema)
