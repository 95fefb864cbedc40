"""The models.yaml and the targets that a task is for.

invoke searches for tasks.py upwards and does not change the current directory. The models.yaml next
to the loaded tasks.py therefore comes first.
"""

from __future__ import annotations

import sys
from pathlib import Path

from invoke import Context

from aoti_build.artifact.paths import project_cache_path
from aoti_build.errors import UsageError
from aoti_build.models_file import Project, Target, load_project, select
from aoti_build.models_file.wording import SMALL_EXAMPLE

MODELS_FILE = "models.yaml"


def project_of(context: Context, file: str, pattern: str) -> tuple[Project, tuple[Target, ...]]:
    """The project, and the targets that `pattern` selects; all of them without a pattern.

    `file` is the value of --file. Without it, `nearest_models_file` decides. Raises `UsageError` if
    there is no models.yaml, if it is wrong, and if a glob selects nothing.
    """
    path = Path(file).absolute() if file else nearest_models_file(context)
    if path is None:
        raise _no_models_file(context)
    project = load_project(path, project_cache_path(path.absolute()))
    return project, select(project.targets, pattern or None)


def nearest_models_file(context: Context) -> Path | None:
    """The models.yaml next to the loaded tasks.py, or else the nearest one from the current
    directory upwards."""
    current = Path.cwd()
    directories = [current, *current.parents]
    tasks_directory = _tasks_directory(context)
    if tasks_directory is not None:
        directories.insert(0, tasks_directory)
    for directory in directories:
        path = directory / MODELS_FILE
        if path.is_file():
            return path
    return None


def _no_models_file(context: Context) -> UsageError:
    directory = _tasks_directory(context) or Path.cwd()
    return UsageError(
        f"there is no {MODELS_FILE} in {directory}",
        hint=f"name it with --file, or write one:\n{SMALL_EXAMPLE}",
    )


def _tasks_directory(context: Context) -> Path | None:
    """The directory of the loaded tasks.py; None if none was loaded."""
    module = sys.modules.get(context.config.tasks.collection_name)
    file = getattr(module, "__file__", None)
    if not file:
        return None
    path = Path(file).absolute()
    # The tasks of a project may be a package.
    return path.parent.parent if path.name == "__init__.py" else path.parent
