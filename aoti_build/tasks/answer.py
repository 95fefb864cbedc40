"""The output and the exit code of a task, which docs/reference/formats.md specifies."""

from __future__ import annotations

import contextlib
import io
import json as jsonlib
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, Protocol, TextIO

from invoke import Exit

from aoti_build import __version__
from aoti_build.common.json_object import JsonObject
from aoti_build.common.writing import disk_error, write_all
from aoti_build.errors import (
    AotiBuildError,
    ExitCode,
    Interrupted,
    SpecError,
    ToolchainError,
    UsageError,
    name_tasks,
    with_task_names,
)
from aoti_build.models_file import Target
from aoti_build.tasks.interruption import Interruption
from aoti_build.tasks.naming import name_tasks_as_invoked

if TYPE_CHECKING:
    from aoti_build.commands.verify.report import VerifyReport
    from aoti_build.work.watch import Watcher

    class Report(Protocol):
        """The return value of every command."""

        def as_json(self) -> JsonObject: ...


# The next step after an error that names none, by its exit code.
_HINTS = {
    ExitCode.BUILD_FAILED: "correct it, then run the task again; `invoke status` shows the rest",
    ExitCode.USAGE: "`invoke --help TASK` lists the options of a task",
    ExitCode.VERIFICATION_FAILED: "`invoke status` shows what is there and up to date",
    ExitCode.UNFIT_ARTIFACT: "`invoke inspect` shows what is in the artifacts",
    ExitCode.UNFIT_TOOLCHAIN: "`invoke doctor` checks this host",
    ExitCode.INTERRUPTED: "run the task again to go on; `invoke status` shows what is done",
}
# How the text of a warning begins, among the phases that a command reports.
WARNING = "warning: "


@contextlib.contextmanager
def contract(json: bool, debug: bool) -> Iterator[None]:
    """Runs a command. An error is printed as text or JSON, and the task ends with its exit code.

    SIGINT and SIGTERM end the task with 130. With `debug`, the traceback of an error is printed.
    """
    name_tasks_as_invoked()
    interrupted = Interrupted("interrupted")
    interruption = Interruption(error_document(interrupted) if json else "")
    try:
        _prepare_streams()
        yield
        # Some code, such as a callback of a weak reference, lets no exception through.
        if interruption.has_signal:
            _fail(interrupted, json)
    except AotiBuildError as error:
        if debug:
            _write_stderr(traceback.format_exc())
        _fail(error, json)
    except KeyboardInterrupt:
        _fail(interrupted, json)
    except OSError as error:
        # After an interruption, unfinished work may fail as well.
        _fail(interrupted if interruption.has_signal else disk_error(error), json)
    finally:
        interruption.end()
        name_tasks()


def _prepare_streams() -> None:
    """Make stdout and stderr usable before the command does anything.

    Raises `UsageError` if stdout is closed.
    """
    # The next file that is opened would get the number of a closed stream. All that is printed
    # would then go into that file.
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this one
    if sys.stderr is None:
        sys.stderr = open(2, "w", errors="backslashreplace", closefd=False)  # noqa: SIM115
    if sys.stdout is None:
        raise UsageError("stdout is closed", hint="redirect it, for example to /dev/null")
    # A path may contain letters that the encoding of the locale lacks.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _fail(error: AotiBuildError, json: bool) -> NoReturn:
    """End the task with the error as text on stderr and, with `json`, as a document on stdout."""
    if error.hint is None:
        hint = _HINTS.get(error.exit_code, "")
        if isinstance(error, SpecError):
            hint = f"correct {error.file}; `invoke schema` prints what it may contain"
        error.hint = with_task_names(hint) or None
    if json and sys.stdout is not None:
        # If stdout cannot be written to, the error itself is more important.
        with contextlib.suppress(ToolchainError):
            write_stdout(error_document(error))
    _print_error(error)
    raise Exit(code=error.exit_code) from None


def _print_error(error: AotiBuildError) -> None:
    """Print the error as the last block of stderr."""
    _write_stderr("\n".join(_in_colour(f"error: {error}".split("\n"), sys.stderr)) + "\n")


def error_document(error: AotiBuildError) -> str:
    document = {
        "format": "aoti-build/error",
        "format_version": 1,
        "aoti_build": __version__,
        "ok": False,
        "error": error.as_json(),
    }
    return jsonlib.dumps(document, indent=2) + "\n"


