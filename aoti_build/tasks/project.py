"""The models.yaml and the targets that a task is for.

invoke searches for tasks.py upwards and does not change the current directory. The models.yaml next
to the loaded tasks.py therefore comes first.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from invoke import Context

from aoti_build.errors import UsageError
from aoti_build.models_file import Project, Target, load_project, read_models_file, select
from aoti_build.models_file.layout import likely_artifacts
from aoti_build.models_file.wording import SMALL_EXAMPLE

MODELS_FILE = "models.yaml"
# The other usual suffix. It is not read, because two files would then describe one project.
MISNAMED_FILE = "models.yml"


def project_of(
    context: Context,
    file: str,
    pattern: str,
    root: str = "",
    artifacts: str = "",
    history: str = "",
) -> tuple[Project, tuple[Target, ...]]:
    """The project, and the targets that `pattern` selects; all of them without a pattern.

    `file`, `root`, `artifacts` and `history` are the values of the options with these names.
    Without a file, `models_file` decides. Raises `UsageError` if there is no models.yaml, if it is
    wrong, and if a glob selects nothing.
    """
    path = models_file(context, file)
    if path is None:
        raise _no_models_file(context)
    if root and not Path(root).is_dir():
        raise UsageError(f"--root {root} is not a directory")
    if artifacts and Path(artifacts).exists() and not Path(artifacts).is_dir():
        raise UsageError(f"--artifacts {artifacts} is not a directory")
    project = load_project(
        path,
        cached=True,
        root=_directory(root),
        artifacts=_directory(artifacts),
        history=_directory(history),
    )
    return project, select(project.targets, pattern or None)


def models_file(context: Context, file: str) -> Path | None:
    """The models.yaml that --file names, or else the key `aoti_build.file` of invoke's
    configuration, or else the nearest one; None if there is none."""
    if file:
        return Path(file).absolute()
    configured = _configured_file(context)
    if configured:
        # Relative to the tasks.py, because invoke finds that from any directory below it.
        return project_directory(context) / configured
    return _nearest(context, MODELS_FILE)


def artifacts_of(file: Path, root: str, artifacts: str) -> Path:
    """The directory of artifacts, for `doctor`, which has to work with a wrong models.yaml too."""
    try:
        project = load_project(
            file, cached=True, root=_directory(root), artifacts=_directory(artifacts)
        )
    except UsageError:
        return likely_artifacts(read_models_file(file), file)
    return project.main_artifacts


def _directory(option: str) -> Path | None:
    """The absolute path in the value of an option, without `..`; None if it is not set."""
    return Path(os.path.abspath(option)) if option else None


def _configured_file(context: Context) -> str:
    section = context.config.get("aoti_build", {})
    value = section.get("file", "") if hasattr(section, "get") else section
    if not isinstance(value, str):
        raise UsageError(
            "the key aoti_build.file of invoke's configuration is not a path",
            hint='write ns.configure({"aoti_build": {"file": "deploy/models.yaml"}}) in tasks.py',
        )
    return value


def _nearest(context: Context, name: str) -> Path | None:
    """The file next to the loaded tasks.py, or else the nearest one from the current directory
    upwards."""
    current = Path.cwd()
    directories = [current, *current.parents]
    tasks_directory = _tasks_directory(context)
    if tasks_directory is not None:
        directories.insert(0, tasks_directory)
    for directory in directories:
        path = directory / name
        if path.is_file():
            return path
    return None


def _no_models_file(context: Context) -> UsageError:
    misnamed = _nearest(context, MISNAMED_FILE)
    if misnamed is not None:
        return UsageError(
            f"there is no {MODELS_FILE}, but a {MISNAMED_FILE} in {misnamed.parent}",
            hint=f"rename it to {MODELS_FILE}, or name it with --file",
        )
    directory = project_directory(context)
    return UsageError(
        f"there is no {MODELS_FILE} in {directory}",
        hint=f"let `invoke init` write one, name it with --file, or write it:\n{SMALL_EXAMPLE}",
    )


def project_directory(context: Context) -> Path:
    """The directory of the loaded tasks.py, or else the current one."""
    return _tasks_directory(context) or Path.cwd()


def _tasks_directory(context: Context) -> Path | None:
    """The directory of the loaded tasks.py; None if none was loaded."""
    module = sys.modules.get(context.config.tasks.collection_name)
    file = getattr(module, "__file__", None)
    if not file:
        return None
    path = Path(file).absolute()
    # The tasks of a project may be a package.
    return path.parent.parent if path.name == "__init__.py" else path.parent
