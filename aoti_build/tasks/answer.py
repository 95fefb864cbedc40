"""What a task prints, writes and ends with, whatever its verb: docs/reference/formats.md has the
contract."""

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
from aoti_build.errors import AotiBuildError, ExitCode, Interrupted, ToolchainError, UsageError
from aoti_build.models_file import Target
from aoti_build.tasks.interruption import Interruption

if TYPE_CHECKING:
    from aoti_build.commands.verify_report import VerifyReport

    class Report(Protocol):
        """What every verb returns."""

        def as_json(self) -> JsonObject: ...


@contextlib.contextmanager
def contract(json: bool, debug: bool) -> Iterator[None]:
    """The command contract around a verb: errors as text or JSON with their exit code, 130 for
    SIGINT and SIGTERM."""
    interrupted = Interrupted("interrupted")
    interruption = Interruption(_document(interrupted) if json else "")
    try:
        _prepare_streams()
        yield
        if interruption.came:  # and something on its way was not let through
            _fail(interrupted, json)
    except AotiBuildError as error:
        if debug:
            _complain(traceback.format_exc())
        _fail(error, json)
    except KeyboardInterrupt:
        _fail(interrupted, json)
    except OSError as error:
        # After an interruption, what was left half done may fail as well.
        _fail(interrupted if interruption.came else disk_error(error), json)
    finally:
        interruption.over()


def _prepare_streams() -> None:
    """See to it that whatever a verb prints can be printed, before it does anything. Raises
    `UsageError`.

    A closed stream's number would go to the next file that is opened, which would then get what is
    printed.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
    if sys.stderr is None:
        sys.stderr = open(2, "w", errors="backslashreplace", closefd=False)  # noqa: SIM115
    if sys.stdout is None:
        raise UsageError("stdout is closed", hint="send it somewhere, for instance to /dev/null")
    # A locale without the letters of a path is no reason to fail.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _fail(error: AotiBuildError, json: bool) -> NoReturn:
    """End with the error's text on stderr, and with its document on stdout if one was asked for."""
    if json and sys.stdout is not None:
        with contextlib.suppress(ToolchainError):  # the error itself says more
            say(_document(error))
    _complain(f"error: {error}\n")
    raise Exit(code=error.exit_code) from None


def _complain(text: str) -> None:
    """Write to stderr, as far as it can be written to: the exit code says the rest."""
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except OSError:
        _silence(sys.stderr)


def _silence(stream: TextIO) -> None:
    """Let a stream that cannot be written to lead nowhere: Python would complain again when it
    flushes at exit."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)


def _document(error: AotiBuildError) -> str:
    document = {
        "format": "aoti-build/error",
        "format_version": 1,
        "ok": False,
        "error": error.as_json(),
    }
    return jsonlib.dumps(document, indent=2) + "\n"


def progress(targets: tuple[Target, ...]) -> Callable[[Target, str], None]:
    """Prints a line on stderr for each phase that a target enters, in one piece: several threads do
    so."""
    width = max((len(target.name) for target in targets), default=0)

    def tell(target: Target, phase: str) -> None:
        _complain(f"{target.name.ljust(width)}  {phase}\n")

    return tell


def show(report: Report, lines: list[str], json: bool) -> None:
    say((jsonlib.dumps(report.as_json(), indent=2) if json else "\n".join(lines)) + "\n")


def say(text: str) -> None:
    """Write to stdout. That its reader has gone (`inv status | head`) is no error; raises
    `ToolchainError` for a stdout that takes nothing."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        _silence(sys.stdout)
    except OSError as error:
        _silence(sys.stdout)
        hint = "what was asked for is done, only the report is lost; send stdout somewhere else"
        raise ToolchainError("stdout cannot be written to", cause=str(error), hint=hint) from error


def finish(code: int) -> None:
    if code != ExitCode.OK:
        raise Exit(code=code)


def write_reports(report: VerifyReport, junit: str, html: str) -> None:
    """The report as JUnit XML and as a page, where files for them were named."""
    from aoti_build.common.outputs import write_output

    if junit:
        from aoti_build.report.junit import junit_xml

        write_output(Path(junit).absolute(), junit_xml(report).encode(errors="backslashreplace"))
    if html:
        from aoti_build.report.html import html_page

        write_output(Path(html).absolute(), html_page(report).encode(errors="backslashreplace"))
