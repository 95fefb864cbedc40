"""Where root, modules and artifacts of a project are, by models.yaml or by options.

This module imports no yaml, because a no-op build looks for the cached project in the directory of
artifacts.
"""

from __future__ import annotations

import os.path
import re
from dataclasses import replace
from pathlib import Path

from aoti_build.errors import UsageError
from aoti_build.models_file import rules
from aoti_build.models_file.places import Layout, root_of, shown_file
from aoti_build.models_file.project import Project, Source

# A key of the file, with a plain or quoted text on its line. Other notations are not recognised.
_LINE = r"^{key}[ ]*:[ ]+(?:'([^'\n]*)'|\"([^\"\\\n]*)\"|([\w./-]+))[ ]*(?:#.*)?$"
_ROOT = re.compile(_LINE.format(key="root"), re.MULTILINE)
_ARTIFACTS = re.compile(_LINE.format(key="artifacts"), re.MULTILINE)


def likely_artifacts(content: bytes, file: Path) -> Path:
    """The directory of artifacts that the text of models.yaml most likely names.

    Only the caches of parsed files are looked for there, and a record names the text that it is
    for. A wrong directory therefore costs a parse and nothing more.
    """
    text = content.decode("utf-8", errors="replace")
    layout = Layout()
    try:
        layout = Layout(
            root=rules.root_path(_value(_ROOT, text) or layout.root),
            artifacts=rules.artifacts_path(_value(_ARTIFACTS, text) or layout.artifacts),
        )
    except rules.RefusedError:
        pass  # the parser reports it
    return root_of(file, layout) / layout.artifacts


def with_options(
    project: Project,
    root: Path | None,
    artifacts: Path | None,
    history: Path | None = None,
) -> Project:
    """The project with another root and other directories, which are absolute."""
    layout = project.layout
    if root is not None:
        layout = replace(layout, root=str(root))
    if artifacts is not None:
        layout = replace(layout, artifacts=str(artifacts))
    if history is not None:
        layout = replace(layout, history=str(history))
    return replace(project, layout=layout)


def check_layout(project: Project) -> None:
    """Raise UsageError if code of the project or its history would lie among its artifacts.

    What lies in the directory of artifacts is no source, so a change of it would not be seen.
    """
    artifacts = os.path.normpath(project.main_artifacts)
    _check_history(project, artifacts)
    inside: dict[str, str] = {"the root": str(project.root)}
    for entry, path in zip(project.layout.python_path, project.import_directories, strict=True):
        inside[f"{entry} of python_path"] = path
    paths = set()
    for target in project.targets:
        for source in (target.model.source, target.model.inputs):
            if isinstance(source, Source) and source.path:
                paths.add(source.path)
    for path in sorted(paths):
        inside[path] = os.path.normpath(f"{project.root}/{path}")
    for name, path in inside.items():
        if _is_inside(path, artifacts):
            raise UsageError(
                f"{name} lies in the directory of artifacts, {project.shown(Path(artifacts))}",
                where=shown_file(project.file),
                cause="what lies there is no source, so a change of it would not be seen",
                hint="choose a directory of its own for the artifacts, such as `artifacts`",
            )


def _check_history(project: Project, artifacts: str) -> None:
    if project.history is None or not _is_inside(os.path.normpath(project.history), artifacts):
        return
    raise UsageError(
        f"the history lies in the directory of artifacts, {project.shown(Path(artifacts))}",
        where=project.file.name,
        cause="what lies there can be made again, and git ignores it",
        hint="choose a directory of its own for the history, such as `benchmarks/history`",
    )


def _is_inside(path: str, directory: str) -> bool:
    """Whether a normalised path is `directory` or lies in it."""
    return path == directory or path.startswith(directory.rstrip("/") + "/")


def _value(pattern: re.Pattern[str], text: str) -> str | None:
    match = pattern.search(text)
    if match is None:
        return None
    return next(group for group in match.groups() if group is not None)
