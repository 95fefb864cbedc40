"""All errors of this package, as one hierarchy; each class has the exit code of the process.

An error answers four questions: *what* failed (`message`, with the target's name), *where*
(`where`, a position such as ``models.yaml:12:7``), *why* (`cause`, usually another program's
message) and *what next* (`hint`, and `log` for details). The report layer renders the answers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from enum import IntEnum
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

# How texts of this package write a command: ``invoke build``, with the plain name of one task. A
# name with a dot is one that is replaced already. What is no task is an option of invoke, or TASK.
_COMMAND = re.compile(r"\binvoke (?:([a-z]+(?:-[a-z]+)*)(?!\.?[\w-])|(?=--[a-z]|TASK\b))")
PROGRAM = "invoke"
TaskNames: TypeAlias = Callable[[], Mapping[str, str]]


class _Tasks:
    """The names that the tasks have in the collection which invoke runs, by their plain names, and
    the program that runs it."""

    names: TaskNames = staticmethod(dict)
    program = PROGRAM


def name_tasks(names: TaskNames = dict, program: str = PROGRAM) -> None:
    """Let texts use these names of tasks and this program from now on, or the plain ones.

    `names` is called when a text with a command is made. A task that it lacks keeps its plain name.
    """
    _Tasks.names = staticmethod(names)
    _Tasks.program = program


def with_task_names(text: str) -> str:
    """The text with the real names of the tasks in its commands, such as ``invoke aoti.build``.

    Hints of errors and remedies of checks pass through here. They may come from workers, which do
    not know the names.
    """
    if "invoke " not in text:
        return text
    names = _Tasks.names()

    def real(match: re.Match[str]) -> str:
        task = match[1] or ""
        return f"{_Tasks.program} {names.get(task, task)}"

    return _COMMAND.sub(real, text)


class ExitCode(IntEnum):
    """The exit statuses of all tasks."""

    OK = 0
    BUILD_FAILED = 1
    USAGE = 2
    VERIFICATION_FAILED = 3
    UNFIT_ARTIFACT = 4
    UNFIT_TOOLCHAIN = 5
    INTERRUPTED = 130


# Colours, movements of the cursor, titles of windows, and all else that an escape character begins.
_ESCAPES = (
    r"\x1b\[[0-?]*[ -/]*[@-~]"
    r"|\x1b[\]P^_X][^\x07\x1b]*(?:\x07|\x1b\\)?"
    r"|\x1b[ -/]*[0-~]"
)
_CONTROLS = r"[\x00-\x08\x0b-\x1f\x7f-\x9f]"


def without_colours(text: str) -> str:
    """The text without colours. Other escape sequences stay, because they may hide a name."""
    return re.sub(r"\x1b\[[0-9;:]*m", "", text) if "\x1b" in text else text


def without_escapes(text: str) -> str:
    """The text without sequences that a terminal obeys. Messages quote what others print."""
    return re.sub(_ESCAPES, "", text) if "\x1b" in text else text


def without_controls(text: str) -> str:
    """The text without escape sequences, and with U+FFFD for other characters that a terminal
    obeys. Line breaks and tabs stay."""
    if text.isprintable():  # as nearly all texts are
        return text
    return re.sub(_CONTROLS, "\N{REPLACEMENT CHARACTER}", without_escapes(text))


class AotiBuildError(Exception):
    """The base class of all errors of this package.

    `exit_code` is the exit status of the process. `kind` is the error's kind in JSON.
    """

    exit_code = ExitCode.BUILD_FAILED
    kind = "build"

    def __init__(
        self,
        message: str,
        *,
        target: str | None = None,
        where: str | None = None,
        cause: str | None = None,
        hint: str | None = None,
        log: Path | None = None,
    ) -> None:
        message = without_controls(message)
        super().__init__(message)
        self.message = message
        self.target = target
        self.where = where
        self.cause = without_controls(cause) if cause else cause
        self.hint = without_controls(with_task_names(hint)) if hint else hint
        self.log = log

    def __str__(self) -> str:
        head = [part for part in (self.target, self.where, self.message) if part]
        lines = [": ".join(head)]
        if self.cause:
            lines.append("  cause: " + self.cause.strip().replace("\n", "\n         "))
        if self.hint:
            lines.append("  next:  " + self.hint.strip().replace("\n", "\n         "))
        if self.log:
            lines.append(f"  log:   {self.log}")
        return "\n".join(lines)

    def as_json(self) -> dict[str, Any]:
        """The error as a JSON object, without the answers that are not known."""
        answers = {
            "kind": self.kind,
            "message": self.message,
            "target": self.target,
            "where": self.where,
            "cause": self.cause,
            "hint": self.hint,
            "log": str(self.log) if self.log else None,
        }
        return {key: value for key, value in answers.items() if value is not None}


class BuildError(AotiBuildError):
    """A target could not be exported, compiled, checked or published."""


class EditedMeanwhile(BuildError):
    """An input changed during the build, so the result does not belong to the present inputs."""

    def __init__(self, name: str, *, cause: str | None = None) -> None:
        super().__init__(
            f"{name} was edited while this target was built, so nothing was published",
            cause=cause,
            hint="build again; it may be done already",
        )


class UsageError(AotiBuildError):
    """The command line, models.yaml or a file named in models.yaml is wrong.

    Nothing was changed.
    """

    exit_code = ExitCode.USAGE
    kind = "usage"


class InputError(UsageError, ValueError):
    """A loaded model was called with inputs that it was not exported for.

    Their structure, shape, dtype or device differ, or the weights are of another model. Nothing was
    run and nothing was changed.
    """


class ClosedError(UsageError, RuntimeError):
    """A loaded model was used after `close()`."""


class CopyError(UsageError, TypeError):
    """A loaded model cannot be copied or pickled."""


class VerificationError(AotiBuildError):
    """An artifact ran and its results differ from the model's, or there is no artifact to run."""

    exit_code = ExitCode.VERIFICATION_FAILED
    kind = "verification"


