"""The invoke shell: parse options, call a verb, print its report, exit with its code. No logic of its own.

``from aoti_build.tasks import ns`` is a whole tasks.py; ``ns.add_collection(aoti_build.tasks.ns, name="aoti")`` makes
the same tasks a part of another. Options are strings or flags, all with defaults: invoke turns a parameter without
default into a positional, and its own conversion of a bad number ends in a traceback.
"""

from __future__ import annotations

import contextlib
import json as jsonlib
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from invoke import Collection, Context, Exit, task

from aoti_build.errors import OK, AotiBuildError, BuildError, Interrupted, UsageError
from aoti_build.layout import project_cache_path
from aoti_build.spec import Project, Target, check_files, load_project, select

if TYPE_CHECKING:
    from aoti_build.verbs.inspect import Inspected

MODELS_FILE = "models.yaml"

_SIZES = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_AGES = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}

_HELP = {
    "target": "globs over target names, comma separated; a model's name means all its variants",
    "file": "the models.yaml to use; default: the one beside tasks.py, or above the current directory",
    "json": "print one JSON document on stdout, everything else on stderr",
    "jobs": "workers at once; default: as cores and memory allow",
    "force": "build even what is up to date",
    "keep-going": "after a failure go on with the other targets",
    "dry-run": "only say what would be done",
    "strict": "a missing device (and, in verify, a stale artifact) is a failure",
    "check-reproducible": "compile every target once more from nothing; other bytes are a failure",
    "fresh": "let eager give the references now, from the model's source, not at build time",
    "seeds": "verify with this many random inputs for each size; above 1, as --fresh",
    "timeout": "seconds that each process may take; default: 600",
    "deep": "of what fails, find the first module that differs, or the weights; may compile prefixes of the model",
    "runtime": "python, or cpp: call packages from a C++ program made with the installed torch; default: python",
    "repro": "of what fails, write a script with inputs that shows it with plain torch, below this directory",
    "junit": "write the result as JUnit XML to this file, for CI",
    "html": "write the result as one page to this file",
    "debug": "show the traceback of an error",
    "input": "comma separated: random, or files of tensors (.npy .npz .safetensors .pt) or pictures (.png .jpg .jpeg "
    ".webp .bmp); default: the golden input",
    "seed": "of random inputs; default: 1",
    "repeat": "timed calls; default: 10",
    "max-size": "bytes the store may have, with k, m, g or t: 20g",
    "max-age": "remove what was not used for this long, with s, m, h, d or w: 30d",
    "path": "a .pt2 file, made by whomever",
    "host": "also which variant of each model this host would load, and why not the others",
    "diff": "compare with this one: a .pt2 file, or a target",
    "orphans": "only artifacts that models.yaml no longer lists",
    "output": "where to write the schema; default: stdout",
    "device": "comma separated: cpu, cuda; default: both, and a missing GPU is no failure",
    "quick": "compile no model: the checks that build makes before its first compile, and a few more",
}
_RUN_OUTPUT = "a .safetensors, .npz or .pt file for the outputs; {target} and {input} in it stand for their names"


class Report(Protocol):
    """What every verb returns."""

    def as_json(self) -> dict[str, Any]: ...


def _help(*names: str) -> dict[str, str]:
    return {name: _HELP[name] for name in names}


@task(
    help=_help(
        "target", "file", "json", "jobs", "force", "keep-going", "dry-run", "strict", "check-reproducible", "debug"
    )
)
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
    with _contract(json, debug):
        from aoti_build.report import text
        from aoti_build.verbs import build as verb

        project, targets = _project(context, file, target)
        check_files(project, targets)
        count = _whole("--jobs", jobs)
        if dry_run or context.config.run.dry:
            plan = verb.plan(project, targets, force=force)
            _print(verb.PlanReport(plan), text.plan_lines(plan), json)
            return
        report = verb.build(
            project,
            targets,
            jobs=count,
            force=force,
            keep_going=keep_going,
            strict=strict,
            check_reproducible=check_reproducible,
            on_progress=_progress(targets),
        )
        _print(report, text.build_lines(report), json)
        _finish(report.exit_code)


