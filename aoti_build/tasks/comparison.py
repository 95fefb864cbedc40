"""What `inspect --diff` compares: two packages, each named as a file or as a target."""

from __future__ import annotations

from pathlib import Path

from invoke import Context

from aoti_build.commands.inspect import Inspected, inspect_file, inspect_target
from aoti_build.commands.inspect_diff import DiffReport, diff
from aoti_build.errors import UsageError
from aoti_build.tasks.project import project_of


def compared(context: Context, file: str, one: str, path: str, other: str) -> DiffReport:
    """The target `one`, or else the package at `path`, against `other`."""
    first = inspect_file(Path(path)) if path else _inspected(context, file, one)
    return diff(
        first, inspect_file(Path(other)) if _is_package(other) else _inspected(context, file, other)
    )


def _is_package(word: str) -> bool:
    """Whether --diff names a file. Targets look like paths too, and theirs is a directory."""
    return word.endswith(".pt2") or Path(word).is_file()


def _inspected(context: Context, file: str, pattern: str) -> Inspected:
    """The one artifact of a target that --diff compares."""
    project, targets = project_of(context, file, pattern)
    if len(targets) != 1:
        raise UsageError(
            f"--diff compares one artifact with one, and {pattern or 'no --target'} means"
            f" {len(targets)}",
            hint="name one: inv inspect --target model/cpu --diff other.pt2",
        )
    return inspect_target(project, targets[0])
