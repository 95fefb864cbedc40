"""Which models.yaml a task is about, and which of its targets.

Beside the loaded tasks.py, since invoke finds that upwards and does not change the directory.
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
    path = Path(file).absolute() if file else _default_file(context)
    project = load_project(path, project_cache_path(path.absolute()))
    return project, select(project.targets, pattern or None)


def _default_file(context: Context) -> Path:
    """As `nearest_models_file`; `UsageError` if there is none."""
    if found := nearest_models_file(context):
        return found
    starts = _starts(context)
    raise UsageError(
        f"there is no {MODELS_FILE} in {starts[0] if starts else Path.cwd()}",
        hint=f"name it with --file, or write one:\n{SMALL_EXAMPLE}",
    )


def nearest_models_file(context: Context) -> Path | None:
    """models.yaml beside the loaded tasks.py; else the nearest one from the current directory
    upwards."""
    here = Path.cwd()
    for directory in (*_starts(context), here, *here.parents):
        if (directory / MODELS_FILE).is_file():
            return directory / MODELS_FILE
    return None


def _starts(context: Context) -> list[Path]:
    """The directory of the loaded tasks.py, if one was loaded."""
    tasks_file = getattr(sys.modules.get(context.config.tasks.collection_name), "__file__", None)
    if not tasks_file:
        return []
    directory = Path(tasks_file).absolute().parent
    return [directory.parent if Path(tasks_file).name == "__init__.py" else directory]
