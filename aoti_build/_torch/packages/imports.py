"""Before a package is loaded in a worker: the modules that it needs, and in them what a C++ process
needs."""

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
    """Import what the package of a job needs, as models.yaml's own source would find it. Raises
    `BuildError`."""
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
                "what registers it must do so when its module is imported, and not when a function"
                " of it is called; `imports: [module]` names one that is not found by itself"
            ),
        ) from error


def add_to_path(model: Model, root: Path) -> None:
    """Put the directories of the files that models.yaml names on the path, where their own imports
    find them."""
    for source in (model.source, model.inputs):
        if isinstance(source, Source) and source.path:
            directory = str((root / source.path).parent)
            if directory not in sys.path:
                sys.path.insert(0, directory)


def called_operators(package: Path) -> set[str]:
    """The operators that a package looks up by name when it runs: all that torch's C shim does not
    have."""
    found = set()
    with zipfile.ZipFile(package) as archive:
        for name in archive.namelist():
            if name.endswith(".wrapper.json"):
                nodes = json.loads(archive.read(name)).get("nodes", ())
                found |= {node["node"]["target"].partition(".")[0] for node in nodes}
    return found
