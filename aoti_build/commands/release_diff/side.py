"""One of the two releases that `release-diff` compares, and the files in it.

No file is used whose sha256 is not the one in `release.json`. That shows damage, not who made the
release. The signature is not verified here, but by `opened` before packages are run.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from aoti_build.artifact.bundle import layout
from aoti_build.artifact.bundle.record import ReleaseRecord, read_release
from aoti_build.artifact.manifest import (
    BENCH,
    LOG,
    MANIFEST,
    REFERENCE_DATA,
    VERIFY,
    Manifest,
    NoManifest,
    read_record,
)
from aoti_build.common.archives import GZIP, ZSTD
from aoti_build.common.digests import digest_file
from aoti_build.common.reading import RECORD_LIMIT, read_bytes, require_regular
from aoti_build.errors import ArtifactError, UsageError
from aoti_build.measurement.record import BenchRecord, read_bench

# The files of an artifact that a release has as evidence. The others are what is loaded.
_EVIDENCE = {MANIFEST, REFERENCE_DATA, VERIFY, LOG, BENCH}
_UNPACK = "unpack it first: mkdir DIR && tar -xf {name} -C DIR --strip-components=1"
_NAME_IT = "name the directory of a release, or its release.json"


class Library(msgspec.Struct, frozen=True):
    """A component of the bill of materials. Its other fields are not compared."""

    type: str
    name: str
    version: str = ""
    licenses: tuple[dict[str, object], ...] = ()


class _Bill(msgspec.Struct, frozen=True):
    components: tuple[Library, ...]


@dataclass(frozen=True)
class Side:
    """A release. `name` is as the user gave it.

    `directory` is None if only the `release.json` was named. Then no other file is read. `signer`
    is the name of the trusted key whose signature was verified, and None if none was.
    """

    name: str
    record: ReleaseRecord
    sha256: str
    directory: Path | None
    signer: str | None = None

    def file(self, path: str) -> Path | None:
        """A file of the release, after its digest was compared; None if the release has none.

        Raises `ArtifactError` if it is missing or damaged.
        """
        recorded = self.record.files.get(path)
        if self.directory is None or recorded is None:
            return None
        file = self.directory / path
        try:
            require_regular(file)
            is_same = digest_file(file) == recorded.sha256
        except OSError as error:
            raise _damaged(file, error.strerror or str(error)) from error
        if not is_same:
            raise _damaged(file, f"its sha256 is not the one in {layout.RELEASE}")
        return file

    def manifest(self, target: str) -> Manifest | None:
        """The manifest of a target; None if it cannot be had, or has a format of another time."""
        file = self.file(f"{layout.artifact_path(target)}/{MANIFEST}")
        manifest = read_record(file) if file is not None else None
        return None if isinstance(manifest, NoManifest) else manifest

    def reference_data(self, target: str) -> Path | None:
        """The reference data of a target; None if the release has none."""
        return self.file(f"{layout.artifact_path(target)}/{REFERENCE_DATA}")

    def bench(self, target: str) -> BenchRecord | None:
        """The measurement of a target; None if there is none that this program reads."""
        file = self.file(f"{layout.artifact_path(target)}/{BENCH}")
        return read_bench(file) if file is not None else None

    def libraries(self) -> tuple[Library, ...] | None:
        """The libraries in the bill of materials; None if the release has none that can be read."""
        file = self.file(layout.SBOM)
        if file is None:
            return None
        try:
            bill = msgspec.json.decode(read_bytes(file, RECORD_LIMIT), type=_Bill)
        except (OSError, ValueError, RecursionError):
            return None
        return tuple(entry for entry in bill.components if entry.type == "library")

    def package_size(self, target: str) -> int:
        """The bytes of a package. Weights that lie beside it count as well."""
        folder = f"{layout.artifact_path(target)}/"
        total = 0
        for path, file in self.record.files.items():
            is_own = path.startswith(folder)
            if is_own and path.removeprefix(folder) not in _EVIDENCE:
                total += file.size
        return total

    @property
    def size(self) -> int:
        """The bytes of all files that the record lists."""
        return sum(file.size for file in self.record.files.values())


def read_side(text: str) -> Side:
    """The release in a directory, or the record in a `release.json`.

    Raises:
        UsageError: there is no such release, or it is an archive.
        ArtifactError: it is no record of a release.
    """
    path = Path(text)
    if path.name.endswith((GZIP, ZSTD)) and path.is_file():
        raise UsageError(
            f"{text} is an archive, and only a directory can be compared",
            hint=_UNPACK.format(name=text),
        )
    try:
        record, sha256 = read_release(path)
    except OSError as error:
        raise UsageError(
            f"{text} has no {layout.RELEASE} that can be read",
            cause=error.strerror or str(error),
            hint=_NAME_IT,
        ) from error
    return Side(text, record, sha256, path if path.is_dir() else None)


def _damaged(file: Path, cause: str) -> ArtifactError:
    return ArtifactError(
        "the release is damaged",
        where=str(file),
        cause=cause,
        hint="get the release again from where it was published, then run `invoke release-diff`"
        " again",
    )
