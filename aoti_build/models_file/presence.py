"""Are the files that models.yaml names there? Apart from parsing, because only a build needs them:
an artifact is verified and run on hosts that have neither the model's source nor its weights, and
one target is built where another's are absent.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from aoti_build.errors import Problem, SpecError
from aoti_build.models_file.project import Image, Model, Project, Source, Target
from aoti_build.models_file.weights import path_of, weights_files

# Files that the model in eager mode does not need: names of classes, and another model.
_NOT_FOR_EAGER = ("image", "baseline")


def check_files(project: Project, targets: tuple[Target, ...]) -> None:
    """Raises `SpecError` with the place of every file that `targets` need and that is not there."""
    problems = []
    for model in (target.model for target in targets):
        for name, field in _files(model, project.root):
            path = Path(path_of(name, project.root))
            if not path.is_file():
                what = "no regular file" if path.exists() else "no such file"
                text = f"{what}: {name} (looked for {path})"
                problems.append(
                    Problem(model.positions[field].line, model.positions[field].column, text)
                )
    if problems:
        raise SpecError(project.file.name, problems)


def source_is_here(model: Model, root: Path) -> bool:
    """Whether the model could be made here: its files are there, and the packages of its modules
    can be found."""
    sources = (source for source in (model.source, model.inputs) if isinstance(source, Source))
    packages = [source.module.partition(".")[0] for source in sources if source.module]
    files = [name for name, field in _files(model, root) if field not in _NOT_FOR_EAGER]
    if not all(Path(path_of(name, root)).is_file() for name in files):
        return False
    return all(_is_importable(name, root) for name in packages)


def _is_importable(package: str, root: Path) -> bool:
    from importlib.machinery import PathFinder

    return (
        package in sys.builtin_module_names
        or PathFinder.find_spec(package, [str(root), *sys.path]) is not None
    )


def _files(model: Model, root: Path) -> Iterator[tuple[str, str]]:
    """Files that models.yaml names, each with the field that names it."""
    for field, source in (("source", model.source), ("inputs", model.inputs)):
        if isinstance(source, Source) and source.path:
            yield source.path, field
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
