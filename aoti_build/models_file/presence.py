"""Checks that the files which models.yaml names exist.

The parser does not check this, because only a build needs the files. Artifacts are verified and run
on hosts without the source and the weights, and a user can build one target while the files of
others are missing.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from aoti_build.errors import Problem, SpecError
from aoti_build.models_file.places import shown_file
from aoti_build.models_file.project import Image, Model, Project, Source, Target
from aoti_build.models_file.weights import path_of, weights_files

# Fields with files that the model in eager mode does not need.
_FIELDS_NOT_FOR_EAGER = ("image", "baseline")


def check_files(project: Project, targets: tuple[Target, ...]) -> None:
    """Raise SpecError with the position of every file that `targets` need and that is missing."""
    problems = []
    for target in targets:
        model = target.model
        for name, field in _files(model, project.root):
            path = Path(path_of(name, project.root))
            if path.is_file():
                continue
            reason = "not a regular file" if path.exists() else "no such file"
            message = f"{reason}: {name} (looked for {path})"
            if (project.file.parent / name).is_file():
                message += f"; paths are relative to the root, which is {project.root}"
            position = model.positions[field]
            problems.append(Problem(position.line, position.column, message))
    if problems:
        raise SpecError(shown_file(project.file), problems)


def source_is_here(model: Model, root: Path, python_path: Sequence[str]) -> bool:
    """Return whether this host has the files and packages that make the model in eager mode.

    Modules are looked for in the directories `python_path`, and then on this process's path.
    """
    for name, field in _files(model, root):
        if field not in _FIELDS_NOT_FOR_EAGER and not Path(path_of(name, root)).is_file():
            return False
    for source in (model.source, model.inputs):
        if isinstance(source, Source) and source.module:
            package = source.module.partition(".")[0]
            if not _is_importable(package, python_path):
                return False
    return True


def _is_importable(package: str, python_path: Sequence[str]) -> bool:
    # Imported here, because only `run` and `verify` need it.
    from importlib.machinery import PathFinder

    if package in sys.builtin_module_names:
        return True
    return PathFinder.find_spec(package, [*python_path, *sys.path]) is not None


def _files(model: Model, root: Path) -> Iterator[tuple[str, str]]:
    """Yield the name of each file in models.yaml, and the field that names it."""
    if model.source.path:
        yield model.source.path, "source"
    if isinstance(model.inputs, Source) and model.inputs.path:
        yield model.inputs.path, "inputs"
    for index, name in enumerate(model.files):
        yield name, f"files.{index}"
    if isinstance(model.image, Image) and model.image.classes:
        yield model.image.classes, "image"
    if model.baseline and model.baseline.source.path:
        yield model.baseline.source.path, "baseline"
    if model.weights:
        field = "weights.file" if "weights.file" in model.positions else "weights"
        for name in weights_files(model.weights, root):
            yield name, field
