"""The commands for a project of the user: build, verify, run and show its state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from aoti_build.api.arguments import (
    MODELS_FILE,
    OnProgress,
    PathLike,
    ProjectLike,
    Selection,
    absolute,
    ignore,
    pattern_of,
)
from aoti_build.errors import UsageError
from aoti_build.models_file.project import Project, Target

if TYPE_CHECKING:
    from aoti_build.commands.build import BuildReport
    from aoti_build.commands.run.report import RunReport
    from aoti_build.commands.status import StatusReport
    from aoti_build.commands.verify.report import VerifyReport


def load_project(
    file: PathLike = MODELS_FILE,
    *,
    root: PathLike | None = None,
    artifacts: PathLike | None = None,
) -> Project:
    """Read a models.yaml.

    Args:
        file: its path, relative to the current directory.
        root, artifacts: directories in the place of those that the file names, relative to the
            current directory.

    Raises:
        SpecError: the file has problems. The error has all of them, with line and column.
        UsageError: the file cannot be read.
    """
    from aoti_build.models_file import load_project as load

    return load(
        absolute(file),
        root=None if root is None else absolute(root),
        artifacts=None if artifacts is None else absolute(artifacts),
    )


def build(
    project: ProjectLike = MODELS_FILE,
    targets: Selection = None,
    *,
    jobs: int | None = None,
    force: bool = False,
    keep_going: bool = False,
    strict: bool = False,
    check_reproducible: bool = False,
    on_progress: OnProgress | None = None,
) -> BuildReport:
    """Bring artifacts up to date, as ``invoke build`` does.

    A target that fails raises nothing: its outcome in the report has the error, and `exit_code` of
    the report is not 0. The arguments are the options of the task.

    Raises:
        UsageError: models.yaml is wrong, a glob matches no target, or a file is missing.
        ToolchainError: a compile is needed and sure to fail on this host.
        Interrupted: Ctrl-C was pressed.
    """
    from aoti_build.commands.build import build as command
    from aoti_build.models_file import check_files

    loaded, selected = chosen(project, targets)
    check_files(loaded, selected)
    return command(
        loaded,
        selected,
        jobs=jobs,
        force=force,
        keep_going=keep_going,
        strict=strict,
        check_reproducible=check_reproducible,
        on_progress=on_progress or ignore,
    )


def verify(
    project: ProjectLike = MODELS_FILE,
    targets: Selection = None,
    *,
    jobs: int = 1,
    strict: bool = False,
    fresh: bool = False,
    seeds: int = 1,
    timeout: float = 600.0,
    localize: bool = False,
    repro: PathLike | None = None,
    runtime: str = "python",
    on_progress: OnProgress | None = None,
) -> VerifyReport:
    """Compare artifacts with eager mode in fresh processes, as ``invoke verify`` does.

    `timeout` is in seconds and limits each process. `runtime` is ``python``, ``cpp`` or
    ``cuda-graphs``. An artifact that fails raises nothing; see `exit_code` of the report.

    Raises:
        UsageError: models.yaml is wrong, a glob matches no target, or there is no such `runtime`.
        ToolchainError: this host lacks what every artifact needs.
        Interrupted: Ctrl-C was pressed.
    """
    from aoti_build.commands.verify.command import RUNTIMES
    from aoti_build.commands.verify.command import verify as command

    if runtime not in RUNTIMES:
        raise UsageError(f"runtime {runtime!r} is not one of {', '.join(RUNTIMES)}")
    loaded, selected = chosen(project, targets)
    return command(
        loaded,
        selected,
        jobs=jobs,
        strict=strict,
        fresh=fresh,
        seeds=seeds,
        limit=timeout,
        localize=localize,
        repro=None if repro is None else absolute(repro),
        runtime=runtime,
        on_progress=on_progress or ignore,
    )


def run(
    project: ProjectLike = MODELS_FILE,
    targets: Selection = None,
    *,
    inputs: Sequence[str] = (),
    output: str = "",
    seed: int = 1,
    repeat: int = 10,
    cuda_graphs: bool = False,
    on_progress: OnProgress | None = None,
) -> RunReport:
    """Run artifacts on inputs, check and time them, as ``invoke run`` does.

    To call a model in a service use `aoti_build.load`.

    Raises:
        UsageError: models.yaml is wrong, a glob matches no target, an input is absent or of no
            known kind, or `output` does not name one file for each run.
        ToolchainError: this host lacks what every artifact needs.
        Interrupted: Ctrl-C was pressed.
    """
    from aoti_build.commands.run.command import run as command

    loaded, selected = chosen(project, targets)
    return command(
        loaded,
        selected,
        inputs=inputs,
        output=output,
        seed=seed,
        repeat=repeat,
        cuda_graphs=cuda_graphs,
        on_progress=on_progress or ignore,
    )


def status(project: ProjectLike = MODELS_FILE, targets: Selection = None) -> StatusReport:
    """Which artifacts are up to date, and why the rest is not, as ``invoke status`` shows it.

    Raises:
        UsageError: models.yaml is wrong, or a glob matches no target.
        ToolchainError: torch is not installed.
    """
    from aoti_build.commands.status import status as command

    loaded, selected = chosen(project, targets)
    return command(loaded, targets=selected)


def chosen(project: ProjectLike, targets: Selection) -> tuple[Project, tuple[Target, ...]]:
    """The project, and the targets that are meant. Raises `UsageError` if a glob matches none."""
    from aoti_build.models_file import select

    loaded = project if isinstance(project, Project) else load_project(project)
    return loaded, select(loaded.targets, pattern_of(targets))
