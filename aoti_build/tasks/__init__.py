"""The invoke tasks: parse options, call a verb, print its report, exit with its code. No logic of
their own.

``from aoti_build.tasks import ns`` is a whole tasks.py; ``ns.add_collection(aoti_build.tasks.ns,
name="aoti")`` makes the same tasks a part of another. Every option has a default: invoke turns a
parameter without one into a positional.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from invoke import Collection, Context

# invoke switches the writing of bytecode off. Without bytecode, every task would compile the
# modules of this package again, which takes longer than a build with nothing to do.
sys.dont_write_bytecode = bool(os.environ.get("PYTHONDONTWRITEBYTECODE"))

from aoti_build.errors import UsageError
from aoti_build.models_file import check_files
from aoti_build.tasks.answer import contract, finish, progress, say, show, write_reports
from aoti_build.tasks.options import AGES, SIZES, amount, command, whole, words
from aoti_build.tasks.project import nearest_models_file, project_of


@command
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
    """Bring every artifact up to date: compile what changed, check it against eager, publish it."""
    with contract(json, debug):
        from aoti_build.commands import build as verb
        from aoti_build.report import text

        project, targets = project_of(context, file, target)
        check_files(project, targets)
        count = whole("--jobs", jobs)
        if dry_run or context.config.run.dry:
            plan = verb.plan(project, targets, force=force)
            show(verb.PlanReport(plan), text.plan_lines(plan), json)
            return
        report = verb.build(
            project,
            targets,
            jobs=count,
            force=force,
            keep_going=keep_going,
            strict=strict,
            check_reproducible=check_reproducible,
            on_progress=progress(targets),
        )
        show(report, text.build_lines(report), json)
        finish(report.exit_code)


@command
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
    junit: str = "",
    html: str = "",
    debug: bool = False,
) -> None:
    """Load every artifact in a fresh process and compare its outputs with what eager gave, over the
    whole range of sizes; and see that it refuses what it must."""
    with contract(json, debug):
        from aoti_build.commands import verify as verb
        from aoti_build.common.outputs import check_output
        from aoti_build.report.verify_text import verify_lines

        if runtime and runtime not in verb.RUNTIMES:
            raise UsageError(f"--runtime {runtime}: not one of {', '.join(verb.RUNTIMES)}")
        for named in filter(None, (junit, html)):
            check_output(Path(named))
        project, targets = project_of(context, file, target)
        report = verb.verify(
            project,
            targets,
            jobs=whole("--jobs", jobs) or 1,
            strict=strict,
            fresh=fresh,
            seeds=whole("--seeds", seeds) or 1,
            limit=float(whole("--timeout", timeout) or verb.TIME_LIMIT),
            localize=localize,
            repro=Path(repro).absolute() if repro else None,
            runtime=runtime or verb.PYTHON,
            on_progress=progress(targets),
        )
        write_reports(report, junit, html)
        show(report, verify_lines(report), json)
        finish(report.exit_code)


@command
def run(
    context: Context,
    target: str = "",
    input: str = "",
    output: str = "",
    repeat: str = "",
    seed: str = "",
    file: str = "",
    json: bool = False,
    debug: bool = False,
) -> None:
    """Load artifacts, run them on the reference data or on given inputs, check and time them."""
    with contract(json, debug):
        from aoti_build.commands import run as verb
        from aoti_build.report.run_text import run_lines

        project, targets = project_of(context, file, target)
        report = verb.run(
            project,
            targets,
            inputs=words("--input", input),
            output=output,
            seed=verb.SEED if (given := whole("--seed", seed, least=0)) is None else given,
            repeat=whole("--repeat", repeat) or verb.REPEAT,
            on_progress=progress(targets),
        )
        show(report, run_lines(report), json)
        finish(report.exit_code)


@command
def status(
    context: Context, target: str = "", file: str = "", json: bool = False, debug: bool = False
) -> None:
    """Say for every target whether its artifact is what the sources say, and why not."""
    with contract(json, debug):
        from aoti_build.commands import status as verb
        from aoti_build.report import text

        project, targets = project_of(context, file, target)
        report = verb.status(project, targets=targets)
        show(report, text.status_lines(report), json)


@command
def why(
    context: Context, target: str = "", file: str = "", json: bool = False, debug: bool = False
) -> None:
    """Say part by part what differs from the published artifact and the nearest stored one, and why
    the last build ran."""
    with contract(json, debug):
        from aoti_build.commands import why as verb
        from aoti_build.report import text

        project, targets = project_of(context, file, target)
        report = verb.why(project, targets)
        show(report, text.why_lines(report), json)


@command
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
    """Say what artifacts or any .pt2 file hold, without loading them; or what two of them differ
    in."""
    with contract(json, debug):
        from aoti_build.commands import inspect as verb
        from aoti_build.report import inspect_text

        if target and path:
            raise UsageError(
                "--target and --path name two artifacts",
                hint="give one of them; --diff names the other",
            )
        if host and (path or diff):
            raise UsageError(
                "--host asks about the variants of targets", hint="leave out --path and --diff"
            )
        if diff:
            from aoti_build.tasks.comparison import compared

            difference = compared(context, file, target, path, diff)
            show(difference, inspect_text.diff_lines(difference), json)
            finish(difference.exit_code)
            return
        if path:
            report = verb.InspectReport((verb.inspect_file(Path(path)),))
        else:
            report = verb.inspect(*project_of(context, file, target), host=host)
        show(report, inspect_text.inspect_lines(report), json)
        finish(report.exit_code)


@command
def gc(
    context: Context,
    max_size: str = "",
    max_age: str = "",
    dry_run: bool = False,
    file: str = "",
    json: bool = False,
    debug: bool = False,
) -> None:
    """Make the store smaller; what a published artifact needs stays."""
    with contract(json, debug):
        from aoti_build.commands import gc as verb
        from aoti_build.report import text

        project, _ = project_of(context, file, "")
        if not (max_size or max_age):
            raise UsageError(
                "gc needs a limit",
                hint="--max-size 20g, or --max-age 30d; 0 removes all that nothing uses",
            )
        report = verb.gc(
            project,
            max_size=amount("--max-size", max_size, SIZES),
            max_age=amount("--max-age", max_age, AGES),
            dry_run=dry_run or context.config.run.dry,
        )
        show(report, text.gc_lines(report), json)


@command
def clean(
    context: Context,
    target: str = "",
    file: str = "",
    orphans: bool = False,
    dry_run: bool = False,
    json: bool = False,
    debug: bool = False,
) -> None:
    """Remove artifacts: those of --target, the --orphans, or all of them with the working state."""
    with contract(json, debug):
        from aoti_build.commands import clean as verb
        from aoti_build.report import text

        project, targets = project_of(context, file, target)
        report = verb.clean(
            project,
            targets if target else None,
            orphans_only=orphans,
            dry_run=dry_run or context.config.run.dry,
        )
        show(report, text.clean_lines(report), json)


@command
def doctor(
    context: Context,
    device: str = "",
    file: str = "",
    quick: bool = False,
    strict: bool = False,
    json: bool = False,
    debug: bool = False,
) -> None:
    """Check compiler, GPU, directories and memory, then compile, load and run a small model on each
    device."""
    with contract(json, debug):
        from aoti_build.commands import doctor as verb
        from aoti_build.host.devices import device_names
        from aoti_build.report import text

        devices = words("--device", device)
        if unknown := sorted(set(devices) - set(device_names())):
            raise UsageError(f"--device {unknown[0]}: not one of {', '.join(device_names())}")
        models_file = Path(file).absolute() if file else nearest_models_file(context)
        if file and not (models_file and models_file.is_file()):
            raise UsageError(f"there is no file {file}")
        report = verb.doctor(
            devices,
            artifacts=models_file.parent / "artifacts" if models_file else None,
            quick=quick,
            strict=strict,
            on_progress=progress(()),
        )
        show(report, text.doctor_lines(report), json)
        finish(report.exit_code)


@command
def schema(context: Context, output: str = "", debug: bool = False) -> None:
    """Write the JSON schema of models.yaml, which editors use for completion and checks."""
    with contract(False, debug):
        from aoti_build.common.outputs import write_output
        from aoti_build.models_file.editor_schema import json_schema_text

        if output:
            write_output(Path(output), json_schema_text().encode())
        else:
            say(json_schema_text())


ns = Collection("aoti", build, verify, run, status, why, inspect, clean, gc, doctor, schema)
