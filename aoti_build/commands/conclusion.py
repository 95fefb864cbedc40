"""The head of every report's JSON, and the one error that ends a task which failed.

The report itself has the details of each target. The error at the end says in a few lines what
failed and what to do next, so that the end of a CI log is enough to begin with.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from aoti_build import __version__
from aoti_build.common.json_object import JsonObject
from aoti_build.errors import (
    AotiBuildError,
    ArtifactError,
    BuildError,
    ExitCode,
    Interrupted,
    ToolchainError,
    UsageError,
    VerificationError,
)

# More names than these make the last lines of a log hard to read. The report has all of them.
SHOWN_NAMES = 5
_ERROR_OF_CODE: Mapping[int, type[AotiBuildError]] = {
    ExitCode.BUILD_FAILED: BuildError,
    ExitCode.USAGE: UsageError,
    ExitCode.VERIFICATION_FAILED: VerificationError,
    ExitCode.UNFIT_ARTIFACT: ArtifactError,
    ExitCode.UNFIT_TOOLCHAIN: ToolchainError,
    ExitCode.INTERRUPTED: Interrupted,
}


class Failure(NamedTuple):
    """Why one target, artifact or check made a task fail: its name, and a clause in one line."""

    name: str
    why: str


def head(document_format: str, version: int, error: AotiBuildError | None = None) -> JsonObject:
    """The fields that the document of every task begins with. `error` is the report's."""
    return {
        "format": document_format,
        "format_version": version,
        "aoti_build": __version__,
        "ok": error is None,
        "error": error.as_json() if error is not None else None,
    }


def code_of(error: AotiBuildError | None) -> int:
    """The exit code of a report with this error."""
    return ExitCode.OK if error is None else error.exit_code


def error_class(code: int) -> type[AotiBuildError]:
    """The class of errors with this exit code."""
    return _ERROR_OF_CODE[code]


def concluding_error(
    kind: type[AotiBuildError],
    message: str,
    failures: Sequence[Failure],
    *,
    hint: str,
    log: Path | None = None,
) -> AotiBuildError:
    """The error that ends a task. `message` says what happened to the failed ones, whose names and
    causes are added; `hint` names a command."""
    causes = []
    for failure in failures[:SHOWN_NAMES]:
        if failure.why:
            causes.append(f"{failure.name}: {failure.why}")
    hidden = len(failures) - SHOWN_NAMES
    if hidden > 0 and causes:
        causes.append(f"and {hidden} more")
    return kind(
        f"{message}: {names_text(failure.name for failure in failures)}",
        cause="\n".join(causes) or None,
        hint=hint,
        log=log,
    )


def failed_targets(
    task: str, errors: Mapping[str, AotiBuildError], total: int, code: int
) -> AotiBuildError:
    """The error with this exit code that ends a task of which some targets of `total` failed."""
    names = list(errors)
    again = f"`invoke {task}{target_option(names)}`"
    hint = f"correct what the report says of each target, then run {again}"
    log = None
    # With one failure, its own next step is at hand.
    if len(errors) == 1:
        own = errors[names[0]]
        log = own.log
        hint = f"{own.hint}\nthen run {again}" if own.hint else f"correct it, then run {again}"
    return concluding_error(
        error_class(code),
        f"{of_total(len(errors), total, 'target')} failed",
        [Failure(name, one_line(error)) for name, error in errors.items()],
        hint=hint,
        log=log,
    )


def names_text(names: Iterable[str]) -> str:
    """``a, b, c, d, e and 3 more``."""
    listed = list(names)
    hidden = len(listed) - SHOWN_NAMES
    text = ", ".join(listed[:SHOWN_NAMES])
    return f"{text} and {hidden} more" if hidden > 0 else text


def target_option(names: Sequence[str]) -> str:
    """The option that chooses these targets, with a space before it. Empty if there are many."""
    return f" --target {','.join(names)}" if 0 < len(names) <= SHOWN_NAMES else ""


def of_total(count: int, total: int, noun: str) -> str:
    """``2 of 3 targets``."""
    plural = "" if total == 1 else "s"
    return f"{count} of {total} {noun}{plural}"


def one_line(error: AotiBuildError) -> str:
    """What an error says and where, without its target, cause and hint."""
    words = [word for word in (error.where, error.message) if word]
    return ": ".join(words).replace("\n", " ")
