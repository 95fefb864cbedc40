"""Whether the files of a bundle agree with each other.

A signature says that the files are the signer's. It does not say that they are about the same
artifacts. A release that contradicts itself is refused, whoever signed it.
"""

from __future__ import annotations

import re
import shlex
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from aoti_build.artifact.bundle import layout
from aoti_build.artifact.bundle.opened import OpenBundle
from aoti_build.artifact.bundle.record import ReleasedTarget, ReleaseRecord
from aoti_build.artifact.bundle.signed import ContradictoryRelease, parse_manifest_of
from aoti_build.artifact.manifest import BENCH, MANIFEST, MODEL, VERIFY, Manifest
from aoti_build.artifact.signing.compare import compare_modes
from aoti_build.artifact.signing.files import parents
from aoti_build.artifact.signing.refusals import ASK_SENDER, ListingMismatch, ModeMismatch
from aoti_build.common.digests import digest_bytes
from aoti_build.common.fields import loads
from aoti_build.common.stat_cache import file_size

_OWN_FILES = (MANIFEST, VERIFY, BENCH)
# Permission bits alone: a release has nothing that sets another user or group.
_MODE = re.compile("[0-7]{3}")
_OTHERS_WRITE = 0o022
_ALL_WRITE = 0o002
_UNLISTED_MODE = 0o644
_PASSED = "passed"
_NO_FAILURE = ("PASSED", "WARNED")
# What a document of another shape raises.
_ODD = (TypeError, KeyError, ValueError, AttributeError)


def sums_text(digests: Mapping[str, str]) -> str:
    """The content of `SHA256SUMS` for the digests of files by their paths."""
    lines = [f"{digest}  {path}\n" for path, digest in sorted(digests.items())]
    return "".join(lines)


def require_agreement(
    bundle: OpenBundle, record: ReleaseRecord, digests: Mapping[str, str]
) -> dict[str, Manifest]:
    """The manifests of all targets, after the files of the bundle were found to agree.

    `digests` are those of all files but the signature, by their paths. The files were compared with
    them.

    Raises:
        ContradictoryRelease: two files of the release say different things.
        ModeMismatch: a file has other permissions than `release.json` says, or others can write to
            a directory.
        ArtifactError: a file cannot be read.
    """
    structure = _Structure(bundle, record, digests)
    structure.require_files()
    structure.require_modes()
    structure.require_closed_directories()
    manifests = {}
    for released in record.targets:
        manifests[released.target] = structure.manifest(released)
    structure.require_no_other_artifacts()
    structure.require_evidence()
    return manifests


