"""Where things lie below `artifacts/`, in one place. Everything that starts with a dot is working
state and may be deleted."""

from __future__ import annotations

import os
import re
from functools import cache
from pathlib import Path

from aoti_build.common import directories
from aoti_build.common.fields import is_name
from aoti_build.errors import DirectoryError, UsageError
from aoti_build.models_file.project import Project, Target
from aoti_build.models_file.wording import quoted


def artifact_directory(project: Project, target: Target) -> Path:
    """Where a target's artifact lies. Raises UsageError for names that could lead out of
    `artifacts/`: whatever they were read from, nothing is written or removed there."""
    return project.artifacts / _component(target.model.name) / _component(target.variant)


def lock_path(project: Project, target: Target) -> Path:
    return project.artifacts / ".locks" / f"{_flat(target)}.lock"


def log_path(project: Project, target: Target) -> Path:
    """The log of the newest build of a target, kept when it fails; a published artifact has a copy
    of its own."""
    return project.artifacts / ".logs" / f"{_flat(target)}@build.log"


def reader_log_path(project: Project, target: Target, verb: str) -> Path:
    """The log of a verb that only reads artifacts: beside the build logs, or, where `artifacts/` is
    read-only as on a serving host, in the user's own log directory."""
    name = f"{_flat(target)}@{verb}.log"
    directory = project.artifacts / ".logs"
    if os.access(directory if directory.is_dir() else project.artifacts, os.W_OK):
        return directory / name
    return outside_logs() / name


def staging_root(project: Project) -> Path:
    """Staging lies on the artifacts' file system, so that publishing is a rename."""
    return project.artifacts / ".staging"


def staging_prefix(target: Target) -> str:
    return f"{_flat(target)}@"


def stat_cache_path(project: Project) -> Path:
    return project.artifacts / ".stat-cache.json"


def project_cache_path(models_file: Path) -> Path:
    return models_file.parent / "artifacts" / ".project-cache"


def index_path(project: Project) -> Path:
    return project.artifacts / ".index.json"


def passed_checks_path(artifacts: Path) -> Path:
    """Which toolchains have passed the checks before a compile."""
    return artifacts / ".passed-checks.json"


def store_beside(artifacts: Path) -> Path:
    """The directory of the store: in `artifacts`, or what `AOTI_BUILD_STORE` names, so that
    checkouts share it.

    Raises `UsageError` if that names a store that is not a directory, such as ``s3://bucket``.
    """
    address = os.environ.get("AOTI_BUILD_STORE", "")
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", address):
        raise UsageError(
            f"AOTI_BUILD_STORE={address} is not a directory",
            cause="only directories can be stores",
            hint="set AOTI_BUILD_STORE to an absolute path, or unset it to use artifacts/.store",
        )
    return directories.path_in_variable("AOTI_BUILD_STORE") or artifacts / ".store"


def outside_logs() -> Path:
    """Where logs go that have no place in a project: the user's log directory; without a fit one, a
    fresh one for this process, since no work should fail for want of a log."""
    try:
        return directories.log_directory()
    except DirectoryError:
        return _fresh_logs()


@cache
def _fresh_logs() -> Path:
    import tempfile

    return Path(tempfile.mkdtemp(prefix="aoti_build-logs-", dir=directories.temporary_directory()))


def inductor_cache_root() -> Path:
    """Root of the jobs' own inductor caches, private to this user and made if need be. Not in the
    project: the path is compiled into shared libraries, and two checkouts must get the same bytes.
    Raises `DirectoryError`."""
    return directories.build_cache()


def runner_cache() -> Path:
    """Where compiled C++ runners are kept, which are of the toolchain and not of a model. Raises
    `DirectoryError`."""
    return directories.private_below(inductor_cache_root(), "runner")


def _flat(target: Target) -> str:
    # Names have no "@", so no two targets share a file.
    return f"{_component(target.model.name)}@{_component(target.variant)}"


def _component(name: str) -> str:
    if not is_name(name):
        raise UsageError(f"{quoted(name)} is not usable as the name of a directory of artifacts")
    return name
