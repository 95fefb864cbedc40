"""Imports the modules that a package needs, before a worker loads it."""

from __future__ import annotations

import json
import sys
import zipfile
from pathlib import Path
from typing import Any

from aoti_build.errors import ArtifactError, BuildError
from aoti_build.messages import PackageJob
from aoti_build.models_file.project import Model, Source
from aoti_build.runtime.imports import import_registered


def import_for(job: PackageJob[Any]) -> None:
    """Import the modules that the package of a job needs. Raises `BuildError`.

    The path is the one that the sources in models.yaml have.
    """
    target = job.target
    if not job.imports:
        return
    add_to_path(target.model, Path(job.root))
    try:
        import_registered(job.imports, target.name)
    except ArtifactError as error:
        raise BuildError(
            error.message,
            cause=error.cause,
            hint=(
                "register it when the module is imported, not in a call of one of its functions;"
                " `imports: [module]` names a module that is not found by itself"
            ),
        ) from error


def add_to_path(model: Model, root: Path) -> None:
    """Put the directories of the files in models.yaml on the path, for the imports in them."""
    for source in (model.source, model.inputs):
        if isinstance(source, Source) and source.path:
            directory = str((root / source.path).parent)
            if directory not in sys.path:
                sys.path.insert(0, directory)


def called_operators(package: Path) -> set[str]:
    """The operators that a package looks up by name when it runs.

    These are all operators that torch's C shim does not have.
    """
    operators = set()
    with zipfile.ZipFile(package) as archive:
        for name in archive.namelist():
            if not name.endswith(".wrapper.json"):
                continue
            document = json.loads(archive.read(name))
            for node in document.get("nodes", ()):
                operator = node["node"]["target"]
                operators.add(operator.partition(".")[0])  # without its overload
    return operators