class _Structure:
    def __init__(
        self, bundle: OpenBundle, record: ReleaseRecord, digests: Mapping[str, str]
    ) -> None:
        self._bundle = bundle
        self._record = record
        self._digests = digests
        self._packages: dict[str, str] = {}
        for released in record.targets:
            path = f"{layout.artifact_path(released.target)}/{MODEL}"
            self._packages[path] = released.package_sha256

    def require_files(self) -> None:
        """`release.json` and `SHA256SUMS` list the files with their digests and sizes."""
        listed = {path: file.sha256 for path, file in self._record.files.items()}
        present = {
            path: digest for path, digest in self._digests.items() if path not in layout.UNLISTED
        }
        if not self._record.targets:
            raise self._contradiction(f"{layout.RELEASE} lists no package")
        for path in sorted({*listed, *present}):
            if listed.get(path) != present.get(path):
                raise self._contradiction(f"{layout.RELEASE} lists another {path}")
        for path, file in self._record.files.items():
            if file_size(self._bundle.opened / path) != file.size:
                raise self._contradiction(f"{layout.RELEASE} lists another size of {path}")
        summed = {path: digest for path, digest in self._digests.items() if path != layout.SUMS}
        if self._read(layout.SUMS) != sums_text(summed).encode():
            raise self._contradiction(f"{layout.SUMS} has not the digests of the files")

    def require_modes(self) -> None:
        # Releases have one mode for all files, and no document has that of these two.
        modes = {layout.RELEASE: _UNLISTED_MODE, layout.SUMS: _UNLISTED_MODE}
        for path, file in self._record.files.items():
            if not _MODE.fullmatch(file.mode):
                raise self._contradiction(f"{layout.RELEASE} has no mode of {path}")
            modes[path] = int(file.mode, 8)
            if modes[path] & _OTHERS_WRITE:
                raise self._contradiction(f"{layout.RELEASE} lets others write to {path}")
        compare_modes(modes, self._bundle.opened)

    def require_closed_directories(self) -> None:
        """Only the owner may write to directories, whose modes no document has.

        An archive from elsewhere may set them. Whoever can write to one can exchange its files
        after they were verified. The directory of the release itself is often made by hand, so its
        group may write there.
        """
        directories = {above for path in self._digests for above in parents(path)}
        for directory in ("", *sorted(directories)):
            forbidden = _OTHERS_WRITE if directory else _ALL_WRITE
            mode = self._mode(directory)
            if mode & forbidden:
                path = self._bundle.path / directory
                raise ModeMismatch(
                    f"others can write to a directory of the release, which has mode {mode:04o}",
                    where=str(path),
                    hint=f"chmod go-w {shlex.quote(str(path))}, and verify the release again",
                )

    def _mode(self, directory: str) -> int:
        try:
            return stat.S_IMODE((self._bundle.opened / directory).stat().st_mode)
        except OSError as error:
            raise self._changed(directory) from error

    def manifest(self, released: ReleasedTarget) -> Manifest:
        """The manifest of a target, which agrees with `release.json` and the files."""
        folder = layout.artifact_path(released.target)
        path = f"{folder}/{MANIFEST}"
        if path not in self._digests:
            raise self._contradiction(f"{released.target} has no {MANIFEST}")
        content = self._read(path)
        manifest = parse_manifest_of(released.target, content, str(self._bundle.path / path))
        for what, found, wanted in (
            ("key", manifest.key, released.key),
            ("graph key", manifest.graph_key, released.graph_key),
            ("package", manifest.files[MODEL].sha256, released.package_sha256),
            ("size", manifest.files[MODEL].size, released.size),
            ("requirements", manifest.requires, released.requires),
        ):
            if found != wanted:
                raise self._contradiction(f"{path} has another {what} than {layout.RELEASE}")
        for name, file in manifest.files.items():
            if self._digests.get(f"{folder}/{name}") != file.sha256:
                raise self._contradiction(f"{path} lists another {name}")
        if not released.verification.passed or manifest.unverified is not None:
            raise self._contradiction(f"{released.target} was never compared with eager mode")
        self._require_own_files(released, manifest)
        return manifest

    def _require_own_files(self, released: ReleasedTarget, manifest: Manifest) -> None:
        """The verdict and the measurement beside a package are those of this package."""
        folder = layout.artifact_path(released.target)
        known = {f"{folder}/{name}" for name in (*manifest.files, *_OWN_FILES)}
        for path in self._digests:
            if path.startswith(f"{folder}/") and path not in known:
                raise self._contradiction(f"{path} belongs to no artifact")
        verdict = f"{folder}/{VERIFY}"
        if verdict in self._digests:
            self._require_fields(verdict, key=released.key, sha256=released.package_sha256)
            if self._json(verdict).get("verdict") != _PASSED:
                raise self._contradiction(f"{verdict} says that the comparison failed")
        bench = f"{folder}/{BENCH}"
        if released.bench not in (None, bench):
            raise self._contradiction(f"{layout.RELEASE} names another measurement than {bench}")
        if (bench in self._digests) != (released.bench is not None):
            raise self._contradiction(f"{layout.RELEASE} and the files differ about {bench}")
        if released.bench is not None:
            self._require_fields(bench, key=released.key, package_sha256=released.package_sha256)

    def _require_fields(self, path: str, **wanted: str) -> None:
        document = self._json(path)
        for name, value in wanted.items():
            if not isinstance(document, dict) or document.get(name) != value:
                raise self._contradiction(f"{path} is about another package")

    def require_no_other_artifacts(self) -> None:
        """Every file below `models` belongs to a target."""
        folders = tuple(f"{layout.artifact_path(each.target)}/" for each in self._record.targets)
        for path in self._digests:
            if path.startswith(f"{layout.MODELS}/") and not path.startswith(folders):
                raise self._contradiction(f"{path} belongs to no artifact")

    def require_evidence(self) -> None:
        """The statements and the bill of materials are about exactly these packages, and about this
        release."""
        provenance = self._json(layout.PROVENANCE)
        self._require_packages(layout.PROVENANCE, _subjects([provenance]))
        results = self._json(layout.TEST_RESULTS)
        self._require_packages(layout.TEST_RESULTS, _subjects(results))
        bill = self._json(layout.SBOM)
        self._require_packages(layout.SBOM, _components(bill))
        record = self._record
        self._require_about(
            layout.PROVENANCE, _built, provenance, (record.version, record.source.commit)
        )
        self._require_about(layout.SBOM, _described, bill, (record.name, record.version))
        for path in _failed(results):
            raise self._contradiction(f"{layout.TEST_RESULTS} says that {path} failed")

    def _require_about(
        self,
        path: str,
        read: Callable[[Any], tuple[object, object]],
        document: Any,
        wanted: tuple[object, object],
    ) -> None:
        """What `read` finds in a document is what `release.json` has."""
        try:
            found = read(document)
        except _ODD as error:
            raise self._contradiction(f"{path} cannot be read: {error!r}") from error
        if found != wanted:
            raise self._contradiction(f"{path} is about another release")

    def _require_packages(self, path: str, found: Iterator[tuple[str, str]]) -> None:
        try:
            packages = dict(found)
        except _ODD as error:
            raise self._contradiction(f"{path} cannot be read: {error!r}") from error
        if packages != self._packages:
            raise self._contradiction(f"{path} is about other packages")

    def _json(self, path: str) -> Any:
        if path not in self._digests:
            raise self._contradiction(f"there is no {path}")
        try:
            return loads(self._read(path))
        except ValueError as error:
            raise self._contradiction(f"{path} is no JSON: {error}") from error

    def _read(self, path: str) -> bytes:
        """The bytes of a file, which may have been exchanged since it was compared."""
        content = self._bundle.read(path)
        if digest_bytes(content) != self._digests.get(path):
            raise self._changed(path)
        return content

    def _changed(self, path: str) -> ListingMismatch:
        return ListingMismatch(
            f"{path!r} was changed while it was verified",
            where=str(self._bundle.path),
            hint="let nothing write to the release, and verify it again",
        )

    def _contradiction(self, cause: str) -> ContradictoryRelease:
        where: Path = self._bundle.path
        return ContradictoryRelease(
            "the release contradicts itself", where=str(where), cause=cause, hint=ASK_SENDER
        )


