"""The spec layer: models.yaml -> a typed `Project` of `Target`s, or every problem in it with its line and column.

Importing this package is cheap: yaml and pydantic are imported when a file is read, not before.
"""

from __future__ import annotations

from pathlib import Path

from aoti_build.spec.presence import check_files
from aoti_build.spec.project import (
    DEFAULT_PRESET,
    DEVICES,
    CpuOptions,
    Dim,
    Model,
    Position,
    Project,
    Source,
    Target,
    TensorInput,
    Tolerance,
)
from aoti_build.spec.select import select

__all__ = [
    "DEFAULT_PRESET",
    "DEVICES",
    "CpuOptions",
    "Dim",
    "Model",
    "Position",
    "Project",
    "Source",
    "Target",
    "TensorInput",
    "Tolerance",
    "check_files",
    "load_project",
    "select",
]


def load_project(file: Path) -> Project:
    """The project that `file` describes. Raises SpecError with all problems, UsageError when it cannot be read."""
    from aoti_build.spec.resolve import load

    return load(file)
