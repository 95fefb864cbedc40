"""The spec layer: models.yaml -> a typed `Project` of `Target`s, or every problem in it with its
line and column.

Importing this package is cheap: yaml and pydantic are imported when a file is read, not before.
"""

from __future__ import annotations

from pathlib import Path

from aoti_build.common.reading import TEXT_LIMIT, read_bytes
from aoti_build.errors import UsageError
from aoti_build.models_file.presence import check_files
from aoti_build.models_file.project import (
    DEFAULT_PRESET,
    Dim,
    Model,
    Position,
    Project,
    Source,
    Target,
    TensorInput,
    Tolerance,
)
from aoti_build.models_file.select import select
from aoti_build.models_file.wording import SMALL_EXAMPLE

__all__ = [
    "DEFAULT_PRESET",
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


def load_project(file: Path, cache: Path | None = None) -> Project:
    """The project that `file` describes; `cache` is the directory where parsed ones are kept, if
    any.

    Raises SpecError with all problems, UsageError when the file cannot be read.
    """
    from aoti_build.models_file.cache import read_cache, write_cache

    content = read_models_file(file)
    file = file.absolute()
    if cache is not None and (project := read_cache(cache, file, content)) is not None:
        return project
    from aoti_build.models_file.resolve import parse

    project = parse(content, file)
    if cache is not None:
        write_cache(cache, project, content)
    return project


def read_models_file(file: Path) -> bytes:
    """The bytes of models.yaml. Raises UsageError when there is none or it cannot be read."""
    try:
        return read_bytes(file, TEXT_LIMIT)
    except FileNotFoundError:
        hint = f"name another with --file, or write it:\n{SMALL_EXAMPLE}"
        raise UsageError(f"{file}: no such file", hint=hint) from None
    except OSError as error:
        raise UsageError(f"{file} cannot be read", cause=error.strerror or str(error)) from None
