"""What BASE of ``--against`` names: a package that is measured again beside the new one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from aoti_build.artifact.manifest import MODEL
from aoti_build.errors import UsageError, VerificationError
from aoti_build.models_file.project import Project, Target
from aoti_build.work.opened import copy_artifact


@dataclass(frozen=True)
class Base:
    """The base of a target.

    Attributes:
        name: as the user gave it.
        artifacts: a directory of artifacts that holds it, with its manifest and reference data.
        key: of the package.
        package_sha256: its digest.
        size: its bytes.
    """

    name: str
    artifacts: Path
    key: str
    package_sha256: str
    size: int


def find_base(project: Project, target: Target, text: str, directory: Path) -> Base:
    """Copy the base of `target` into the private `directory`. `text` names a directory of
    artifacts, such as one that `export` made.

    Raises:
        UsageError: there is none.
        ArtifactError: it is damaged.
    """
    layout = replace(project.layout, artifacts=str(Path(text).absolute()))
    released = replace(project, layout=layout, private="")
    destination = directory / target.model.name / target.variant
    destination.mkdir(parents=True)
    try:
        manifest = copy_artifact(released, target, destination)
    except VerificationError as error:
        raise UsageError(
            f"--against {text}: it has no artifact of {target.name}",
            target=target.name,
            hint="name a directory with <model>/<variant>/model.pt2, such as one of"
            " `invoke export`",
        ) from error
    package = manifest.files[MODEL]
    return Base(text, directory, manifest.key, package.sha256, package.size)