@task(
    help=_help(
        "target",
        "file",
        "json",
        "jobs",
        "strict",
        "fresh",
        "seeds",
        "timeout",
        "deep",
        "repro",
        "runtime",
        "junit",
        "html",
        "debug",
    )
)
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
    deep: bool = False,
    repro: str = "",
    runtime: str = "",
    junit: str = "",
    html: str = "",
    debug: bool = False,
) -> None:
    """Load every artifact in a fresh process and compare its outputs with what eager gave, over the whole range of
    sizes; and see that it refuses what it must."""
    with _contract(json, debug):
        from aoti_build.report import text
        from aoti_build.verbs import verify as verb

        if runtime and runtime not in verb.RUNTIMES:
            raise UsageError(f"--runtime {runtime}: not one of {', '.join(verb.RUNTIMES)}")
        project, targets = _project(context, file, target)
        report = verb.verify(
            project,
            targets,
            jobs=_whole("--jobs", jobs) or 1,
            strict=strict,
            fresh=fresh,
            seeds=_whole("--seeds", seeds) or 1,
            limit=float(_whole("--timeout", timeout) or verb.TIME_LIMIT),
            deep=deep,
            repro=Path(repro).absolute() if repro else None,
            runtime=runtime or verb.PYTHON,
            on_progress=_progress(targets),
        )
        _write_reports(report, junit, html)
        _print(report, text.verify_lines(report), json)
        _finish(report.exit_code)


@task(help={**_help("target", "file", "input", "seed", "repeat", "json", "debug"), "output": _RUN_OUTPUT})
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
    """Load artifacts, run them on the golden or on given inputs, check and time them."""
    with _contract(json, debug):
        from aoti_build.report import text
        from aoti_build.verbs import run as verb

        project, targets = _project(context, file, target)
        report = verb.run(
            project,
            targets,
            inputs=_words("--input", input),
            output=output,
            seed=verb.SEED if (given := _whole("--seed", seed, least=0)) is None else given,
            repeat=_whole("--repeat", repeat) or verb.REPEAT,
            on_progress=_progress(targets),
        )
        _print(report, text.run_lines(report), json)
        _finish(report.exit_code)


@task(help=_help("target", "file", "json", "debug"))
def status(context: Context, target: str = "", file: str = "", json: bool = False, debug: bool = False) -> None:
    """Say for every target whether its artifact is what the sources say, and why not."""
    with _contract(json, debug):
        from aoti_build.report import text
        from aoti_build.verbs import status as verb

        project, targets = _project(context, file, target)
        report = verb.status(project, targets=targets)
        _print(report, text.status_lines(report), json)


@task(help=_help("target", "file", "json", "debug"))
def why(context: Context, target: str = "", file: str = "", json: bool = False, debug: bool = False) -> None:
    """Say part by part what differs from the published artifact and the nearest stored one, and why the last build
    ran."""
    with _contract(json, debug):
        from aoti_build.report import text
        from aoti_build.verbs import why as verb

        project, targets = _project(context, file, target)
        report = verb.why(project, targets)
        _print(report, text.why_lines(report), json)


@task(help=_help("target", "path", "diff", "host", "file", "json", "debug"))
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
    """Say what artifacts or any .pt2 file hold, without loading them; or what two of them differ in."""
    with _contract(json, debug):
        from aoti_build.report import inspect_text
        from aoti_build.verbs import inspect as verb

        if target and path:
            raise UsageError("--target and --path name two artifacts", hint="give one of them; --diff names the other")
        if host and (path or diff):
            raise UsageError("--host asks about the variants of targets", hint="leave out --path and --diff")
        if diff:
            from aoti_build.verbs import inspect_diff

            one = verb.inspect_file(Path(path)) if path else _inspected(context, file, target)
            other = verb.inspect_file(Path(diff)) if _is_package(diff) else _inspected(context, file, diff)
            compared = inspect_diff.diff(one, other)
            _print(compared, inspect_text.diff_lines(compared), json)
            _finish(compared.exit_code)
            return
        if path:
            report = verb.InspectReport((verb.inspect_file(Path(path)),))
        else:
            report = verb.inspect(*_project(context, file, target), host=host)
        _print(report, inspect_text.inspect_lines(report), json)
        _finish(report.exit_code)


