"""The types of `release.json`, which says what a release has and where it comes from.

Sizes are in bytes, times are UTC in ISO 8601, and digests are sha256 in hexadecimal digits.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from aoti_build.artifact.bundle import layout
from aoti_build.artifact.signing.names import name_fault
from aoti_build.common.digests import digest_bytes
from aoti_build.common.fields import is_name, loads
from aoti_build.common.json_object import JsonObject
from aoti_build.common.reading import RECORD_LIMIT, read_bytes
from aoti_build.errors import ArtifactError
from aoti_build.figures import Part

FORMAT = "aoti-build/release"
# Goes up with each change of the types below.
FORMAT_VERSION = 1


class ReleaseFile(Part, frozen=True):
    """A file of the release. `mode` has the permission bits in octal digits, such as ``644``."""

    sha256: str
    size: int
    mode: str


class Source(Part, frozen=True):
    """The state of the project's repository.

    Attributes:
        commit: of git. None if the project is in no checkout.
        dirty: whether files that git knows were changed.
        repository: the address of the remote that the branch follows, without credentials.
    """

    commit: str | None
    dirty: bool
    repository: str | None = None


class PreviousRelease(Part, frozen=True):
    """The release before this one. `sha256` is that of its `release.json`."""

    version: str
    sha256: str


class Verification(Part, frozen=True):
    """The comparison of an artifact with eager mode that the release made or found.

    Attributes:
        passed: whether every output of every case was within the tolerance.
        cases: how many cases were compared.
        worst_rmse: the largest root mean square error of an output relative to the output's own
            root mean square. None without figures.
        at: when.
    """

    passed: bool
    cases: int
    at: str
    worst_rmse: float | None = None


class Licence(Part, frozen=True):
    """What is known of the licence of a model: an SPDX expression or a name, and who says so."""

    expression: str
    source: str


class ReleasedTarget(Part, frozen=True):
    """One artifact of the release.

    Attributes:
        target: its name.
        key: of the artifact.
        graph_key: of its compiled code.
        package_sha256: the digest of its package.
        size: bytes of its package.
        requires: what a host must have, as the manifest has it.
        key_parts: the digest of each group of parts of the source key: spec, config, sources,
            weights and so on. Two releases differ in a target for these reasons.
        toolchain: versions of what compiled it.
        verification: the comparison with eager mode.
        bench: the path of its `bench.json`. None if it was not measured.
        licences: what is known of them.
    """

    target: str
    key: str
    graph_key: str
    package_sha256: str
    size: int
    requires: Mapping[str, object]
    key_parts: Mapping[str, str]
    toolchain: Mapping[str, str]
    verification: Verification
    bench: str | None = None
    licences: tuple[Licence, ...] = ()


class ReleaseRecord(Part, frozen=True):
    """The content of `release.json`.

    Attributes:
        name: of the project.
        version: of the release.
        created: when.
        aoti_build: the version that wrote it.
        source: the state of the repository.
        targets: the artifacts by their names, in alphabetical order.
        files: all files by their paths, but those in `layout.UNLISTED`.
        previous: the release that the notes compare with.
    """

    name: str
    version: str
    created: str
    aoti_build: str
    source: Source
    targets: tuple[ReleasedTarget, ...]
    files: Mapping[str, ReleaseFile]
    previous: PreviousRelease | None = None


def release_json(record: ReleaseRecord) -> JsonObject:
    """The JSON document of a record."""
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        **msgspec.to_builtins(record),
    }


def parse_release(content: bytes, where: str) -> ReleaseRecord:
    """The record in the content of a `release.json`.

    Raises ArtifactError with `where` as its place, unless the content is a record of this version
    and nothing else.
    """
    try:
        document = loads(content)
    except ValueError as error:
        raise _unreadable(where, f"it is no JSON: {error}") from error
    if not isinstance(document, dict) or document.pop("format", None) != FORMAT:
        raise _unreadable(where, f"its format is not {FORMAT}")
    version = document.pop("format_version", None)
    # JSON's true and 1.0 equal 1 in Python, so the type is compared too.
    if type(version) is not int or version != FORMAT_VERSION:
        shown = str(version)[:40]
        cause = f"it has format version {shown}, and this release reads {FORMAT_VERSION}"
        raise _unreadable(where, cause)
    try:
        record = msgspec.convert(document, ReleaseRecord)
    except ValueError as error:  # not all are a ValidationError: half a surrogate pair, for a table
        raise _unreadable(where, str(error)) from error
    _require_names(record, where)
    return record


def _require_names(record: ReleaseRecord, where: str) -> None:
    """Raise `ArtifactError` for names of files and targets that could not be in a release."""
    for path in record.files:
        fault = name_fault(path)
        # Other tools obey such files: git, direnv and editors.
        if not fault and (path.startswith(".") or "/." in path):
            fault = "is hidden"
        if fault:
            raise _unreadable(where, f"the name {path[:200]!a} of a file {fault}")
    for released in record.targets:
        model, _, variant = released.target.partition("/")
        if not is_name(model) or not is_name(variant):
            raise _unreadable(where, f"{released.target[:200]!a} is not the name of a target")


def read_release(path: Path, where: str | None = None) -> tuple[ReleaseRecord, str]:
    """The record in a bundle, or in its `release.json` alone, and the sha256 of that file.

    `where` is the place in errors, if the path says nothing to the user.

    Raises:
        OSError: there is no such file, or it cannot be read.
        ArtifactError: it is no record of a release.
    """
    if path.is_dir():
        path /= layout.RELEASE
    content = read_bytes(path, RECORD_LIMIT)
    return parse_release(content, where or str(path)), digest_bytes(content)


def _unreadable(where: str, cause: str) -> ArtifactError:
    return ArtifactError(
        "the record of the release cannot be read",
        where=where,
        cause=cause,
        hint="get the release again from where it was published",
    )
