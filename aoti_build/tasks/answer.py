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

from aoti_build.common.json_object import JsonObject
from aoti_build.common.writing import disk_error
from aoti_build.errors import (
    AotiBuildError,
    ExitCode,
    Interrupted,
    ToolchainError,
    UsageError,
    name_tasks,
)
from aoti_build.models_file import Target
from aoti_build.tasks.interruption import Interruption
from aoti_build.tasks.naming import name_tasks_as_invoked

if TYPE_CHECKING:
    from aoti_build.commands.verify_report import VerifyReport

    class Report(Protocol):
        """The return value of every command."""

        def as_json(self) -> JsonObject: ...


@contextlib.contextmanager
def contract(json: bool, debug: bool) -> Iterator[None]:
    """Runs a command. An error is printed as text or JSON, and the task ends with its exit code.

    SIGINT and SIGTERM end the task with 130. With `debug`, the traceback of an error is printed.
    """
    name_tasks_as_invoked()
    interrupted = Interrupted("interrupted")
    interruption = Interruption(_error_document(interrupted) if json else "")
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
    if json and sys.stdout is not None:
        # If stdout cannot be written to, the error itself is more important.
        with contextlib.suppress(ToolchainError):
            write_stdout(_error_document(error))
    _write_stderr(f"error: {error}\n")
    raise Exit(code=error.exit_code) from None


def _error_document(error: AotiBuildError) -> str:
    document = {
        "format": "aoti-build/error",
        "format_version": 1,
        "ok": False,
        "error": error.as_json(),
    }
    return jsonlib.dumps(document, indent=2) + "\n"


def _write_stderr(text: str) -> None:
    """Write to stderr if possible. The exit code tells the result in any case."""
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except OSError:
        _discard_output(sys.stderr)


def _discard_output(stream: TextIO) -> None:
    """Redirect a broken stream to /dev/null. Otherwise Python reports it again when it flushes at
    exit."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)


def progress(targets: tuple[Target, ...]) -> Callable[[Target, str], None]:
    """A function that prints a line on stderr for each phase of a target."""
    width = max((len(target.name) for target in targets), default=0)

    def print_phase(target: Target, phase: str) -> None:
        # Several threads print, so each line is written with one call.
        _write_stderr(f"{target.name.ljust(width)}  {phase}\n")

    return print_phase


def show(report: Report, lines: list[str], json: bool) -> None:
    """Print the report as JSON, or else its `lines`."""
    text = jsonlib.dumps(report.as_json(), indent=2) if json else "\n".join(lines)
    write_stdout(text + "\n")


def write_stdout(text: str) -> None:
    """Write to stdout.

    It is no error if the reader has closed its pipe, as in `inv status | head`. Raises
    `ToolchainError` if stdout cannot be written to.
    """
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        _discard_output(sys.stdout)
    except OSError as error:
        _discard_output(sys.stdout)
        raise ToolchainError(
            "stdout cannot be written to",
            cause=str(error),
            hint="the work is done and only its report is lost; redirect stdout to another file",
        ) from error


def finish(code: int) -> None:
    """End the task with this exit code."""
    if code != ExitCode.OK:
        raise Exit(code=code)


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
