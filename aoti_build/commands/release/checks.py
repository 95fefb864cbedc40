"""What is checked before a release is built: its directory, its version, and the checkout."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

from aoti_build.artifact.bundle import layout
from aoti_build.artifact.bundle.checkout import (
    Checkout,
    read_checkout,
    repository_name,
    unknown_files,
)
from aoti_build.artifact.bundle.record import Source, read_release
from aoti_build.artifact.bundle.versions import read_version
from aoti_build.artifact.manifest import Manifest
from aoti_build.commands.conclusion import names_text
from aoti_build.commands.release.bundle import Origin, Previous
from aoti_build.common.fields import is_digest
from aoti_build.errors import ArtifactError, UsageError
from aoti_build.models_file.project import Project

# https://reproducible-builds.org/specs/source-date-epoch/
EPOCH = "SOURCE_DATE_EPOCH"
_ALLOW = "or release it all the same with --allow-dirty"
_LAST_SECOND = 253402300799  # of the year 9999


def new_path(project: Project, option: str, text: str) -> Path:
    """The absolute path of what an option names. Raises `UsageError` if it is there already, or
    lies among the artifacts."""
    path = Path(os.path.abspath(text))
    if os.path.lexists(path):
        raise UsageError(
            f"{text} is there already, and a release replaces nothing",
            hint=f"remove it, or give another name: {option}",
        )
    resolved = path.resolve()
    if project.artifacts.resolve() in (resolved, *resolved.parents):
        raise UsageError(
            f"{text} is among the artifacts, which it would be taken for",
            hint="name a place outside of artifacts/",
        )
    return path


def read_previous(text: str) -> Previous | None:
    """The release in a directory, or in its `release.json`; None without a text.

    Raises:
        UsageError: there is no such file.
        ArtifactError: it is no record of a release.
    """
    if not text:
        return None
    try:
        return Previous(*read_release(Path(text)))
    except OSError as error:
        raise UsageError(
            f"--previous {text} has no {layout.RELEASE} that can be read",
            cause=error.strerror or str(error),
            hint="name the directory of the release before this one, or omit --previous",
        ) from error
    except ArtifactError as error:
        error.hint = "name the release before this one: `invoke release --previous DIR`, or omit it"
        raise


def require_newer(version: str, previous: Previous | None) -> None:
    """Raise `UsageError` unless `version` is one, and comes after that of the release before."""
    wanted = read_version(version)
    if previous is None:
        return
    before = previous.record.version
    try:
        earlier = read_version(before)
    except UsageError as error:
        raise UsageError(
            f"the version of --previous, {before[:64]!r}, has no order",
            cause=error.cause,
            hint="name another earlier release with --previous, or omit it",
        ) from error
    if wanted <= earlier:
        raise UsageError(
            f"version {version} does not come after {before}, the version of --previous",
            hint="give a later version, or name an earlier release with --previous",
        )


def origin_of(
    project: Project, version: str, previous: Previous | None, *, allow_dirty: bool
) -> Origin:
    """Where the release comes from.

    Its time is that of SOURCE_DATE_EPOCH, else that of the commit, else the present one.

    Raises:
        UsageError: without `allow_dirty`, if the project is in no checkout, or files that git knows
            were changed.
    """
    checkout = read_checkout(project.root, project.main_artifacts)
    if not allow_dirty:
        _require_clean(checkout)
    seconds = _release_time(checkout)
    moment = datetime.fromtimestamp(seconds, timezone.utc)
    source = Source(commit=None, dirty=False)
    if checkout is not None:
        source = Source(checkout.commit, bool(checkout.changed), checkout.repository)
    return Origin(
        name=repository_name(source.repository, project.root),
        version=version,
        seconds=seconds,
        created=moment.strftime("%Y-%m-%dT%H:%M:%SZ"),
        source=source,
        previous=previous,
    )


def checked_source(
    project: Project, origin: Origin, manifests: Sequence[Manifest], *, allow_dirty: bool
) -> Origin:
    """The origin after the build, which may be dirty by now.

    Raises `UsageError`, without `allow_dirty`, if the commit does not have the files that the
    artifacts were built from: another commit was checked out meanwhile, files were changed, or git
    does not know a file.
    """
    source = origin.source
    if source.commit is None:
        return origin
    checkout = read_checkout(project.root, project.main_artifacts)
    if checkout is None or checkout.commit != source.commit:
        raise UsageError(
            "another commit was checked out while the release was built",
            hint="run `invoke release` again",
        )
    foreign = unknown_files(project.root, _source_files(manifests))
    if foreign and not allow_dirty:
        raise UsageError(
            f"git does not know files that the models are built from: {names_text(foreign)}",
            hint=f"commit them, {_ALLOW}",
        )
    if not allow_dirty:
        _require_clean(checkout)
    is_dirty = bool(checkout.changed or foreign)
    source = Source(source.commit, source.dirty or is_dirty, source.repository)
    return replace(origin, source=source)


def _require_clean(checkout: Checkout | None) -> None:
    if checkout is None:
        raise UsageError(
            "the project is in no git checkout, so the release could not say what it was built"
            " from",
            cause="`git rev-parse HEAD` names no commit there",
            hint=f"commit the project to git, {_ALLOW}",
        )
    if checkout.changed:
        raise UsageError(
            f"files differ from the commit: {names_text(checkout.changed)}",
            hint=f"commit them, {_ALLOW}",
        )


def _source_files(manifests: Sequence[Manifest]) -> list[str]:
    """The files of the project among the sources of artifacts. Listings of directories and files
    that are absent have no digest of a file."""
    names = set()
    for manifest in manifests:
        for name, digest in manifest.source["sources"].items():
            is_file = not name.startswith(("/", "../")) and not name.endswith("/")
            if is_file and "//" not in name and isinstance(digest, str) and is_digest(digest):
                names.add(name)
    return sorted(names)


def _release_time(checkout: Checkout | None) -> int:
    text = os.environ.get(EPOCH, "")
    if text:
        is_number = text.isascii() and text.isdecimal() and len(text) <= len(str(_LAST_SECOND))
        if not is_number or int(text) > _LAST_SECOND:
            raise UsageError(
                f"{EPOCH}={text[:40]} is no time",
                hint="set it to seconds since 1970, as `git log -1 --format=%ct` prints them",
            )
        return int(text)
    if checkout is not None:
        return checkout.committed_at
    return int(time.time())