@task(help=_help("max-size", "max-age", "dry-run", "file", "json", "debug"))
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
    with _contract(json, debug):
        from aoti_build.report import text
        from aoti_build.verbs import gc as verb

        project, _ = _project(context, file, "")
        if not (max_size or max_age):
            raise UsageError(
                "gc needs a limit", hint="--max-size 20g, or --max-age 30d; 0 removes all that nothing uses"
            )
        report = verb.gc(
            project,
            max_size=_amount("--max-size", max_size, _SIZES),
            max_age=_amount("--max-age", max_age, _AGES),
            dry_run=dry_run or context.config.run.dry,
        )
        _print(report, text.gc_lines(report), json)


@task(help=_help("target", "file", "orphans", "dry-run", "json", "debug"))
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
    with _contract(json, debug):
        from aoti_build.report import text
        from aoti_build.verbs import clean as verb

        project, targets = _project(context, file, target)
        report = verb.clean(
            project, targets if target else None, orphans_only=orphans, dry_run=dry_run or context.config.run.dry
        )
        _print(report, text.clean_lines(report), json)


@task(help={**_help("device", "file", "quick", "json", "debug"), "strict": "a missing device is a failure"})
def doctor(
    context: Context,
    device: str = "",
    file: str = "",
    quick: bool = False,
    strict: bool = False,
    json: bool = False,
    debug: bool = False,
) -> None:
    """Check compiler, GPU, directories and memory, then compile, load and run a small model on each device."""
    with _contract(json, debug):
        from aoti_build.report import text
        from aoti_build.verbs import doctor as verb

        devices = _words("--device", device)
        if unknown := sorted(set(devices) - set(verb.DEVICES)):
            raise UsageError(f"--device {unknown[0]}: not one of {', '.join(verb.DEVICES)}")
        models_file = Path(file).absolute() if file else _models_file(context)
        if file and not (models_file and models_file.is_file()):
            raise UsageError(f"there is no file {file}")
        report = verb.doctor(
            devices,
            artifacts=models_file.parent / "artifacts" if models_file else None,
            quick=quick,
            strict=strict,
            on_progress=_progress(()),
        )
        _print(report, text.doctor_lines(report), json)
        _finish(report.exit_code)


@task(help=_help("output", "debug"))
def schema(context: Context, output: str = "", debug: bool = False) -> None:
    """Write the JSON schema of models.yaml, which editors use for completion and checks."""
    with _contract(False, debug):
        from aoti_build.files import write_atomic
        from aoti_build.spec.schema import json_schema_text

        if output:
            write_atomic(Path(output), json_schema_text().encode())
        else:
            print(json_schema_text(), end="")


ns = Collection("aoti", build, verify, run, status, why, inspect, clean, gc, doctor, schema)


def _project(context: Context, file: str, pattern: str) -> tuple[Project, tuple[Target, ...]]:
    path = Path(file).absolute() if file else _default_file(context)
    project = load_project(path, project_cache_path(path.absolute()))
    return project, select(project.targets, pattern or None)


def _is_package(word: str) -> bool:
    """Whether --diff names a file. Targets look like paths too, and theirs is a directory."""
    return word.endswith(".pt2") or Path(word).is_file()


def _inspected(context: Context, file: str, pattern: str) -> Inspected:
    """The one artifact of a target that --diff compares."""
    from aoti_build.verbs.inspect import inspect_target

    project, targets = _project(context, file, pattern)
    if len(targets) != 1:
        raise UsageError(
            f"--diff compares one artifact with one, and {pattern or 'no --target'} means {len(targets)}",
            hint="name one: inv inspect --target model/cpu --diff other.pt2",
        )
    return inspect_target(project, targets[0])


