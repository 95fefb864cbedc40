"""The paths below `artifacts/`, and of the store, logs and caches that go with it.

Everything in `artifacts/` that starts with a dot is working state and may be deleted.
"""

from __future__ import annotations

import contextlib
import os
from functools import cache
from pathlib import Path

from aoti_build.common import directories
from aoti_build.common.fields import is_name
from aoti_build.errors import DirectoryError, UsageError
from aoti_build.models_file import PROJECT_CACHE
from aoti_build.models_file.project import Project, Target
from aoti_build.models_file.wording import quoted

# The directory of `tuning_path`. It holds nothing between two runs of `tune`.
TUNING = ".tuning"


def artifact_directory(project: Project, target: Target) -> Path:
    """The directory of a target's artifact.

    Raises UsageError for names that could lead out of `artifacts/`. Callers write to this directory
    and remove it, and the names may come from a file.
    """
    return project.artifacts / _component(target.model.name) / _component(target.variant)


def lock_path(project: Project, target: Target) -> Path:
    return project.artifacts / ".locks" / f"{_flat(target)}.lock"


def log_path(project: Project, target: Target) -> Path:
    """The log of the newest build of a target, also of a failed one.

    A published artifact has a copy of its own.
    """
    return _logs(project) / f"{_flat(target)}@build.log"


def reader_log_path(project: Project, target: Target, command: str) -> Path:
    """The log of a command that only reads artifacts.

    On a serving host `artifacts/` may be read-only. The log is then in the user's log directory.
    """
    name = f"{_flat(target)}@{command}.log"
    directory = _logs(project)
    written_to = directory if directory.is_dir() else project.artifacts
    if os.access(written_to, os.W_OK):
        return directory / name
    return outside_logs() / name


def trace_path(project: Project) -> Path:
    """The trace of the newest build that had work to do."""
    return _logs(project) / "trace.json.gz"


def durations_path(project: Project) -> Path:
    """How long the stages of earlier builds took."""
    return project.main_artifacts / ".durations.json"


def staging_root(project: Project) -> Path:
    """The directory of staging directories.

    It is on the file system of `artifacts/`, so that publishing is a rename.
    """
    return project.artifacts / ".staging"


def staging_prefix(target: Target) -> str:
    return f"{_flat(target)}@"


def stat_cache_path(project: Project) -> Path:
    return project.main_artifacts / ".stat-cache.json"


def make_artifacts(project: Project) -> None:
    """Make the directory of artifacts, with a file that keeps git from adding what is in it.

    A directory that exists stays as it is, because its owner may want artifacts in git.
    """
    directory = project.main_artifacts
    if directory.exists():
        return
    # Without the rights for it, the build fails later with an error that says more.
    with contextlib.suppress(OSError):
        directory.mkdir(parents=True)
        (directory / ".gitignore").write_text("*\n")


def project_cache_path(project: Project) -> Path:
    return project.main_artifacts / PROJECT_CACHE


def tuning_path(project: Project) -> Path:
    """The directory of the artifacts that `tune` compares."""
    return project.main_artifacts / TUNING


def tuning_lock_path(project: Project) -> Path:
    return project.main_artifacts / ".locks" / "tune.lock"


def index_path(project: Project) -> Path:
    return project.artifacts / ".index.json"


def passed_checks_path(artifacts: Path) -> Path:
    """The record of the toolchains that passed the checks before a compile."""
    return artifacts / ".passed-checks.json"


def outside_logs() -> Path:
    """The directory of logs that do not belong to a project.

    It is the user's log directory. If that is unfit, it is a new directory for this process: no
    work should fail for want of a log.
    """
    try:
        return directories.log_directory()
    except DirectoryError:
        return _fresh_logs()


@cache
def _fresh_logs() -> Path:
    import tempfile  # not on the no-op path

    return Path(tempfile.mkdtemp(prefix="aoti_build-logs-", dir=directories.temporary_directory()))


def inductor_cache_root() -> Path:
    """The directory of the jobs' inductor caches, private to this user. It is made if necessary.

    It is not in the project: its path is compiled into shared libraries, and two checkouts must get
    the same bytes. Raises DirectoryError.
    """
    return directories.build_cache()


def runner_cache() -> Path:
    """The directory of compiled C++ runners. Raises DirectoryError.

    A runner depends on the toolchain and not on a model, so it is not in the project.
    """
    return directories.private_below(inductor_cache_root(), "runner")


def _logs(project: Project) -> Path:
    return project.main_artifacts / ".logs"


def _flat(target: Target) -> str:
    """A file name for a target. Names have no "@", so no two targets have the same."""
    return f"{_component(target.model.name)}@{_component(target.variant)}"


def _component(name: str) -> str:
    if not is_name(name):
        raise UsageError(f"{quoted(name)} is not usable as the name of a directory of artifacts")
    return name
