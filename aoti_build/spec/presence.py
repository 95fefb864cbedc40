"""Are the files that models.yaml names there? Apart from parsing, because only a build needs them: an artifact is
verified and run on hosts that have neither the model's source nor its weights, and one target is built where another's
are absent.
"""

from __future__ import annotations

from collections.abc import Iterator

from aoti_build.errors import Problem, SpecError
from aoti_build.spec.project import Image, Model, Position, Project, Source, Target


def check_files(project: Project, targets: tuple[Target, ...]) -> None:
    """Raises `SpecError` with the place of every file that `targets` need and that is not there."""
    problems = [
        Problem(position.line, position.column, f"no such file: {name} (looked for {project.root / name})")
        for target in targets
        for name, position in _files(target.model)
        if not (project.root / name).is_file()
    ]
    if problems:
        raise SpecError(project.file.name, problems)


def source_is_here(project: Project, target: Target) -> bool:
    """Whether the target's model could be made here, as far as files tell; modules are left to the import to find."""
    return all((project.root / name).is_file() for name, _ in _files(target.model))


def _files(model: Model) -> Iterator[tuple[str, Position]]:
    for field, source in (("source", model.source), ("inputs", model.inputs)):
        if isinstance(source, Source) and source.path:
            yield source.path, model.positions[field]
    for index, name in enumerate(model.files):
        yield name, model.positions[f"files.{index}"]
    if isinstance(model.image, Image) and model.image.classes:
        yield model.image.classes, model.positions["image"]
    if model.weights:
        yield model.weights, model.positions["weights"]
