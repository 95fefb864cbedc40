"""Finds the two packages that `inspect --diff` compares."""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

from invoke import Context

from aoti_build.commands.inspect.command import Inspected, inspect_file, inspect_target
from aoti_build.commands.inspect.diff import DiffReport, diff
from aoti_build.errors import UsageError
from aoti_build.tasks.project import project_of

# The context of invoke, and the options file, root and artifacts.
Place: TypeAlias = tuple[Context, str, str, str]


def compare(place: Place, target: str, path: str, second: str) -> DiffReport:
    """Compare the package at `path`, or that of `target`, with the `second`, which is the value of
    --diff."""
    first_package = inspect_file(Path(path)) if path else _inspect_target(place, target)
    if _is_package(second):
        return diff(first_package, inspect_file(Path(second)))
    return diff(first_package, _inspect_target(place, second))


def _is_package(word: str) -> bool:
    """Whether --diff names a file. A target's name may be the path of a directory."""
    return word.endswith(".pt2") or Path(word).is_file()


def _inspect_target(place: Place, pattern: str) -> Inspected:
    """Raises `UsageError` if the pattern does not select exactly one target."""
    context, file, root, artifacts = place
    project, targets = project_of(context, file, pattern, root, artifacts)
    if len(targets) != 1:
        selector = f" by {pattern}" if pattern else ""
        raise UsageError(
            "--diff compares one artifact with another,"
            f" but {len(targets)} targets are selected{selector}",
            hint="select one target: invoke inspect --target model/cpu --diff other.pt2",
        )
    return inspect_target(project, targets[0])