def _subjects(statements: Any) -> Iterator[tuple[str, str]]:
    """The paths and digests of the packages that in-toto statements are about."""
    for statement in statements:
        for subject in statement["subject"]:
            yield subject["name"], subject["digest"]["sha256"]


def _failed(statements: Any) -> list[str]:
    """The packages of which test results say that they failed."""
    failed = []
    for statement in statements:
        predicate = statement.get("predicate")
        result = predicate.get("result") if isinstance(predicate, dict) else None
        if result not in _NO_FAILURE:
            failed += [name for name, _ in _subjects([statement])]
    return failed


def _built(statement: Any) -> tuple[object, object]:
    """The version and the commit that provenance names. None for a build without a commit."""
    definition = statement["predicate"]["buildDefinition"]
    commit = None
    for dependency in definition["resolvedDependencies"]:
        if "gitCommit" in dependency.get("digest", {}):
            commit = dependency["digest"]["gitCommit"]
    return definition["externalParameters"]["version"], commit


def _described(bill: Any) -> tuple[object, object]:
    """The name and the version of what a bill of materials is about."""
    component = bill["metadata"]["component"]
    return component["name"], component["version"]


def _components(document: Any) -> Iterator[tuple[str, str]]:
    """The paths and digests of the models in a bill of materials."""
    for component in document["components"]:
        if component["type"] != "machine-learning-model":
            continue
        (digest,) = component["hashes"]
        yield f"{layout.artifact_path(component['name'])}/{MODEL}", digest["content"]