class OutOfDateError(VerificationError):
    """Artifacts are not what the sources say now, and the task was asked to fail then."""

    kind = "out-of-date"


class ArtifactError(AotiBuildError):
    """An artifact is damaged, differs from its manifest, or is unfit for this host.

    It was not loaded.
    """

    exit_code = ExitCode.UNFIT_ARTIFACT
    kind = "artifact"


class SignatureError(ArtifactError):
    """The signature of a release, or what it signs, is refused. Nothing of it was loaded."""

    kind = "signature"


class ToolchainError(AotiBuildError):
    """The compiler, driver, torch installation or another part of the host cannot do the work."""

    exit_code = ExitCode.UNFIT_TOOLCHAIN
    kind = "toolchain"


class DirectoryError(ToolchainError):
    """A directory in which code is made, stored or loaded is unfit.

    It cannot be created, other users could change it, or torch cannot use it.
    """


class NetworkError(ToolchainError):
    """A registry or Sigstore cannot be reached, or fails. The same command may work later."""

    kind = "network"


class MessageError(ToolchainError):
    """A message between the build process and a worker is unknown to this release."""


class Interrupted(AotiBuildError):
    """The user asked to stop."""

    exit_code = ExitCode.INTERRUPTED
    kind = "interrupted"


class Problem(NamedTuple):
    """A problem in a file, at a 1-based line and column."""

    line: int
    column: int
    text: str

    def at(self, file: str) -> str:
        """The problem as editors and compilers write it: ``file:line:column: text``."""
        return f"{file}:{self.line}:{self.column}: {without_controls(self.text)}"


class SpecError(UsageError):
    """models.yaml is wrong. `problems` are all problems, in the order of the file.

    The text of the error has the first `shown_problems` of them.
    """

    kind = "spec"
    shown_problems = 100

    def __init__(self, file: str, problems: Iterable[Problem], *, hint: str | None = None) -> None:
        self.file = without_controls(file)
        self.problems = sorted(set(problems))
        super().__init__(f"{file}: {_counted(len(self.problems))}", hint=hint)

    def __str__(self) -> str:
        shown = self.problems[: self.shown_problems]
        lines = [problem.at(self.file) for problem in shown]
        hidden_count = len(self.problems) - len(shown)
        if hidden_count > 0:
            lines.append(f"{self.file}: and {_counted(hidden_count)} more")
        if self.hint:
            lines.append("  next:  " + self.hint)
        return "\n".join(lines)

    def as_json(self) -> dict[str, Any]:
        document = super().as_json()
        document["problems"] = [problem._asdict() for problem in self.problems]
        return document


# Kind -> the class of an error that a worker reports. These are the direct subclasses, which all
# have the constructor of `AotiBuildError`. `Interrupted` would stop all other targets, and the
# user's code in a worker must not be able to do that.
ERROR_OF_KIND: Mapping[str, type[AotiBuildError]] = {
    error.kind: error for error in AotiBuildError.__subclasses__() if error is not Interrupted
}


def _counted(count: int) -> str:
    return f"{count} problem" if count == 1 else f"{count} problems"
