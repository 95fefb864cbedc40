"""models.yaml, read into a `Project` with its `Target`s, or refused with all its problems.

This package imports yaml and pydantic only when it parses a file. Commands that find a parsed
project in the cache start faster without them.
"""

from __future__ import annotations

from pathlib import Path

from aoti_build.common.reading import TEXT_LIMIT, read_bytes
from aoti_build.errors import UsageError
from aoti_build.models_file.layout import check_layout, likely_artifacts, with_options
from aoti_build.models_file.places import Layout
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
from aoti_build.models_file.tuned import read_tuned_file, with_tuned_options
from aoti_build.models_file.wording import SMALL_EXAMPLE

# The name of the cache of parsed files in a directory of artifacts.
PROJECT_CACHE = ".project-cache"

__all__ = [
    "DEFAULT_PRESET",
    "PROJECT_CACHE",
    "Dim",
    "Layout",
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


def load_project(
    file: Path,
    cache: Path | None = None,
    *,
    cached: bool = False,
    root: Path | None = None,
    artifacts: Path | None = None,
    history: Path | None = None,
) -> Project:
    """Return the project that `file` describes, with the options of the tuned.yaml next to it.

    Args:
        cache: the directory of parsed projects. Without it, the file is always parsed.
        cached: use the cache in the project's directory of artifacts.
        root, artifacts, history: directories in the place of those that the file names.

    Raises:
        SpecError: one of the files has problems. The error has all of them, with line and column.
        UsageError: one of the files cannot be read, or sources lie among the artifacts.
    """
    content = read_models_file(file)
    tuned = read_tuned_file(file)
    file = file.absolute()
    if cached:
        likely = artifacts.absolute() if artifacts else likely_artifacts(content, file)
        cache = likely / PROJECT_CACHE
    # The cache has the files as they are. What they mean also depends on the host.
    project = None
    if cache is not None:
        from aoti_build.models_file.cache import read_cache

        project = read_cache(cache, file, content, tuned)
    if project is None:
        is_sure = not cached or artifacts is not None
        project = _parse(file, content, tuned, cache, is_sure)
    if root is not None or artifacts is not None or history is not None:
        project = with_options(
            project,
            root.absolute() if root else None,
            artifacts.absolute() if artifacts else None,
            history.absolute() if history else None,
        )
    check_layout(project)
    return with_tuned_options(project)


def _parse(file: Path, content: bytes, tuned: bytes, cache: Path | None, is_sure: bool) -> Project:
    """Parse the file and keep the result in `cache`, unless that is a wrong guess."""
    # Imported here, because the parser imports yaml and pydantic.
    from aoti_build.models_file.cache import write_cache
    from aoti_build.models_file.parsing.resolve import parse

    project = parse(content, file, tuned)
    if cache is not None and (is_sure or cache.parent == project.main_artifacts):
        write_cache(cache, project, content, tuned)
    return project


def read_models_file(file: Path) -> bytes:
    """Return the bytes of models.yaml. Raises UsageError if the file cannot be read."""
    try:
        return read_bytes(file, TEXT_LIMIT)
    except FileNotFoundError:
        hint = f"choose another file with --file, or create this one:\n{SMALL_EXAMPLE}"
        raise UsageError(f"{file}: no such file", hint=hint) from None
    except OSError as error:
        cause = error.strerror or str(error)
        raise UsageError(f"{file} cannot be read", cause=cause) from None
