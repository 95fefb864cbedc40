"""The files of a release bundle, written into a staging directory."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from aoti_build import __version__
from aoti_build.artifact.bundle import layout
from aoti_build.artifact.bundle.record import (
    PreviousRelease,
    ReleaseFile,
    ReleaseRecord,
    Source,
    release_json,
)
from aoti_build.artifact.bundle.structure import sums_text
from aoti_build.artifact.manifest import BENCH, MODEL, VERIFY
from aoti_build.artifact.paths import artifact_directory
from aoti_build.commands.release.notes import notes
from aoti_build.commands.release.sbom import sbom
from aoti_build.commands.release.statements import provenance_statement, test_result_statements
from aoti_build.commands.release.target import ReleasedArtifact, released_target
from aoti_build.commands.verify.report import Verdict
from aoti_build.common.digests import all_cores, digest_file
from aoti_build.common.records import write_json
from aoti_build.measurement.record import BenchRecord, read_bench, write_bench
from aoti_build.models_file.project import Project, Target

_FILE_MODE = "644"
# Signs the directory that it is given, and returns the content of the signature.
Signer = Callable[[Path], bytes]


@dataclass(frozen=True)
class Previous:
    """The release before this one, and the sha256 of its `release.json`."""

    record: ReleaseRecord
    sha256: str


@dataclass(frozen=True)
class Origin:
    """What a bundle is named after, and where it comes from.

    Attributes:
        name: of the project.
        version: of the release.
        seconds: the time of the release, since 1970 in UTC.
        created: the same in ISO 8601.
        source: the state of the repository.
        previous: the release before this one.
    """

    name: str
    version: str
    seconds: int
    created: str
    source: Source
    previous: Previous | None = None


def add_findings(
    project: Project, target: Target, verdict: Verdict, key: str, staged: Path
) -> BenchRecord | None:
    """Write the verdict beside the copy of an artifact, and its measurement if there is one.

    The verdict says nothing of how long the comparison took. Otherwise two releases of the same
    artifacts would differ. A measurement of another package is left out.
    """
    folder = layout.artifact_path(target.name)
    shown = replace(verdict, seconds=0.0, path=f"{folder}/{MODEL}")
    document = {
        "format": "aoti-build/verdict",
        "format_version": 2,
        "key": key,
        **shown.as_json(),
    }
    write_json(staged / folder / VERIFY, document, sync=False)
    bench = read_bench(artifact_directory(project, target) / BENCH)
    if bench is None or verdict.package is None:
        return None
    if (bench.key, bench.package_sha256) != (key, verdict.package.sha256):
        return None
    write_bench(staged / folder / BENCH, bench)
    return bench


def write_evidence(
    staged: Path,
    artifacts: Sequence[ReleasedArtifact],
    origin: Origin,
    page: bytes | None,
) -> ReleaseRecord:
    """Write all files of the bundle but the artifacts and the signature, `release.json` last but
    one.

    `page` is the content of `report.html`. Raises OSError.
    """
    ordered = sorted(artifacts, key=lambda artifact: artifact.name)
    created = origin.created
    _write_json(
        staged / layout.PROVENANCE,
        provenance_statement(ordered, origin.source, origin.version, created),
    )
    _write_json(staged / layout.TEST_RESULTS, test_result_statements(ordered))
    _write_json(staged / layout.SBOM, sbom(ordered, origin.name, origin.version, created))
    if page is not None:
        (staged / layout.REPORT).write_bytes(page)
    previous = origin.previous
    record = ReleaseRecord(
        name=origin.name,
        version=origin.version,
        created=created,
        aoti_build=__version__,
        source=origin.source,
        targets=tuple(released_target(artifact, created) for artifact in ordered),
        files={},
        previous=PreviousRelease(previous.record.version, previous.sha256) if previous else None,
    )
    text = notes(record, previous.record if previous else None)
    (staged / layout.NOTES).write_text(text, encoding="utf-8")
    record = _with_files(record, staged)
    _write_json(staged / layout.RELEASE, release_json(record))
    _write_sums(staged, record)
    return record


def _with_files(record: ReleaseRecord, staged: Path) -> ReleaseRecord:
    paths = _files(staged)
    with all_cores() as pool:
        digests = list(pool.map(digest_file, [staged / path for path in paths]))
    files = {}
    for path, digest in zip(paths, digests, strict=True):
        size = (staged / path).stat().st_size
        files[path] = ReleaseFile(sha256=digest, size=size, mode=_FILE_MODE)
    return msgspec.structs.replace(record, files=files)


def _files(staged: Path) -> list[str]:
    """The paths of all files, from the bundle on, in the order of their names."""
    files = [path for path in staged.rglob("*") if path.is_file()]
    return sorted(path.relative_to(staged).as_posix() for path in files)


def _write_sums(staged: Path, record: ReleaseRecord) -> None:
    digests = {path: file.sha256 for path, file in record.files.items()}
    digests[layout.RELEASE] = digest_file(staged / layout.RELEASE)
    # Names of models and variants have no character that sha256sum would want to be escaped.
    (staged / layout.SUMS).write_text(sums_text(digests), encoding="utf-8")


def bundle_size(directory: Path) -> int:
    """The bytes of all files of a bundle. Raises OSError."""
    return sum((directory / path).stat().st_size for path in _files(directory))


def write_signature(staged: Path, sign: Signer) -> None:
    """Sign all files of the bundle. Raises as the signer does, and OSError."""
    # A signature may cover the modes, so files have the final ones before it is made.
    for path in staged.rglob("*"):
        os.chmod(path, (0o777 if path.is_dir() else 0o666) & ~layout.UMASK)
    (staged / layout.SIGNATURE).write_bytes(sign(staged))


def _write_json(path: Path, document: object) -> None:
    path.parent.mkdir(exist_ok=True)
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")