def _default_file(context: Context) -> Path:
    """As `_models_file`; `UsageError` if there is none."""
    if found := _models_file(context):
        return found
    starts = _starts(context)
    raise UsageError(
        f"there is no {MODELS_FILE} in {starts[0] if starts else Path.cwd()}",
        hint="write one (the README has a small one to start from), or name it with --file",
    )


def _models_file(context: Context) -> Path | None:
    """models.yaml beside the loaded tasks.py; else the nearest one from the current directory upwards."""
    here = Path.cwd()
    for directory in (*_starts(context), here, *here.parents):
        if (directory / MODELS_FILE).is_file():
            return directory / MODELS_FILE
    return None


def _starts(context: Context) -> list[Path]:
    """The directory of the loaded tasks.py, if one was loaded."""
    tasks_file = getattr(sys.modules.get(context.config.tasks.collection_name), "__file__", None)
    if not tasks_file:
        return []
    directory = Path(tasks_file).absolute().parent
    return [directory.parent if Path(tasks_file).name == "__init__.py" else directory]


def _write_reports(report: Report, junit: str, html: str) -> None:
    """The report as JUnit XML and as a page, where files for them were named."""
    from aoti_build.files import write_atomic

    document = report.as_json()
    if junit:
        from aoti_build.report.junit import junit_xml

        write_atomic(Path(junit).absolute(), junit_xml(document).encode())
    if html:
        from aoti_build.report.html import html_page

        write_atomic(Path(html).absolute(), html_page(document).encode())


def _whole(option: str, text: str, *, least: int = 1) -> int | None:
    """A number of at most nine digits, since more is a slip, whatever it counts; None for no text."""
    if not text:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and int(text) >= least):
        raise UsageError(f"{option} {text}: not a whole number from {least} to 999999999")
    return int(text)


def _words(option: str, text: str) -> tuple[str, ...]:
    words = tuple(word for part in text.split(",") if (word := part.strip()))
    if text and not words:
        raise UsageError(f"{option} {text}: names nothing")
    return words


def _amount(option: str, text: str, units: Mapping[str, int]) -> int | None:
    """``10G`` or ``30d`` in bytes or seconds; None for no text."""
    if not text:
        return None
    number, unit = (text[:-1], text[-1].lower()) if not text[-1].isdigit() else (text, "")
    if not number.isdecimal() or unit not in units:
        known = ", ".join(name for name in units if name)
        raise UsageError(f"{option} {text}: not a whole number with one of the units {known}")
    return int(number) * units[unit]


def _progress(targets: tuple[Target, ...]) -> Callable[[Target, str], None]:
    """Prints a line on stderr for each phase that a target enters."""
    width = max((len(target.name) for target in targets), default=0)

    def show(target: Target, phase: str) -> None:
        print(f"{target.name.ljust(width)}  {phase}", file=sys.stderr, flush=True)

    return show


def _print(report: Report, lines: list[str], json: bool) -> None:
    print(jsonlib.dumps(report.as_json(), indent=2) if json else "\n".join(lines))
    sys.stdout.flush()


def _finish(code: int) -> None:
    if code != OK:
        raise Exit(code=code)


@contextlib.contextmanager
def _contract(json: bool, debug: bool) -> Iterator[None]:
    """The command contract around a verb: errors as text or JSON with their exit code, 130 for SIGINT and SIGTERM,
    silence when the reader of stdout has gone.
    """
    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    except AotiBuildError as error:
        if debug:
            traceback.print_exc()
        _fail(error, json)
    except KeyboardInterrupt:
        _fail(Interrupted("interrupted"), json)
    except BrokenPipeError:
        # Nobody reads any more (`inv status | head`). Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        failure = BuildError("the file system refused", cause=str(error))
        _fail(failure, json)
    finally:
        signal.signal(signal.SIGTERM, previous)


def _fail(error: AotiBuildError, json: bool) -> NoReturn:
    """End with the error's text on stderr, and with its document on stdout if one was asked for."""
    if json:
        document = {"format": "aoti-build/error", "format_version": 1, "ok": False, "error": error.as_json()}
        print(jsonlib.dumps(document, indent=2))
    raise Exit(f"error: {error}", code=error.exit_code) from None


def _interrupt(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt
