"""Everything that can go wrong, as one hierarchy; each class carries the exit code that a release
script sees.

An error answers four questions: *what* failed (`message`, with the target's name), *where*
(`where`, a place such as ``models.yaml:12:7``), *why* (`cause`, usually what another program said)
and *what next* (`hint`, and `log` for the whole story). Rendering is the report layer's work; this
module only carries the answers.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from pathlib import Path
from typing import Any, NamedTuple


class ExitCode(IntEnum):
    """The exit statuses of all tasks."""

    OK = 0
    BUILD_FAILED = 1
    USAGE = 2
    VERIFICATION_FAILED = 3
    UNFIT_ARTIFACT = 4
    UNFIT_TOOLCHAIN = 5
    INTERRUPTED = 130


class AotiBuildError(Exception):
    """Base of every error this package raises on purpose. `exit_code` is the process's exit
    status."""

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
        super().__init__(message)
        self.message = message
        self.target = target
        self.where = where
        self.cause = cause
        self.hint = hint
        self.log = log

    def __str__(self) -> str:
        head = ": ".join(part for part in (self.target, self.where, self.message) if part)
        lines = [head]
        if self.cause:
            lines.append("  cause: " + self.cause.strip().replace("\n", "\n         "))
        if self.hint:
            lines.append("  next:  " + self.hint.strip().replace("\n", "\n         "))
        if self.log:
            lines.append(f"  log:   {self.log}")
        return "\n".join(lines)

    def as_json(self) -> dict[str, Any]:
        """The error as a JSON object: every answer that is known, none that is not."""
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
    """An input changed during the build: what was built is not of what is there now."""

    def __init__(self, what: str, *, cause: str | None = None) -> None:
        message = f"{what} was edited while this target was built, so nothing was published"
        super().__init__(message, cause=cause, hint="build again; it may be done already")


class UsageError(AotiBuildError):
    """The command line, models.yaml, or what models.yaml points at is wrong. Nothing was
    touched."""

    exit_code = ExitCode.USAGE
    kind = "usage"


class InputError(UsageError, ValueError):
    """A loaded model was given what it was not exported for: another structure, shape, dtype or
    device, or weights that are not its own. Nothing was run, nothing was changed."""


class ClosedError(UsageError, RuntimeError):
    """A loaded model was used after `close()`."""


class CopyError(UsageError, TypeError):
    """A loaded model was to be copied or pickled."""


class VerificationError(AotiBuildError):
    """An artifact ran and does not do what its model does, or there is none to run."""

    exit_code = ExitCode.VERIFICATION_FAILED
    kind = "verification"


class ArtifactError(AotiBuildError):
    """An artifact is damaged, not what its manifest says, or unfit for this host. It was not
    loaded."""

    exit_code = ExitCode.UNFIT_ARTIFACT
    kind = "artifact"


class ToolchainError(AotiBuildError):
    """The compiler, driver or torch installation, or something else of the host's, cannot do the
    work."""

    exit_code = ExitCode.UNFIT_TOOLCHAIN
    kind = "toolchain"


class DirectoryError(ToolchainError):
    """A directory that code is made in, kept in or loaded from is unfit: it cannot be made, other
    users could change it, or torch cannot use it."""


class MessageError(ToolchainError):
    """A message between the build process and a worker is none that this release knows."""


class Interrupted(AotiBuildError):
    """The user asked to stop."""

    exit_code = ExitCode.INTERRUPTED
    kind = "interrupted"


class Problem(NamedTuple):
    """One thing wrong in a file, at a 1-based line and column."""

    line: int
    column: int
    text: str

    def at(self, file: str) -> str:
        """The problem as editors and compilers write it: ``file:line:column: text``."""
        return f"{file}:{self.line}:{self.column}: {self.text}"


class SpecError(UsageError):
    """models.yaml is wrong; `problems` holds all that was found, in file order. As text it has the
    first `shown_problems` of them."""

    kind = "spec"
    shown_problems = 100

    def __init__(self, file: str, problems: Iterable[Problem], *, hint: str | None = None) -> None:
        self.file = file
        self.problems = sorted(set(problems))
        count = len(self.problems)
        super().__init__(f"{file}: {count} problem{'s' if count != 1 else ''}", hint=hint)

    def __str__(self) -> str:
        lines = [problem.at(self.file) for problem in self.problems[: self.shown_problems]]
        if (left := len(self.problems) - len(lines)) > 0:
            lines.append(f"{self.file}: and {left} problem{'s' if left != 1 else ''} more")
        if self.hint:
            lines.append("  next:  " + self.hint)
        return "\n".join(lines)

    def as_json(self) -> dict[str, Any]:
        problems = [{"line": p.line, "column": p.column, "text": p.text} for p in self.problems]
        return {**super().as_json(), "problems": problems}
