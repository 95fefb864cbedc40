"""What workers get of a received release: private copies, and an empty directory.

The copies have the digests of the manifests. Workers run in an empty private directory, so nothing
of the bundle is on their import path. They need torch and what the manifests list in
`requires.imports`, and nothing else that the model was built with.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from aoti_build.artifact.bundle import layout
from aoti_build.artifact.manifest import Manifest
from aoti_build.artifact.reasons import Reason, ReasonKind
from aoti_build.commands.received.examine import ExaminedBundle
from aoti_build.common.directories import temporary_directory
from aoti_build.errors import Interrupted
from aoti_build.host import compatibility
from aoti_build.models_file.places import Layout
from aoti_build.models_file.project import Project, Target
from aoti_build.work.opened import OpenArtifact, copied_artifact
from aoti_build.work.processes import allow_starts, stop_all


@contextlib.contextmanager
def private_work() -> Iterator[Path]:
    """A private directory for the workers of one command, which is removed at the end.

    Raises:
        Interrupted: Ctrl-C was pressed. Every worker has ended.
        DirectoryError: the temporary directory is unfit.
    """
    # An interrupted command in the same process has forbidden new workers.
    allow_starts()
    temporary = temporary_directory()
    with tempfile.TemporaryDirectory(dir=temporary, prefix="aoti_build-") as work:
        try:
            yield Path(work)
        except KeyboardInterrupt:
            stop_all()
            raise Interrupted("interrupted") from None


def obstacle(target: Target, manifest: Manifest) -> Reason | None:
    """Why this host cannot run a package. None if it can.

    A release may have variants for other hosts than this one.
    """
    if not target.hardware.count():
        return Reason(ReasonKind.NO_DEVICE, target.device)
    host = compatibility.this_host(target.device)
    missing = compatibility.missing(manifest.requires, host)
    if missing:
        return Reason(ReasonKind.LACKS_ARCHITECTURE, "; ".join(missing))
    return None


def private_copy(
    examined: ExaminedBundle, manifest: Manifest
) -> AbstractContextManager[OpenArtifact]:
    """Copies of the files of one artifact, for as long as the context lasts.

    Raises as `copied_artifact`.
    """
    folder = layout.artifact_path(manifest.target)
    bundle = examined.bundle
    return copied_artifact(bundle.path / folder, bundle.opened / folder, manifest)


def empty_project(target: Target, work: Path) -> Project:
    """A project of this target alone, whose root is a new and empty directory below `work`.

    Relative paths of the manifest lead into it.
    """
    root = work / target.name / "root"
    root.mkdir(parents=True)
    return Project(root / "models.yaml", (target,), layout=Layout(python_path=()))