def _write_stderr(text: str) -> None:
    """Write to stderr if possible. The exit code tells the result in any case."""
    try:
        _write(sys.stderr, text)
    except OSError:
        _discard_output(sys.stderr)


def _write(stream: TextIO, text: str) -> None:
    """Write all of a text, also to a pipe that another program has made non-blocking.

    Python itself would drop what such a pipe does not take at once. Raises OSError.
    """
    # What takes the place of a stream may have no descriptor, or change what is written.
    has_descriptor = isinstance(stream, io.TextIOWrapper) and isinstance(
        stream.buffer,
        io.BufferedWriter | io.FileIO,  # PYTHONUNBUFFERED
    )
    if not has_descriptor:
        stream.write(text)
        stream.flush()
        return
    stream.flush()
    write_all(stream.fileno(), text.encode(stream.encoding, stream.errors or "strict"))


def _discard_output(stream: TextIO) -> None:
    """Redirect a broken stream to /dev/null. Otherwise Python reports it again when it flushes at
    exit."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)


def progress(targets: tuple[Target, ...], quiet: bool) -> Callable[[Target, str], None]:
    """A function that prints a line on stderr for each phase of a target. With `quiet` it prints
    warnings only."""
    width = max((len(target.name) for target in targets), default=0)

    def print_phase(target: Target, phase: str) -> None:
        if quiet and not phase.startswith(WARNING):
            return
        # Several threads print, so each line is written with one call.
        _write_stderr(f"{target.name.ljust(width)}  {phase}\n")

    return print_phase


def lines_on_stderr(quiet: bool) -> Callable[[str], None]:
    """A function that prints a line of progress on stderr. With `quiet` it prints nothing."""

    def print_line(line: str) -> None:
        if not quiet:
            _write_stderr(f"{line}\n")

    return print_line


@contextlib.contextmanager
def display(quiet: bool) -> Iterator[Callable[[], Watcher]]:
    """A function that begins to show a build on stderr. What it shows ends with the context.

    With `quiet` it shows warnings only.
    """
    with contextlib.ExitStack() as stack:

        def begin() -> Watcher:
            # A build with nothing to do shows nothing.
            from aoti_build.report.live.display import Messages, display_on

            if quiet:
                return Messages(sys.stderr)
            return stack.enter_context(display_on(sys.stderr))

        yield begin


def show(report: Report, lines: list[str], json: bool) -> None:
    """Print the report as JSON, or else its `lines`."""
    if json:
        text = jsonlib.dumps(report.as_json(), indent=2)
    else:
        text = "\n".join(_in_colour(lines, sys.stdout))
    write_stdout(text + "\n")


def _in_colour(lines: list[str], stream: TextIO) -> list[str]:
    """The lines, with colours if the stream is a terminal."""
    if not stream.isatty():
        return lines
    from aoti_build.report.colour import coloured, has_colours

    return coloured(lines) if has_colours(stream) else lines


def write_stdout(text: str) -> None:
    """Write to stdout.

    It is no error if the reader has closed its pipe, as in `inv status | head`. Raises
    `ToolchainError` if stdout cannot be written to.
    """
    try:
        _write(sys.stdout, text)
    except BrokenPipeError:
        _discard_output(sys.stdout)
    except OSError as error:
        _discard_output(sys.stdout)
        raise ToolchainError(
            "stdout cannot be written to",
            cause=str(error),
            hint="the work is done and only its report is lost; redirect stdout to another file",
        ) from error


def finish(error: AotiBuildError | None) -> None:
    """End the task with the error of its report, if there is one.

    The JSON of the report has the same error, so it is printed on stderr only.
    """
    if error is not None:
        _print_error(error)
        raise Exit(code=error.exit_code)


def write_reports(report: VerifyReport, junit: str, html: str) -> None:
    """Write the report as JUnit XML and as an HTML page to the files with these names, if any."""
    if junit:
        from aoti_build.report.junit import junit_xml

        _write_report(junit, junit_xml(report))
    if html:
        from aoti_build.report.html import html_page

        _write_report(html, html_page(report))


def _write_report(file: str, text: str) -> None:
    from aoti_build.common.outputs import write_output

    write_output(Path(file).absolute(), text.encode(errors="backslashreplace"))
