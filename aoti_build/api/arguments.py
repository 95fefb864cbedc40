"""The types of arguments that several functions take, and how they are read."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

from aoti_build.models_file.project import Project, Target

PathLike: TypeAlias = str | os.PathLike[str]
# A loaded project, or the path of a models.yaml.
ProjectLike: TypeAlias = Project | PathLike
# Globs over names of targets, as for --target; None means all targets.
Selection: TypeAlias = str | Sequence[str] | None
# Called with each phase of a target, from any thread.
OnProgress: TypeAlias = Callable[[Target, str], None]

MODELS_FILE = "models.yaml"


def pattern_of(targets: Selection) -> str | None:
    """The globs as --target has them. None means all targets."""
    if targets is None or isinstance(targets, str):
        return targets
    # Without a glob nothing was selected, which is not the same as everything.
    return ",".join(targets) or ","


def absolute(path: PathLike) -> Path:
    return Path(os.path.abspath(path))


def ignore(target: Target, phase: str) -> None:
    pass
