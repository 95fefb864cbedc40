"""What a task prints, writes and ends with, whatever its verb: docs/formats.md has the contract."""

from __future__ import annotations

import contextlib
import json as jsonlib
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from invoke import Exit

from aoti_build.errors import OK, AotiBuildError, Interrupted
from aoti_build.files import refused
from aoti_build.spec import Target
from aoti_build.tasks.interruption import Interruption

if TYPE_CHECKING:

    class Report(Protocol):
        """What every verb returns."""

        def as_json(self) -> dict[str, Any]: ...


@contextlib.contextmanager
def contract(json: bool, debug: bool) -> Iterator[None]:
    """The command contract around a verb: errors as text or JSON with their exit code, 130 for SIGINT and SIGTERM,
    silence when the reader of stdout has gone.
    """
    interrupted = Interrupted("interrupted")
    interruption = Interruption(_document(interrupted) if json else "")
    try:
        yield
        if interruption.came:  # and something on its way was not let through
            _fail(interrupted, json)
    except AotiBuildError as error:
        if debug:
            traceback.print_exc()
        _fail(error, json)
    except KeyboardInterrupt:
        _fail(interrupted, json)
    except BrokenPipeError:
        # Nobody reads any more (`inv status | head`). Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if interruption.came:
            raise Exit(code=interrupted.exit_code) from None
    except OSError as error:
        # After an interruption, what was left half done may fail as well.
        _fail(interrupted if interruption.came else refused(error), json)
    finally:
        interruption.over()


def _fail(error: AotiBuildError, json: bool) -> NoReturn:
    """End with the error's text on stderr, and with its document on stdout if one was asked for."""
    if json:
        print(_document(error), end="")
    raise Exit(f"error: {error}", code=error.exit_code) from None


def _document(error: AotiBuildError) -> str:
    document = {"format": "aoti-build/error", "format_version": 1, "ok": False, "error": error.as_json()}
    return jsonlib.dumps(document, indent=2) + "\n"


def progress(targets: tuple[Target, ...]) -> Callable[[Target, str], None]:
    """Prints a line on stderr for each phase that a target enters, in one piece: several threads do so."""
    width = max((len(target.name) for target in targets), default=0)

    def say(target: Target, phase: str) -> None:
        sys.stderr.write(f"{target.name.ljust(width)}  {phase}\n")
        sys.stderr.flush()

    return say


def show(report: Report, lines: list[str], json: bool) -> None:
    print(jsonlib.dumps(report.as_json(), indent=2) if json else "\n".join(lines))
    sys.stdout.flush()


def finish(code: int) -> None:
    if code != OK:
        raise Exit(code=code)


def write_reports(report: Report, junit: str, html: str) -> None:
    """The report as JUnit XML and as a page, where files for them were named."""
    from aoti_build.outputs import write_output

    document = report.as_json()
    if junit:
        from aoti_build.report.junit import junit_xml

        write_output(Path(junit).absolute(), junit_xml(document).encode())
    if html:
        from aoti_build.report.html import html_page

        write_output(Path(html).absolute(), html_page(document).encode())
